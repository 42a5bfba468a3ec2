"""`sawtooth eval` with real vLLM: killed in the middle and gone on with, it prints what an undisturbed one prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from math import comb
from pathlib import Path
from statistics import fmean

import pytest

from examples.chains.task import questions
from rl.evaluation.cli import add_arguments, run_command
from rollout.store import read_episodes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS, SAMPLES, KILL_AT = 6, 4, 37  # of 4 x 24 episodes
ROWS = ["inftythink", "vanilla", "delethink", "inftythink, summarize-at fixed:6"]
TIMES = ("latency_mean", "latency_median", "concurrency")

_KILLING = f"""
import os, signal, sys
from rl.app.cli import main
from rl.evaluation.cache import EpisodeCache
put, calls = EpisodeCache.put, []
def killing(self, *arguments):
    put(self, *arguments)
    calls.append(1)
    if len(calls) == {KILL_AT}:
        os.kill(os.getpid(), signal.SIGKILL)
EpisodeCache.put = killing
main(sys.argv[1:])
"""

# The model is right too seldom to count on: here an even answer is a right one.
_EVEN = """
import re

def even(completions, **columns):
    return [float(bool(re.search(r"boxed.[02468]", text))) for text in completions]
"""


def run(arguments, cache, code=("-P", "-m", "rl.app.cli")):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, *code, "eval", *map(str, arguments)]
    return subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def evaluations(rounds_model, tmp_path_factory):
    """The folders of the killed and resumed, and of the undisturbed evaluation; and what the first one's ends said."""
    work = tmp_path_factory.mktemp("eval")
    rows = [row | {"level": row["steps"]} for row in questions(QUESTIONS, seed=3, steps=[1, 5], held_out=True)]
    (work / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "even.py").write_text(_EVEN)
    arguments = [
        rounds_model, "--data", work / "chains.jsonl", "--samples", SAMPLES, "--k", 1, 2, 4, "--max-tokens", 40,
        "--max-rounds", 5, "--verifier", f"{work}/even.py:even",
        "--protocol", *ROWS[:3], "--summarize-at", "model", "fixed:6", "--dtype", "float32",
        "--engine-settings", "{max_num_seqs: 16, kv_cache_memory_bytes: 67108864}",
    ]  # fmt: skip
    killed = run([*arguments, "--out", work / "resumed"], work, ("-c", _KILLING))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert not (work / "resumed" / "summary.json").exists()
    resumed = run([*arguments, "--out", work / "resumed"], work)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    alone = run([*arguments, "--out", work / "alone", "--cache", work / "own.sqlite"], work)
    assert alone.returncode == 0, alone.stderr[-3000:]
    again = run([*arguments, "--out", work / "again", "--vote", "4:2"], work)  # nothing is missing: no engine starts
    assert again.returncode == 0 and "vllm" not in again.stderr, again.stderr[-3000:]
    return work, resumed


def rows_of(folder):
    return {row["label"]: row for row in json.loads((folder / "summary.json").read_text())}


def without_times(row):
    return {key: value for key, value in row.items() if key not in TIMES}


def table_of(folder):
    return [line.rpartition(" | ")[0] for line in (folder / "table.md").read_text().splitlines()]  # but for latency


def test_killed_and_gone_on_with_the_table_is_the_same(evaluations):
    work, resumed = evaluations
    assert f"kept={KILL_AT - QUESTIONS * SAMPLES}" in resumed.stderr  # in the second row; the first was whole
    assert table_of(work / "resumed") == table_of(work / "alone") and len(table_of(work / "alone")) == 2 + len(ROWS)
    resumed, alone = rows_of(work / "resumed"), rows_of(work / "alone")
    assert list(resumed) == ROWS
    assert {label: without_times(row) for label, row in resumed.items()} == {
        label: without_times(row) for label, row in alone.items()
    }
    for row in alone.values():
        first, second = (
            read_episodes(work / name / "episodes", f"{row['episodes']}.parquet") for name in ("resumed", "alone")
        )
        assert [[r["completion_ids"] for r in e["rounds"]] for e in first] == [
            [r["completion_ids"] for r in e["rounds"]] for e in second
        ]


