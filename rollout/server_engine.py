"""`Engine` over vLLM servers: least loaded first, faults mended by the others, weights through a shared folder.

submit -> a task in the engine's own event loop -> poll. A heartbeat asks every server which weights it has: one that is
gone or hangs loses its requests to the others, one that came back gets the newest weights before it serves again.
"""

from __future__ import annotations

import asyncio
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from rollout.server import RequestRefused, Server, ServerFault
from rollout.types import Completion, Sampling

if TYPE_CHECKING:
    import torch


class NoServerError(RuntimeError):
    """No rollout server could be used for longer than the run may wait."""


class ServerEngine:
    """`Engine` over any number of `sawtooth serve-rollouts`.

    Args:
        urls: their addresses.
        weights_dir: a folder that this process and all servers see; takes the newest two versions.
        model_path: the checkpoint that servers load first; its config and tokenizer go with the weights.
        writer: True in the one process that writes the weights; the others of the run are told of them (`adopt`).
        request_timeout: seconds for one completion.
        tries: most servers that one request is given to; then its episode is FAILED.
        heartbeat: seconds between two looks at a server; heartbeat_timeout: for its answer.
        patience: seconds without any server before the run stops.
        log: gets a line when a server goes or comes.
    """

    def __init__(
        self,
        urls: list[str],
        weights_dir: str | Path,
        *,
        model_path: str,
        writer: bool = True,
        request_timeout: float = 600.0,
        tries: int = 4,
        heartbeat: float = 2.0,
        heartbeat_timeout: float = 30.0,
        patience: float = 900.0,
        log: Callable[[str], Any] = print,
    ):
        if not urls:
            raise ValueError("rollout.settings.urls is empty: name at least one server, as http://127.0.0.1:8000")
        self.weights_dir, self.model_path, self.writer = Path(weights_dir).resolve(), Path(model_path), writer
        self.request_timeout, self.tries, self.patience = request_timeout, tries, patience
        self.heartbeat, self.heartbeat_timeout, self.log = heartbeat, heartbeat_timeout, log
        self.max_model_len: int | None = None
        self.faults = 0  # requests that had to be given to a server again
        self._run = uuid.uuid4().hex[:8]
        self._syncs = 0
        self._wanted = str(self.model_path.resolve())  # folder of the weights that a server must have
        self._done: queue.Queue[Completion | BaseException] = queue.Queue()
        self._waiting = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="rollout-servers")
        self._thread.start()
        self._call(self._open([url.rstrip("/") for url in urls]))

    # What the episode loop and the trainer call, in their own thread.

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        self._waiting += 1
        asyncio.run_coroutine_threadsafe(self._serve(request_id, list(prompt_ids), sampling), self._loop)

    def poll(self) -> list[Completion]:
        results: list[Completion] = []
        while self._waiting and (not results or not self._done.empty()):
            item = self._done.get()
            self._waiting -= 1
            if isinstance(item, BaseException):
                raise item
            results.append(item)
        return results

    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
        """Writes the weights to the shared folder and has every server that is up load them.

        Every process of the run calls it, as ZeRO-3 gathers the weights while they are read. The writer's result, the
        folder, then goes to `adopt` in all the others.
        """
        from safetensors.torch import save_file

        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in named_tensors if self.writer}
        if not self.writer:
            return None
        self._syncs += 1
        folder = self.weights_dir / f"{self._run}-{self._syncs:06d}"
        part = folder.with_suffix(".part")
        part.mkdir(parents=True)
        save_file(_unshared(weights), part / "model.safetensors", metadata={"format": "pt"})
        for path in self.model_path.glob("*.json"):
            if not path.name.startswith(("model.safetensors", "training_")):
                shutil.copy(path, part)
        part.rename(folder)
        self.adopt(str(folder))
        for old in sorted(self.weights_dir.glob(f"{self._run}-*"))[:-2]:
            shutil.rmtree(old)
        return str(folder)

    def adopt(self, folder: str) -> None:
        """From here on requests go only to servers with the weights in `folder`."""
        if folder != self._wanted:
            self._call(self._spread(folder))

    def close(self) -> None:
        """Ends the connections; the servers go on."""
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # The event loop's side.

    async def _open(self, urls: list[str]) -> None:
        # An idle connection ends here before vLLM's server ends it (after 5 s): a request never meets a closed one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        self._session = aiohttp.ClientSession(connector=connector)
        self._servers = [Server(url, self._session) for url in urls]
        self._alone_since: float | None = None
        self._watchers = [asyncio.create_task(self._watch(server)) for server in self._servers]
        await self._wait_for_server()

    async def _shut(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await self._session.close()

    async def _serve(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        try:
            self._done.put(await self._complete(request_id, prompt_ids, sampling))
        except BaseException as error:  # it must reach poll(), whatever it is: the loop waits for this request
            self._done.put(error)

    async def _complete(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> Completion:
        room = (self.max_model_len or 1 << 30) - len(prompt_ids)
        if room < 1:
            message = f"a prompt of {len(prompt_ids)} tokens leaves no room in max_model_len={self.max_model_len}"
            return Completion(request_id, [], None, "error", message)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        reasons: list[str] = []
        while len(reasons) < self.tries:
            server = await self._wait_for_server()
            server.load += 1
            request = asyncio.create_task(server.complete(request_id, prompt_ids, sampling, self.request_timeout))
            lost = asyncio.create_task(server.lost.wait())
            try:
                await asyncio.wait({request, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not request.done():
                    raise ServerFault(server.why)
                completion = request.result()
                server.faults = 0
                return completion
            except RequestRefused as error:
                return Completion(request_id, [], None, "error", f"refused by the server: {error}")
            except ServerFault as error:
                reasons.append(f"{server.url}: {error}")
                self.faults += 1
                self._rest(server, str(error))
            finally:
                server.load -= 1
                request.cancel()
                lost.cancel()
        return Completion(request_id, [], None, "error", f"given up after {self.tries} tries: {'; '.join(reasons)}")

    async def _wait_for_server(self) -> Server:
        """The usable server with the least load; waits for one up to `patience` seconds."""
        while True:
            usable = [server for server in self._servers if server.usable]
            if usable:
                self._alone_since = None
                return min(usable, key=lambda server: server.load)
            now = time.monotonic()
            if self._alone_since is None:
                self._alone_since = now
            elif now - self._alone_since > self.patience:
                states = "; ".join(f"{server.url}: {server.why}" for server in self._servers)
                raise NoServerError(f"no rollout server for {self.patience:g} s ({states}). Start them, then go on")
            await asyncio.sleep(min(0.2, self.heartbeat))

    def _rest(self, server: Server, why: str) -> None:
        """Leaves a faulty server alone for a while: 1 s, twice as long at each further fault, at most a minute."""
        if time.monotonic() < server.rest_until:
            return  # one fault, seen by many requests
        server.faults += 1
        seconds = min(60.0, 2.0 ** (server.faults - 1))
        server.rest_until = time.monotonic() + seconds
        self.log(f"rollout server {server.url}: {why}; its requests go elsewhere, tried again in {seconds:g} s")

    async def _watch(self, server: Server) -> None:
        while True:
            try:
                async with server.loading:
                    await self._bring_up_to_date(server)
                if self.max_model_len is None:
                    self.max_model_len = await server.max_model_len(self.heartbeat_timeout)
                self._is_up(server)
            except (ServerFault, RequestRefused) as error:
                server.why = str(error)
                if server.up:
                    server.up = False
                    self.log(f"rollout server {server.url}: down ({error}); its requests go to the others")
                server.lost.set()
            await asyncio.sleep(self.heartbeat)

    def _is_up(self, server: Server) -> None:
        """Whoever finds it well, heartbeat or sync: requests given to it from now on are no longer lost."""
        if server.why:  # it was down, or has just been met
            self.log(f"rollout server {server.url}: up")
        if server.lost.is_set():
            server.lost = asyncio.Event()
        server.up, server.why = True, ""

    async def _bring_up_to_date(self, server: Server) -> None:
        """Only the writer changes weights: a rank that has not heard of the newest would bring the old ones back."""
        while await server.policy(self.heartbeat_timeout) != self._wanted:
            server.up = False
            if not self.writer:
                raise ServerFault("it does not have the newest weights yet")
            await server.load_policy(self._wanted, self.request_timeout)

    async def _spread(self, folder: str) -> None:
        """Has all servers load `folder` at once. One that can't is down until its heartbeat mends it."""
        self._wanted = folder

        async def load(server: Server) -> None:
            try:
                async with server.loading:
                    await self._bring_up_to_date(server)
                    self._is_up(server)
            except (ServerFault, RequestRefused) as error:
                server.up, server.why = False, f"could not load the new weights: {error}"
                server.lost.set()
                self.log(f"rollout server {server.url}: {server.why}")

        await asyncio.gather(*(load(server) for server in self._servers if server.up))


def _unshared(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied weights stand once in a safetensors file, under the name that comes first."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor
    return kept
