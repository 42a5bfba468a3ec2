"""The life of a server: listen, load, serve, drain, end. Whatever ends it, its engine ends too."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn

from rl.serving.app import make_app
from rl.serving.backend import VLLMBackend
from rl.serving.child import VLLMChild
from rl.serving.connection import MOST_HEADERS, ConnectionLimits, with_limits
from rl.serving.errors import ApiError
from rl.serving.model import load_model
from rl.serving.service import Limits, Service
from rl.serving.stream import BackendFault
from rollout.errors import InputError, UserError

_LOOK_EVERY = 0.5  # seconds between two checks of the engine's process
_ENDING = ApiError(503, "the server is shutting down", code="server_draining", retry_after=5)


def serve(
    model: str,
    *,
    url: str | None,
    engine_arguments: list[str],
    name: str | None,
    protocol: str | None,
    host: str,
    port: int,
    api_key: str | None,
    limits: Limits,
    grace: float,
    origins: list[str],
) -> int:
    """Serves until a signal. See `cli` for the arguments.

    Raises:
        InputError: the model or the address is wrong.
        UserError: the engine did not start, or has died.
    """
    listener = _listen(host, port)
    with listener:
        served = load_model(model, name=name, protocol=protocol)
        child = None if url else VLLMChild(model, engine_arguments)
        try:
            backend = VLLMBackend(url or child.url, os.environ.get("VLLM_API_KEY") if url else child.key)
            life = Life(Service(served, backend, limits), child, grace)
            asyncio.run(life.run(listener, api_key, origins))
        finally:
            if child is not None:
                child.stop()
    if life.fault:
        raise UserError(life.fault)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"can't listen on {host}, port {port}: {error}; choose another --host or --port") from error
    return listener


def http_config(app: Any, connection_limits: ConnectionLimits, **settings: Any) -> uvicorn.Config:
    """Returns uvicorn's config for untrusted clients."""
    return uvicorn.Config(
        app,
        http=with_limits(connection_limits),
        ws="none",  # else an upgrade would bypass our limits
        h11_max_incomplete_event_size=MOST_HEADERS,
        log_level="error",
        lifespan="off",
        **settings,
    )


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would stop listening at once, and /health could not report the shutdown."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Life:
    def __init__(self, service: Service, child: VLLMChild | None, grace: float):
        self.service, self.child, self.grace = service, child, grace
        self.fault = ""  # why it ended, if not by a signal
        self._asked = asyncio.Event()  # shutdown requested
        self._hurried = asyncio.Event()  # immediate shutdown requested

    async def run(self, listener: socket.socket, api_key: str | None, origins: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        app = make_app(self.service, api_key, origins)
        connection_limits = ConnectionLimits(reading=min(30.0, self.service.limits.seconds))
        config = http_config(app, connection_limits, timeout_graceful_shutdown=2)
        server = _Server(config)
        host, port = listener.getsockname()[:2]
        _say(f"http://{f'[{host}]' if ':' in host else host}:{port}/v1 (starting)")
        serving = asyncio.create_task(server.serve([listener]))
        keeping = asyncio.create_task(self._keep())
        await asyncio.wait({serving, keeping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        self._asked.set()  # if the server has ended by itself
        await serving
        await keeping
        await self.service.backend.close()

    def _signalled(self) -> None:
        (self._hurried if self._asked.is_set() else self._asked).set()

    async def _keep(self) -> None:
        """Runs from the engine's start to its end, or to a signal."""
        loading = asyncio.create_task(self._load())
        asked = asyncio.create_task(self._asked.wait())
        await asyncio.wait({loading, asked}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not self.fault:
            await self._watch()
        loading.cancel()
        asked.cancel()
        if not self.fault:
            await self._drain()

    async def _load(self) -> None:
        service = self.service
        try:
            if self.child is not None:
                await self.child.ready(service.backend, _say)
            else:
                await service.backend.connect()
        except BackendFault as fault:
            self.fault = str(fault)
            return
        service.phase = "ready"
        protocol = service.model.protocol
        rounds = service.limits.rounds
        _say(f"ready: {service.model.name} ({protocol.name}, up to {rounds} round{'s' * (rounds > 1)})")

    async def _watch(self) -> None:
        """Waits for a signal or the end of the engine's process."""
        while not self._asked.is_set():
            if self.child is not None and not self.child.alive:
                self.service.phase = "dead"
                self.fault = self.child.exit_report()
                self.service.abort(ApiError(502, "the engine has died", code="engine_failed"))
                await self._idle(_LOOK_EVERY)  # running requests get the error before the server ends
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), _LOOK_EVERY)

    async def _drain(self) -> None:
        """Lets running requests finish within the grace period, then aborts them."""
        self.service.phase = "draining"
        admission = self.service.admission
        if admission.running or admission.queued:
            counts = f"{admission.running} episodes running, {admission.queued} requests waiting"
            _say(f"shutting down: {counts}; press Ctrl-C again to stop at once")
        await self._idle(self.grace)
        self.service.abort(_ENDING)
        await self._idle(2.0)

    async def _idle(self, seconds: float) -> None:
        """Waits until nothing runs or waits, for at most `seconds` or until a second signal."""
        deadline = asyncio.get_running_loop().time() + seconds
        admission = self.service.admission
        while (admission.running or admission.queued) and asyncio.get_running_loop().time() < deadline:
            if self._hurried.is_set():
                return
            await asyncio.sleep(0.05)


def _say(line: str) -> None:
    print(f"serve: {line}", file=sys.stderr, flush=True)
