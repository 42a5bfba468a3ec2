"""`Engine` over vLLM servers: least loaded first, retries on other servers, weights through a shared folder.

submit -> a task in the engine's own event loop -> poll. A heartbeat asks every server which weights it has. Requests of
a server that is down or hangs go to the others; a server that returns gets the newest weights before it serves again.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import InputError
from rollout.remote.inbox import Inbox
from rollout.remote.pool import ServerPool
from rollout.types import Completion, Sampling
from rollout.weights import write_checkpoint

if TYPE_CHECKING:
    import torch


class Channel:
    """An `Engine`: one caller's requests to the servers."""

    def __init__(self, engine: ServerEngine):
        self._engine, self.ends = engine, engine.ends
        self._inbox: Inbox[Completion] = Inbox(engine.loop)

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        stop_ids = tuple(dict.fromkeys((*sampling.stop_ids, *self.ends)))
        sampling = replace(sampling, stop_ids=stop_ids)
        self._inbox.run(self._engine.pool.complete(request_id, list(prompt_ids), sampling))

    def poll(self) -> list[Completion]:
        return self._inbox.poll()


class ServerEngine:
    """`Engine` over any number of `sawtooth serve-rollouts`.

    Args:
        urls: their addresses.
        weights_dir: a folder that this process and all servers can read; keeps the newest two versions.
        model_path: the checkpoint that servers load first; its config and tokenizer are copied with the weights.
        writer: True in the one process that writes the weights; the run's other processes call `adopt`.
        request_timeout: seconds for one completion.
        tries: maximum attempts of one request; then its episode is FAILED.
        heartbeat: seconds between two checks of a server; heartbeat_timeout: for its answer.
        patience: seconds without any server before the run stops.
        log: receives a line when a server goes down or comes up.
        ends: tokens that end a turn, in addition to the eos that the servers know.
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
        ends: Sequence[int] = (),
    ):
        if not urls:
            raise InputError("rollout.settings.urls is empty: name at least one server, e.g. http://127.0.0.1:8000")
        self.weights_dir, self.model_path, self.writer = Path(weights_dir).resolve(), Path(model_path), writer
        self.ends = tuple(ends)
        self._run = uuid.uuid4().hex[:8]
        self._syncs = 0
        self.pool = ServerPool(
            str(self.model_path.resolve()),
            writer=writer,
            request_timeout=request_timeout,
            tries=tries,
            heartbeat=heartbeat,
            heartbeat_timeout=heartbeat_timeout,
            patience=patience,
            log=log,
        )
        self.loop = asyncio.new_event_loop()
        self._own = Channel(self)
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="rollout-servers")
        self._thread.start()
        self._call(self.pool.open([url.rstrip("/") for url in urls]))

    @property
    def max_model_len(self) -> int | None:
        """The servers' maximum length of prompt plus completion, in tokens."""
        return self.pool.max_model_len

    @property
    def faults(self) -> int:
        """Requests that had to be retried."""
        return self.pool.faults

    # Called by the episode loop and the trainer, in their own threads.

    def channel(self) -> Channel:
        """Returns a separate queue of requests and results for another caller, so that batches can run concurrently."""
        return Channel(self)

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        self._own.submit(request_id, prompt_ids, sampling)

    def poll(self) -> list[Completion]:
        return self._own.poll()

    def announce(self, step: int) -> None:
        """Announces the weights of optimizer step `step`. No request starts before they are adopted (`adopt`).

        Every process of the run calls it before the writer's `sync_weights`, so that completions that end in between
        are known to be from the old weights, the new ones, or both.
        """
        self._call(self.pool.hold(step))

    def sync_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
        """Writes the weights to the shared folder and makes every server that is up load them.

        Every process of the run calls it, because ZeRO-3 gathers the weights while they are read. The others then pass
        the writer's result, the folder, to `adopt`.
        """
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in named_tensors if self.writer}
        if not self.writer:
            return None
        self._syncs += 1
        folder = self.weights_dir / f"{self._run}-{self._syncs:06d}"
        write_checkpoint(weights, folder, self.model_path)
        self.adopt(str(folder))
        for old in sorted(self.weights_dir.glob(f"{self._run}-*"))[:-2]:
            shutil.rmtree(old)
        return str(folder)

    def adopt(self, folder: str) -> None:
        """Restricts later requests to servers with the weights in `folder`."""
        if folder != self.pool.wanted:
            self._call(self.pool.spread(folder))

    def close(self) -> None:
        """Closes the connections; the servers keep running."""
        self._call(self.pool.shut())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()
