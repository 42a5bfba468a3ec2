"""The vLLM server that we start: its command, its log, and the wait until it answers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rl.serving.backend import VLLMBackend
from rl.serving.stream import BackendFault

_SAID_EVERY = 10.0  # seconds
_TAIL = 25  # lines of its log, when it dies
_NOISE = ("nanobind:", " - ", "See https://nanobind")  # written at exit by a library of vLLM, after the reason


class VLLMChild:
    """A vLLM OpenAI server on a free loopback port, behind `key`. It ends whenever we do (`end_with_parent`).

    Args:
        model: folder or Hub id.
        arguments: further ones for vLLM's server. They come last, so they override ours.
    """

    def __init__(self, model: str, arguments: Sequence[str] = ()):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        handle, path = tempfile.mkstemp(prefix="sawtooth-vllm-", suffix=".log")
        self.log = Path(path)
        wrapper = [sys.executable, "-I", str(Path(__file__).with_name("end_with_parent.py"))]
        # Its own key, but not as an argument: other users of this machine can reach its port and see arguments.
        self.key = secrets.token_urlsafe(32)
        environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "PYTHONSAFEPATH": "1", "VLLM_API_KEY": self.key}
        if environment.get("VLLM_LOGGING_LEVEL") == "ERROR":  # set by an engine in this process: it hides too much
            environment.pop("VLLM_LOGGING_LEVEL")
        with os.fdopen(handle, "wb") as log:
            self._process = subprocess.Popen(
                [*wrapper, *vllm_command(model, self.port, arguments)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C must not reach it: running requests may end first
            )

    async def ready(self, backend: VLLMBackend, say: Callable[[str], None]) -> None:
        """Waits until the server answers and connects `backend`.

        Raises:
            BackendFault: it has died; the message contains the end of its log.
        """
        started = said = time.monotonic()
        while True:
            if not self.alive:
                raise BackendFault(self.exit_report())
            try:
                await backend.connect()
                return
            except BackendFault:
                await asyncio.sleep(0.25)
            if time.monotonic() - said > _SAID_EVERY:
                said = time.monotonic()
                say(f"vLLM is starting, {said - started:.0f} s; its log: {self.log}")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def tail(self, lines: int) -> list[str]:
        """Returns the last lines of its log."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip() for line in deque((li for li in file if not li.startswith(_NOISE)), lines)]

    def exit_report(self) -> str:
        """Returns that it has ended, with the end of its log."""
        end = "\n".join(f"  | {line}" for line in self.tail(_TAIL))
        return f"the vLLM server has exited (exit code {self._process.returncode}); end of its log {self.log}:\n{end}"

    def stop(self) -> None:
        """Stops it and waits for its end. Removes its log if it was still running."""
        well = self.alive
        self._process.stdin.close()
        self._process.wait()
        if well:
            self.log.unlink(missing_ok=True)


def vllm_command(model: str, port: int, arguments: Sequence[str]) -> list[str]:
    """Returns the command of the server, with the options of vLLM's CPU build if there is no GPU."""
    import torch

    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")}
    # Else the model's generation config would bound every request; our requests set all of it themselves.
    ours = [["--disable-uvicorn-access-log"], ["--generation-config", "vllm"]]
    if not torch.cuda.is_available():
        # Chunked prefill of a seeded request breaks the CPU build: "CPU Generator does not use offset".
        ours += [["--no-enable-chunked-prefill"], ["--enforce-eager"], ["--kv-cache-memory-bytes", str(1 << 30)]]
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
        "--host", "127.0.0.1", "--port", str(port),
        *(word for option in ours if option[0] not in given for word in option),
        *arguments,
    ]  # fmt: skip