def test_a_third_time_nothing_is_sampled_and_even_latencies_are_the_same(evaluations):
    work, _ = evaluations
    again = rows_of(work / "again")
    assert {label: {k: v for k, v in row.items() if k != "vote"} for label, row in again.items()} == rows_of(
        work / "resumed"
    )
    for row in again.values():
        assert 2 <= row["vote"]["samples_mean"] <= 4 and row["vote"]["most"] == 4


def test_pass_at_k_equals_the_closed_formula_on_the_stored_samples(evaluations):
    work, _ = evaluations
    for row in rows_of(work / "resumed").values():
        stored = read_episodes(work / "resumed" / "episodes", f"{row['episodes']}.parquet")
        assert len(stored) == QUESTIONS * SAMPLES and {len(e["rounds"]) for e in stored} <= set(range(6))
        right = Counter({e["group"]: 0 for e in stored})
        right.update(e["group"] for e in stored if e["correct"] == 1.0)
        for k in (1, 2, 4):
            exact = sum(1 - Fraction(comb(SAMPLES - c, k), comb(SAMPLES, k)) for c in right.values()) / QUESTIONS
            assert row["pass_at_k"][str(k)]["value"] == pytest.approx(float(exact), abs=1e-12)
        assert row["accuracy"] == pytest.approx(fmean(e["correct"] == 1.0 for e in stored))
        within = row["accuracy_within_rounds"]
        for most in within:
            share = fmean(e["correct"] == 1.0 and e["num_rounds"] <= int(most) for e in stored)
            assert within[most] == pytest.approx(share)
    base = rows_of(work / "resumed")["inftythink"]
    assert (
        base["accuracy"] > 0
        and base["rounds_mean"] > 1
        and sum(d["questions"] for d in base["by_difficulty"].values()) == 6
    )


def test_the_folder_has_table_pictures_and_settings(evaluations):
    work, resumed = evaluations
    folder = work / "resumed"
    for name in ("accuracy_tokens.png", "accuracy_latency.png", "rounds.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    assert json.loads((folder / "settings.json").read_text())["samples"] == SAMPLES
    assert (folder / "table.md").read_text() in resumed.stdout
    assert f"results: {folder}" in resumed.stdout and "latency: seconds per episode, with " in resumed.stdout
    fields = {
        "stage", "protocol", "dataset", "samples", "accuracy", "accuracy_ci95", "rounds_mean", "tokens_mean",
        "peak_context_mean", "latency_mean",
    }  # fmt: skip
    assert all(fields <= row.keys() for row in rows_of(folder).values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m"], "--data is missing"),
        (["m", "run.yaml", "--data", "d.jsonl"], "one YAML of a run, or models with --data: not both"),
        (["m", "--data", "d.jsonl", "--sampels", "3"], "'--sampels' is not an option"),
        (["m", "--data", "d.jsonl", "--engine", "server"], "--urls and --engine server go together"),
        (["m", "--data", "d.jsonl", "--samples", "0"], "--samples is 0"),
        (["m", "--data", "{source: [", "--samples", "1"], "--data '{source: \\[' is not YAML"),
        (["m", "--data", "d.jsonl", "--k", "64"], "k is 64 with 32 samples"),
        (["m", "--data", "none.jsonl"], "none.jsonl does not exist"),
        (["m", "--data", "d.jsonl", "--temperature", "-1"], "temperature is -1; it must be at least 0"),
        (["m", "--data", "d.jsonl", "--top-p", "0"], "top_p is 0; it must be above 0"),
        (
            ["m", "--data", "d.jsonl", "--engine", "transformers", "--engine-settings", "{batchsize: 9}"],
            "transformers engine has no setting 'batchsize'",
        ),
        (
            ["nobody/nothing", "--data", "{source: 'examples/chains/task.py:questions', count: 1}"],
            "is not a local folder",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    import argparse

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("config", nargs="+")
    add_arguments(parser)
    options, further = parser.parse_known_args([*arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match=message):
        run_command(options, further)
