"""`sawtooth serve` as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from tests.quiet import as_a_user

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 240  # vLLM on a busy machine


class ServeProcess:
    """Runs the real command on a free port. Its standard error is in a file."""

    def __init__(self, folder: Path, model: str, *arguments: str, **environment: str):
        self.log = folder / f"serve-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "rl.app.cli", "serve", model, "--port", "0", "--name", "m", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=as_a_user(**environment), stderr=log)

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        return self._wait(lambda: re.search(r"serve: (http://\S+)/v1 \(starting\)", self.said))[1]

    def wait_ready(self) -> ServeProcess:
        self._wait(lambda: self.health() == 200)
        return self

    def _wait(self, condition):
        deadline = time.monotonic() + START_SECONDS
        while not (result := condition()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.1)
        return result

    def health(self) -> int:
        """Status of /health; 0 where nobody answers."""
        try:
            return httpx.get(self.url + "/health", timeout=30).status_code
        except httpx.HTTPError:
            return 0

    def engine(self) -> list[psutil.Process]:
        """`end_with_parent.py`, vLLM's server, and its engine."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def vllm(self) -> psutil.Process:
        """vLLM's server."""
        return next(p for p in self.engine() if "vllm.entrypoints.openai.api_server" in p.cmdline()[:3])

    def vllm_metrics(self) -> dict[str, float]:
        """Sums over labels, by name; finished requests by reason."""
        words = self.vllm().cmdline()
        port = words[words.index("--port") + 1]
        sums: dict[str, float] = {}
        for line in httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text.splitlines():
            if line.startswith("vllm:"):
                name, _, value = line.rpartition(" ")
                reason = re.search(r'finished_reason="(\w+)"', name)
                key = name.partition("{")[0] + (f"/{reason[1]}" if reason else "")
                sums[key] = sums.get(key, 0.0) + float(value)
        return sums

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(120)


def all_gone(processes: list[psutil.Process], seconds: float = 60) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]
