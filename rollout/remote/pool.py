"""All rollout servers as one rank sees them: heartbeats, request routing, faults, and each server's weights.

Everything here runs in the engine's own event loop (`ServerEngine`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp

from rollout.errors import NoServerError
from rollout.remote.client import NoAnswer, OtherWeights, RequestRefused, Server, ServerFault
from rollout.types import Completion, Sampling

_MOST_SILENT = 3  # consecutive timeouts after which a server's requests go elsewhere


class ServerPool:
    """Servers that share the requests. The other arguments are those of `ServerEngine`.

    Args:
        wanted: folder of the weights that a server must have.
    """

    def __init__(
        self,
        wanted: str,
        *,
        writer: bool,
        request_timeout: float,
        tries: int,
        heartbeat: float,
        heartbeat_timeout: float,
        patience: float,
        log: Callable[[str], Any],
    ):
        self.request_timeout, self.tries, self.patience, self.writer = request_timeout, tries, patience, writer
        self.heartbeat, self.heartbeat_timeout, self.log = heartbeat, heartbeat_timeout, log
        self.max_model_len: int | None = None
        self.faults = 0  # requests that had to be retried
        self.servers: list[Server] = []
        self.wanted = wanted
        self._step: int | None = None  # optimizer step of these weights
        self._coming: int | None = None  # step of the weights that are announced but not adopted yet

    async def open(self, urls: list[str]) -> None:
        # Idle connections close here before vLLM's server closes them (after 5 s), so no request uses a closed one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0)
        self._session = aiohttp.ClientSession(connector=connector)
        self.servers = [Server(url, self._session) for url in urls]
        self._alone_since: float | None = None
        self._watchers = [asyncio.create_task(self._watch(server)) for server in self.servers]
        await self._wait_for_server()

    async def shut(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}  # the heartbeats, and requests that nobody awaits
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._session.close()

    async def complete(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> Completion:
        room = (self.max_model_len or 1 << 30) - len(prompt_ids)
        if room < 1:
            message = f"a prompt of {len(prompt_ids)} tokens leaves no room in max_model_len={self.max_model_len}"
            return Completion(request_id, [], None, "error", message)
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        reasons: list[str] = []
        while len(reasons) < self.tries:
            server = await self._wait_for_server()
            server.load += 1
            first = server.policy_step
            request = asyncio.create_task(server.complete(request_id, prompt_ids, sampling, self.request_timeout))
            lost = asyncio.create_task(server.lost.wait())
            try:
                await asyncio.wait({request, lost}, return_when=asyncio.FIRST_COMPLETED)
                if not request.done():
                    raise ServerFault(server.why)
                server.faults = 0
                return replace(request.result(), policy_steps=self._sampled_between(first, server))
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
        return Completion(request_id, [], None, "error", f"gave up after {self.tries} tries: {'; '.join(reasons)}")

    async def _wait_for_server(self) -> Server:
        """Returns the usable server with the least load; waits for one up to `patience` seconds."""
        while True:
            usable = [server for server in self.servers if server.usable]
            if self._coming is not None:
                self._alone_since = None  # requests wait for the new weights, not for a server
            elif usable:
                self._alone_since = None
                return min(usable, key=lambda server: server.load)
            elif self._alone_since is None:
                self._alone_since = time.monotonic()
            elif time.monotonic() - self._alone_since > self.patience:
                states = "; ".join(f"{server.url}: {server.why}" for server in self.servers)
                raise NoServerError(
                    f"no rollout server available for {self.patience:g} s ({states}): start them and run the same "
                    "command again"
                )
            await asyncio.sleep(min(0.2, self.heartbeat))

    def _sampled_between(self, first: int | None, server: Server) -> tuple[int, int] | None:
        """Returns the steps of the oldest and newest weights that may have sampled a request begun at `first`."""
        last = server.policy_step if self._coming is None else self._coming  # the server may already have them
        return None if first is None or last is None else (first, max(first, last))

    def _rest(self, server: Server, why: str) -> None:
        """Backs off from a faulty server: 1 s, doubled at each further fault, at most a minute."""
        if time.monotonic() < server.rest_until:
            return  # one fault, seen by many requests
        server.faults += 1
        seconds = min(60.0, 2.0 ** (server.faults - 1))
        server.rest_until = time.monotonic() + seconds
        self.log(f"rollout server {server.url}: {why}; its requests go to the others, retry in {seconds:g} s")

    async def _watch(self, server: Server) -> None:
        while True:
            try:
                async with server.loading:
                    await self._bring_up_to_date(server)
                if self.max_model_len is None:
                    self.max_model_len = await server.max_model_len(self.heartbeat_timeout)
                self._is_up(server)
            except OtherWeights as error:  # the writer sends it the newest; its running requests continue
                if self._coming is None:
                    server.up, server.why = False, str(error)
            except (ServerFault, RequestRefused) as error:
                if isinstance(error, NoAnswer):
                    server.silent += 1
                    if self._coming is not None or server.silent < _MOST_SILENT:
                        # It loads new weights, or it or this process was busy: a retry would generate twice.
                        server.why = server.why if server.up else str(error)
                        continue
                server.why = str(error)
                if server.up:
                    server.up = False
                    self.log(f"rollout server {server.url}: down ({error}); its requests go to the others")
                server.lost.set()
            await asyncio.sleep(self.heartbeat)

    def _is_up(self, server: Server) -> None:
        """Marks a server as up, after a heartbeat or a sync: new requests to it are no longer lost."""
        if server.why:  # it was down, or is new
            self.log(f"rollout server {server.url}: up")
        if server.lost.is_set():
            server.lost = asyncio.Event()
        server.up, server.why, server.policy_step = True, "", self._step

    async def _bring_up_to_date(self, server: Server) -> None:
        """Loads the wanted weights, in the writer only: a rank that lags behind would restore old ones."""
        while await server.policy(self.heartbeat_timeout) != self.wanted:
            server.up = False
            if not self.writer:
                raise OtherWeights("it does not have the newest weights yet")
            await server.load_policy(self.wanted, self.request_timeout)

    async def spread(self, folder: str) -> None:
        """Makes all servers load `folder` in parallel. One that can't is down until its heartbeat recovers it."""
        self.wanted, self._step = folder, self._coming

        async def load(server: Server) -> None:
            try:
                async with server.loading:
                    await self._bring_up_to_date(server)
                    self._is_up(server)
            except (ServerFault, RequestRefused) as error:
                server.up, server.why = False, f"could not load the new weights: {error}"
                server.lost.set()
                self.log(f"rollout server {server.url}: {server.why}")

        # Skips lost servers: a sync would wait for their timeout. Their heartbeat brings them back.
        await asyncio.gather(*(load(server) for server in self.servers if server.up or not server.lost.is_set()))
        self._coming = None

    async def hold(self, step: int) -> None:
        """Holds new requests until `spread` has loaded the weights of optimizer step `step`."""
        self._coming = step
