"""RL over two vLLM servers that are killed, hung and made to answer HTTP 500 while it runs.

    python benchmarks/server_faults.py [--name demo] [--nproc 2] [-- --rl.max_steps=40 ...]

Needs the run's SFT stage. Starts two servers and the trainer, then: kill -9 of the first, its restart, SIGSTOP and
SIGCONT of the second, HTTP 500 from the second. The trainer must exit with 0, and the episode files must contain every
episode of every step once. Prints the trainer's log lines about the servers, and the counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aiohttp import ClientError, ClientSession, TCPConnector, web

from rollout.remote.launch import server_command
from rollout.store import read_episodes

ROOT = Path(__file__).resolve().parents[1]


class Door:
    """A proxy in front of a server that can be set to respond with 500."""

    def __init__(self, target: str):
        self.target, self.broken = target, False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()}"

    async def _start(self) -> int:
        self._session = ClientSession(connector=TCPConnector(limit=0, keepalive_timeout=2.0))
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._pass)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return site._server.sockets[0].getsockname()[1]

    async def _pass(self, request: web.Request) -> web.Response:
        if self.broken:
            return web.Response(status=500, text="told to fail")
        body = await request.read()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        target = self.target + str(request.rel_url)
        try:
            async with self._session.request(request.method, target, data=body, headers=headers) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        except ClientError as error:  # not up yet
            return web.Response(status=502, text=str(error))


def start_server(model: Path, port: int, log: Path) -> subprocess.Popen:
    arguments = ["--dtype", "float32", "--max-model-len", "128", "--max-num-seqs", "128", "--enforce-eager"]
    command, environment = server_command(str(model), "127.0.0.1", port, arguments)
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    with log.open("a") as out:
        return subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """The trainer's process and its log."""

    def __init__(self, command: list[str], log: Path):
        self.log, self.offset = log, 0
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        with log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def wait_for(self, words: str, seconds: float = 300) -> str:
        """Returns the next line of the log with `words`, after the last one found."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            text = self.log.read_text(errors="replace").replace("\r", "\n")
            found = text.find(words, self.offset)
            if found >= 0:
                self.offset = found + len(words)
                start = text.rfind("\n", 0, found) + 1
                return text[start : text.find("\n", found)].strip()
            if self.process.poll() is not None:
                raise RuntimeError(f"the trainer ended before {words!r} was seen:\n{text[-2000:]}")
            time.sleep(0.5)
        raise RuntimeError(f"{words!r} not seen in {seconds} s; see {self.log}")


def run(name: str, nproc: int, overrides: list[str]) -> Counter:
    """Runs the benchmark below the working directory; returns the number of episodes per stop reason."""
    folder = Path("runs") / name
    first_port, second_port = free_port(), free_port()
    logs = [folder / "server-1.log", folder / "server-2.log"]
    model = (folder / "sft/final").resolve()
    servers = [start_server(model, first_port, logs[0]), start_server(model, second_port, logs[1])]
    door = Door(f"http://127.0.0.1:{second_port}")
    urls = [f"http://127.0.0.1:{first_port}", door.url]
    settings = "{heartbeat: 1, heartbeat_timeout: 5, request_timeout: 60, tries: 6}"
    command = [
        sys.executable, "-m", "rl.app.cli", "rl", str(ROOT / "configs/demo.yaml"), f"--name={name}", f"--nproc={nproc}",
        "--rollout.engine=server", f"--rollout.urls=[{', '.join(urls)}]", f"--rollout.settings={settings}", *overrides,
    ]  # fmt: skip
    trainer = Run(command, folder / "rl.log")
    lines = []
    try:
        for _ in urls:
            lines.append(trainer.wait_for(": up"))
        trainer.wait_for("step 2:")
        os.killpg(servers[0].pid, signal.SIGKILL)
        servers[0].wait()
        lines.append("-- kill -9 of the first")
        lines.append(trainer.wait_for(f"{urls[0]}: "))  # from the first request or heartbeat that fails
        servers[0] = start_server(model, first_port, logs[0])
        lines.append("-- the first started again")
        lines.append(trainer.wait_for(f"{urls[0]}: up"))
        os.killpg(servers[1].pid, signal.SIGSTOP)
        lines.append("-- SIGSTOP for the second")
        lines.append(trainer.wait_for(f"{urls[1]}: down"))
        os.killpg(servers[1].pid, signal.SIGCONT)
        lines.append("-- SIGCONT for the second")
        lines.append(trainer.wait_for(f"{urls[1]}: up"))
        door.broken = True
        lines.append("-- HTTP 500 from the second")
        lines.append(trainer.wait_for("status 500"))
        door.broken = False
        lines.append(trainer.wait_for(f"{urls[1]}: up"))
        if trainer.process.wait(1800):
            raise RuntimeError(f"the trainer ended with {trainer.process.returncode}; see {trainer.log}")
    finally:
        trainer.process.terminate()
        for server in servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
    print("\n".join(lines))
    return check(folder)


def check(folder: Path) -> Counter:
    """Asserts that all steps have the same number of episodes, in groups of one size, each stored once."""
    episodes = read_episodes(folder / "episodes")
    steps = Counter(row["step"] for row in episodes)
    groups = Counter((row["step"], row["group"]) for row in episodes)
    ids = Counter((row["step"], row["episode"]) for row in episodes)
    assert len(set(steps.values())) == 1 and len(set(groups.values())) == 1 and max(ids.values()) == 1
    reasons = Counter(row["stop_reason"] for row in episodes)
    print(f"{len(steps)} steps, {len(episodes)} episodes, each once; {dict(reasons)}")
    return reasons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="demo")
    parser.add_argument("--nproc", type=int, default=2)
    options, overrides = parser.parse_known_args()
    run(options.name, options.nproc, [o for o in overrides if o != "--"])


if __name__ == "__main__":
    main()
