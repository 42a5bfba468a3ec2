"""The real commands against a Hub on loopback: traces streamed from it, the data set pushed, rounds taken from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.hub_server import HubServer, hub_environment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def hub(tmp_path):
    server = HubServer(tmp_path / "server")
    yield server
    server.stop()


def command(hub, folder, *arguments, fails=False):
    environment = hub_environment(hub, folder) | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-P", "-m", "rl.app.cli", *arguments], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert (result.returncode == 2) == fails, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stderr if fails else result.stdout


@pytest.mark.slow
def test_from_the_hub_and_back(hub, tmp_path):
    from examples.chains.task import traces

    rows = [
        {"problem": row["question"], "answer": row["answer"], "generations": [row["trace"]]}
        for row in traces(40, seed=3, steps=[7, 9])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    hub.add("me/traces", "dataset", {"train.parquet": (tmp_path / "train.parquet").read_bytes()}, private=False)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    settings = {
        "model": {"build": "examples/chains/model.py:build", "build_args": {"hidden": 32, "layers": 1, "heads": 1}},
        "protocol": {"segment_tokens": 16, "summary_tokens": 4, "max_rounds": 5},
        "data": {"traces": {"source": "me/traces", "streaming": True, "limit": 30}, "repo_id": "me/rounds"},
        "summarizer": {"fn": "examples/chains/task.py:summarize"},
        "sft": {"max_steps": 1, "per_device_train_batch_size": 3, "report_to": "none"},
    }
    config = tmp_path / "first.yaml"
    config.write_text(yaml.safe_dump(settings))
    out = command(hub, tmp_path, "data", "first.yaml", "--push")
    assert "30 of 30 traces kept" in out and "pushed to" in out
    local = tmp_path / "runs/first/data/dataset"
    arrived = hub.files("me/rounds", "dataset")
    assert hub.repos["datasets/me/rounds"].private
    for path in [p for p in local.rglob("*") if p.is_file()]:
        assert arrived[str(path.relative_to(local))] == path.read_bytes()
    assert b'load_dataset("me/rounds", "rounds"' in arrived["README.md"]

    settings["data"] = {"prepared": "me/rounds"}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(settings))
    assert "rounds from me/rounds" in command(hub, tmp_path, "data", "second.yaml")
    taken = pq.read_table(tmp_path / "runs/second/data/dataset/rounds").to_pylist()
    assert taken == pq.read_table(local / "rounds").to_pylist()
    check_first_batch(command(hub, tmp_path, "sft", "second.yaml"), tmp_path / "runs/second/sft/first_batch.txt", taken)

    code = "from datasets import load_dataset; print(load_dataset('me/rounds', 'vanilla', split='train').num_rows)"
    twin = subprocess.run(
        [sys.executable, "-c", code], env=hub_environment(hub, tmp_path), capture_output=True, text=True, timeout=100
    )
    assert twin.stdout.split()[-1] == "30", twin.stderr[-2000:]
    settings["protocol"]["segment_tokens"] = 8
    (tmp_path / "third.yaml").write_text(yaml.safe_dump(settings))
    assert "protocol.segment_tokens (8): raise it" in command(hub, tmp_path, "data", "third.yaml", fails=True)
    settings["data"] = {"prepared": "me/nothing"}
    (tmp_path / "fourth.yaml").write_text(yaml.safe_dump(settings))
    assert "me/nothing is not a folder here" in command(hub, tmp_path, "data", "fourth.yaml", fails=True)


def check_first_batch(out: str, path: Path, rounds: list[dict]) -> None:
    """The batch stands in the output and in its file, its masked part apart from what is trained."""
    assert "sft: first batch: 3 rows" in out and "  masked  | " in out and "  trained | " in out
    known = {(row["prompt"], row["completion"] + "<|im_end|>") for row in rounds}
    rows = path.read_text().split("\nrow ")[1:]
    assert len(rows) == 3
    for row in rows:
        lines = row.split("\n")[1:]
        prompt, output = (
            "\n".join(line.partition(" | ")[2] for line in lines if line.startswith(f"  {name}"))
            for name in ("masked ", "trained")
        )
        assert (prompt, output.rstrip("\n")) in {(a.rstrip("\n") if not a.endswith("\n") else a, b) for a, b in known}


def test_a_data_set_that_is_not_there(hub, tmp_path):
    """A data set that is not there is one line, not a traceback."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    settings = {
        "model": {"build": "examples/chains/model.py:build", "build_args": {"hidden": 32, "layers": 1, "heads": 1}},
        "data": {"traces": "me/nowhere"},
        "summarizer": {"fn": "examples/chains/task.py:summarize"},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    error = command(hub, tmp_path, "data", "config.yaml", fails=True)
    assert "data 'me/nowhere' can't be loaded as a file or a Hub dataset" in error and "Traceback" not in error
