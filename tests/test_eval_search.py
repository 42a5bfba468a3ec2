"""`sawtooth eval --search`: killed in a wave and gone on with, it prints what an undisturbed one prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.chains.task import questions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = ["best:4:2@0.7", "refine:3@0.7", "tree:9:3:2@0.7", "probe:5"]

_KILLING = """
import os, signal, sys
from rl.app.cli import main
from rl.evaluation.cache import EpisodeCache
put, calls = EpisodeCache.put, []
def killing(self, setting, place, kept):
    put(self, setting, place, kept)
    calls.extend([1] if kept.episode.start else [])
    if len(calls) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
EpisodeCache.put = killing
main(sys.argv[1:])
"""


def run(arguments, work, code=("-P", "-m", "rl.app.cli")):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(work)}
    command = [sys.executable, *code, "eval", *map(str, arguments)]
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def asked(rounds_model, tmp_path_factory):
    """(folder, arguments of the evaluation without searches)."""
    work = tmp_path_factory.mktemp("search")
    rows = questions(8, seed=3, steps=[3, 7], held_out=True)
    (work / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return work, [
        rounds_model, "--data", work / "chains.jsonl", "--samples", 2, "--k", 1, "--max-tokens", 40, "--max-rounds", 5,
        "--engine", "transformers", "--dtype", "float32", "--temperature", 1, "--top-p", 1,
    ]  # fmt: skip


def searches(folder):
    (row,) = json.loads((folder / "summary.json").read_text())
    return {one["search"]: one for one in row["searches"]}


def test_killed_in_a_wave_and_gone_on_with_the_searches_are_the_same(asked):
    work, arguments = asked
    arguments = [*arguments, "--search", *SEARCHES]
    killed = run([*arguments, "--out", work / "resumed"], work, ("-c", _KILLING))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    resumed = run([*arguments, "--out", work / "resumed"], work)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    alone = run([*arguments, "--out", work / "alone", "--cache", work / "own.sqlite"], work)
    assert alone.returncode == 0, alone.stderr[-3000:]
    found = searches(work / "alone")
    assert found == searches(work / "resumed") and list(found) == SEARCHES
    for one in found.values():
        assert one["cost_mean"] > 0 and 0 <= one["cost_saved"] < 1
        assert sum(one["ended"].values()) == pytest.approx(1)
    assert "| best:4:2@0.7 | confidence |" in (work / "alone" / "table.md").read_text()


def test_best_of_one_is_the_plain_sample(asked):
    work, arguments = asked
    done = run([*arguments, "--samples", 1, "--out", work / "one", "--search", "best:1", "tree:20"], work)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads((work / "one" / "summary.json").read_text())
    for one in row["searches"]:
        assert one["accuracy"] == row["accuracy"] and one["tokens_mean"] == row["tokens_mean"]


def test_what_cannot_be_searched_is_said_before_anything_is_sampled(asked):
    work, arguments = asked
    for further, says in (
        (["--search", "tree:8", "--protocol", "vanilla"], "search tree:8 needs summaries, and vanilla"),
        (["--search", "refine:3", "--protocol", "vanilla"], "search refine:3 needs summaries, and vanilla"),
        (["--search", "best:2", "--summarize-at", "model", "fixed:6"], "a search lets the model decide"),
        (["--search", "most:8"], "search 'most' is not known"),
        (["--search", "best:2", "--score", "mine.py:f"], "mine.py"),
        (["--score", "agreement"], "nothing is searched for"),
    ):
        refused = run([*arguments, "--out", work / "refused", *further], work)
        assert refused.returncode == 2 and says in refused.stderr and "Traceback" not in refused.stderr
