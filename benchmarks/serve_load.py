"""`sawtooth serve` under load: many concurrent clients; a third of the requests are dropped in mid-stream.

    python benchmarks/serve_load.py MODEL [--clients 200] [--seconds 60]

Starts the server on MODEL (a checkpoint of the demo, whose questions it asks), loads it, and then checks for leaks:
requests left in vLLM and in the server, and memory. Exits with 1 if it finds one or if any request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import aiohttp
import psutil

from examples.chains.task import traces

DROPPED = 1 / 3
QUIET = 60.0  # seconds after which no request may be left
GROWTH = 1.05  # of memory, from the second quarter to the last: more is a leak


class Load:
    def __init__(self, url: str, questions: list[str]):
        self.url, self.questions = url, questions
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []  # of answered requests
        self.first: list[float] = []  # to the first text of a stream
        self.tokens = 0

    async def client(self, session: aiohttp.ClientSession, number: int, until: float) -> None:
        """Sends one request after another."""
        rng = random.Random(number)
        while time.monotonic() < until:
            drop = rng.random() < DROPPED
            stream = drop or rng.random() < 0.5
            messages = [{"role": "user", "content": rng.choice(self.questions)}]
            body = {"model": "m", "messages": messages, "stream": stream, "seed": rng.randrange(1 << 31)}
            since = time.monotonic()
            try:
                outcome = await self.ask(session, body, rng.randint(1, 8) if drop else None)
            except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
                outcome = f"error: {error!r}"
            self.outcomes[outcome] += 1
            if outcome == "answered":
                self.seconds.append(time.monotonic() - since)

    async def ask(self, session: aiohttp.ClientSession, body: dict, leave_after: int | None) -> str:
        """Returns the outcome; closes the connection after `leave_after` texts."""
        since = time.monotonic()
        async with session.post(self.url + "/v1/chat/completions", json=body) as response:
            if response.status != 200:
                return f"status {response.status}: {(await response.text())[:200]}"
            if not body["stream"]:
                answer = await response.json()
                self.tokens += answer["usage"]["completion_tokens"]
                return "answered"
            texts = 0
            async for line in response.content:
                if line.startswith(b'data: {"error"'):
                    return f"error event: {line.decode()[:200]}"
                if line.startswith(b"data: [DONE]"):
                    return "answered"
                if line.startswith(b"data: ") and texts == 0 and b"content" in line:
                    self.first.append(time.monotonic() - since)
                texts += line.startswith(b"data: ") and b"content" in line
                if leave_after is not None and texts > leave_after:
                    response.close()
                    return "dropped"
        return "broken off"


async def run(url: str, engine_url: str, processes: dict[str, list[psutil.Process]], options) -> bool:
    questions = [trace["question"] for trace in traces(500, seed=3, steps=[8, 24])]
    load, memory = Load(url, questions), collections.defaultdict(list)
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        until = time.monotonic() + options.seconds
        clients = [asyncio.create_task(load.client(session, i, until)) for i in range(options.clients)]
        busiest = 0.0
        while time.monotonic() < until:
            await asyncio.sleep(1)
            for name, group in processes.items():
                memory[name].append(sum(process.memory_info().rss for process in group) / 2**20)
            busiest = max(busiest, await value(session, engine_url, "vllm:num_requests_running"))
        await asyncio.gather(*clients)
        ended = time.monotonic()
        while True:
            left = {
                "vllm:num_requests_running": await value(session, engine_url, "vllm:num_requests_running"),
                "vllm:num_requests_waiting": await value(session, engine_url, "vllm:num_requests_waiting"),
                "sawtooth_episodes_running": await value(session, url, "sawtooth_episodes_running"),
                "sawtooth_requests_queued": await value(session, url, "sawtooth_requests_queued"),
            }
            if not any(left.values()) or time.monotonic() - ended > QUIET:
                break
            await asyncio.sleep(0.2)
    answered, dropped = load.outcomes["answered"], load.outcomes["dropped"]
    print(f"{options.clients} clients, {options.seconds:g} s: {answered} answered, {dropped} dropped mid-stream")
    print(f"{(answered + dropped) / options.seconds:.1f} requests per second; at most {busiest:.0f} at once in vLLM")
    if load.seconds:
        print(f"seconds per request: {spread(load.seconds)}; to the first text: {spread(load.first)}")
    wrong = {outcome: n for outcome, n in load.outcomes.items() if outcome not in ("answered", "dropped")}
    print(f"other outcomes: {json.dumps(wrong) if wrong else 'none'}")
    print(f"left after {time.monotonic() - ended:.1f} s: {json.dumps(left)}")
    level = True
    for name, sizes in memory.items():
        quarter = max(1, len(sizes) // 4)
        early, late = statistics.mean(sizes[quarter : 2 * quarter]), statistics.mean(sizes[-quarter:])
        level &= late <= early * GROWTH
        print(
            f"memory of {name}: {sizes[0]:.0f} MiB at first, {early:.0f} in the second quarter, {late:.0f} in the last"
        )
    good = answered > 0 and dropped > 0 and not wrong and not any(left.values()) and level
    print("all checks passed" if good else "some checks FAILED")
    return good


def spread(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=20)
    return f"median {statistics.median(values):.2f}, 95% {cuts[-1]:.2f}"


async def value(session: aiohttp.ClientSession, url: str, name: str) -> float:
    """Returns the value of a metric, summed over its labels."""
    async with session.get(url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"{name}[ {{]", line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    command = [
        sys.executable, "-m", "rl.app.cli", "serve", options.model, "--port", "0", "--name", "m",
        "--max-concurrency", str(options.clients), "--max-num-seqs", str(options.clients),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = None
            for line in server.stderr:
                print(line, end="", flush=True)
                url = url or (m[1] if (m := re.search(r"(http://\S+)/v1 \(starting\)", line)) else None)
                if "serve: ready" in line:
                    break
            else:
                return 1
            # Keep reading its output: a server blocks once its pipe is full.
            threading.Thread(target=shutil.copyfileobj, args=(server.stderr, sys.stderr), daemon=True).start()
            ours = psutil.Process(server.pid)
            engine = [p for p in ours.children(recursive=True) if "end_with_parent.py" not in " ".join(p.cmdline())]
            words = next(p.cmdline() for p in engine if "--port" in p.cmdline())
            engine_url = f"http://127.0.0.1:{words[words.index('--port') + 1]}"
            return 0 if asyncio.run(run(url, engine_url, {"the server": [ours], "vLLM": engine}, options)) else 1
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
