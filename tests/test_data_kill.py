"""The data stage over a real vLLM server: killed twice, the server once; nothing is lost and nothing paid twice."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.bpe_model import build_model, build_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


class Summarizer:
    """`vllm serve` of a tiny model, with a log of its requests."""

    def __init__(self, model: Path, log: Path):
        self.model, self.log = model, log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model),
            "--served-model-name", "summarizer", "--dtype", "float32", "--enforce-eager", "--max-model-len", "4096",
            "--max-num-seqs", "32", "--kv-cache-memory-bytes", str(1 << 28), "--host", "127.0.0.1",
            "--port", str(self.port), "--enable-log-requests", "--generation-config", "vllm",
            # Seeded requests with chunked prompts break vLLM's CPU build ("CPU Generator does not use offset").
            "--no-enable-chunked-prefill", "--max-num-batched-tokens", "16384",
        ]  # fmt: skip
        own = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "INFO"}
        environment = os.environ | own
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(self.url + "/health", timeout=2)
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.5)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def requested(self, start: int = 0) -> list[str]:
        """Keys of the requests in the log, from a place in it on."""
        return re.findall(r"Received request chatcmpl-([0-9a-f]{32})", self.log.read_bytes()[start:].decode())


@pytest.fixture(scope="module")
def summarizer(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("summarizer")
    texts = [json.loads(line)["trace"] for line in (shared_data / "traces.jsonl").read_text().splitlines()]
    build_tokenizer(folder / "model", texts)
    build_model(folder / "model", texts)
    server = Summarizer(folder / "model", folder / "server.log")
    server.start()
    server.wait()
    yield server
    server.kill()


def start(config: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-P", "-m", "rl.app.cli", "data", str(config), f"--name={name}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=config.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out[-2000:] + err[-3000:]
    return out


def finished(folder: Path) -> set[str]:
    """Keys of the summaries that are on disk."""
    try:
        with sqlite3.connect(f"file:{folder / 'data/summaries.sqlite'}?mode=ro", uri=True) as database:
            return {key for (key,) in database.execute("SELECT key FROM draws")}
    except sqlite3.OperationalError:
        return set()


def wait_for(folder: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while len(finished(folder)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def tables(folder: Path) -> dict[str, list[dict]]:
    data = folder / "data"
    return {
        "rounds": pq.read_table(data / "dataset/rounds").to_pylist(),
        "vanilla": pq.read_table(data / "dataset/vanilla").to_pylist(),
        "traces": pq.read_table(data / "traces.parquet").to_pylist(),
    }


def test_killed_twice_and_the_server_once_the_data_are_the_same(summarizer, shared_data, tmp_path):
    config = tmp_path / "config.yaml"
    settings = {
        "model": {"path": str(summarizer.model), "dtype": "float32"},
        "protocol": {"segment_tokens": 512, "summary_tokens": 128, "max_rounds": 16},
        "data": {"traces": str(shared_data / "traces.jsonl"), "duplicates": "keep"},
        # The model's prose is not a language, so nothing can be said of it.
        "summarizer": {
            "url": summarizer.url + "/v1", "model": "summarizer", "checks": ["shorter", "copy", "answer"],
            "concurrency": 16,
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    finish(start(config, "whole"))
    whole, log = tmp_path / "runs/whole", summarizer.log
    paid = summarizer.requested()
    assert len(paid) == len(set(paid)) == len(finished(whole))

    broken = tmp_path / "runs/broken"
    begin = log.stat().st_size
    first = start(config, "broken")
    wait_for(broken, 100, first)
    first.kill()
    first.wait()
    snapshots = [(finished(broken), log.stat().st_size)]

    second = start(config, "broken")
    wait_for(broken, 250, second)
    summarizer.kill()
    snapshots.append((finished(broken), log.stat().st_size))
    time.sleep(1.0)
    summarizer.start()
    wait_for(broken, 400, second)
    second.kill()
    second.wait()
    snapshots.append((finished(broken), log.stat().st_size))

    finish(start(config, "broken"))
    assert tables(broken) == tables(whole)
    assert finished(broken) == finished(whole)
    for keys, size in snapshots:  # what was on disk is never asked for again
        assert not keys & set(summarizer.requested(size))
    again = len(summarizer.requested(begin)) - len(finished(broken))
    assert 0 <= again <= 3 * 3 * 16, "only what was under way at a kill is asked for again"
    report = json.loads((broken / "data/report.json").read_text())
    assert report["traces"] == 175 and report["kept"] + sum(report["dropped"].values()) == 175
