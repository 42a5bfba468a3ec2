"""Two sides on the same questions: counts and interval against plain Python, and what is said when they don't fit."""

from __future__ import annotations

import random
from statistics import fmean, stdev

import pytest

from rl.monitor.compare import compare, paired_interval
from rl.monitor.index import EpisodeIndex
from rl.monitor.runs import NotThere, Runs
from rollout.types import StopReason
from tests.stored import age, episode, write

SUMMARY = "<think>\nx\n</think><summary>s</summary>"


@pytest.fixture
def home(tmp_path):
    """Two runs: `before` and `after`, evaluated on 40 questions of which 30 are the same, 4 samples each."""
    rng, verdicts = random.Random(5), {}
    for name, first in (("before", 0), ("after", 10)):
        questions = [f"question {n}" for n in range(first, first + 40)]
        made = [episode(q, n, ["x"], tokens=3 + n, answer=n) for n, q in enumerate(questions) for _ in range(4)]
        right = [float(rng.random() < rng.random()) for _ in made]
        write(tmp_path / name, "eval/episodes/rl_held_out", 0, made, right)
        verdicts[name] = {q: right[4 * n : 4 * n + 4] for n, q in enumerate(questions)}
    return tmp_path, verdicts


def ready(folder):
    runs, index = Runs([folder]), EpisodeIndex()
    for run in runs.refresh():
        index.load(run, 60, every=0)
    return index, runs


def test_it_is_what_plain_python_says(home):
    folder, verdicts = home
    index, runs = ready(folder)
    with index:
        answer = compare(index, runs, "before:eval/rl_held_out", "after:eval/rl_held_out", limit=1000)
        a, b = verdicts["before"], verdicts["after"]
        shared = [question for question in a if question in b]
        change = {question: fmean(b[question]) - fmean(a[question]) for question in shared}
        half = 1.96 * stdev(change.values()) / len(shared) ** 0.5
        mean = fmean(change.values())
        assert answer["shared"] == len(shared) == 30 and answer["note"] is None
        assert answer["difference"] == pytest.approx({"mean": mean, "low": mean - half, "high": mean + half})
        assert answer["a"]["accuracy"] == pytest.approx(fmean(fmean(a[question]) for question in shared))
        assert answer["b"]["accuracy"] - answer["a"]["accuracy"] == pytest.approx(mean)
        assert (answer["b"]["questions"], answer["b"]["episodes"]) == (40, 160)
        assert answer["a"]["label"] == "before eval/rl_held_out"
        kinds = {q: {(0, 1): "solved", (1, 0): "lost", (1, 1): "both", (0, 0): "neither"}[
            fmean(a[q]) >= 0.5, fmean(b[q]) >= 0.5] for q in shared}  # fmt: skip
        assert answer["counts"] == {k: list(kinds.values()).count(k) for k in ("solved", "lost", "both", "neither")}
        assert {row["question"]: row["kind"] for row in answer["rows"]} == kinds
        sizes = [abs(change[row["question"]]) for row in answer["rows"]]
        assert sizes == sorted(sizes, reverse=True)
        for row in answer["rows"]:
            number = int(row["question"].split()[1])
            assert row["a"]["right"] == sum(a[row["question"]]) and row["a"]["graded"] == 4
            assert row["b"]["tokens"] == 3 + number - 10 and row["answer"] == str(number - 10)
            assert (row["b"]["run"], row["b"]["source"], row["b"]["step"]) == ("after", "eval/rl_held_out", 0)
            assert row["a"]["group"] == str(number)
        for kind, count in answer["counts"].items():
            part = compare(index, runs, "before:eval/rl_held_out", "after:eval/rl_held_out", kind, limit=1000)
            assert len(part["rows"]) == part["total"] == count and part["counts"] == answer["counts"]
        page = compare(index, runs, "before:eval/rl_held_out", "after:eval/rl_held_out", limit=7, offset=5)
        assert page["rows"] == answer["rows"][5:12] and page["total"] == 30


def test_episodes_that_both_sides_hold_are_said(home):
    folder, _ = home
    index, runs = ready(folder)
    with index:
        note = compare(index, runs, "before:eval/rl_held_out", "before:eval/rl_held_out")["note"]
        assert "same episodes" in note
        note = compare(index, runs, "before:eval/rl_held_out", "after:eval/rl_held_out")["note"]
        assert note is None


def test_stretches_of_one_training(tmp_path):
    for step in range(6):
        made = [episode("q", 0, [SUMMARY, "x"]) for _ in range(4)] + [episode("p", 1, ["x"])]
        write(tmp_path / "it", f"episodes/train_{step:06d}", step, made, [float(step > 2)] * 4 + [1.0])
    index, runs = ready(tmp_path)
    with index:
        answer = compare(index, runs, "it:train:0-2", "it:train:3-5")
        assert answer["counts"] == {"solved": 1, "lost": 0, "both": 1, "neither": 0}
        assert (answer["a"]["label"], answer["a"]["episodes"]) == ("it train, steps 0 to 2", 15)
        row = answer["rows"][0]
        assert (row["a"]["right"], row["b"]["right"], row["b"]["episodes"], row["b"]["step"]) == (0, 12, 12, 5)
        assert answer["difference"]["mean"] == 0.5 and answer["indexing"] == {"files": 6, "of": 6}
        assert compare(index, runs, "it:train:4", "it:train:4-4")["counts"]["both"] == 2
        assert compare(index, runs, "it:train", "it:train")["a"]["episodes"] == 30


def test_what_could_not_be_judged_counts_as_wrong_and_is_said(tmp_path):
    write(tmp_path / "it", "eval/episodes/a", 0, [episode("q", 0)] * 4, [1.0, 1.0, None, None])
    failed = episode("q", 0, [], StopReason.FAILED, error="e")
    write(tmp_path / "it", "eval/episodes/b", 0, [episode("q", 0), failed, failed], [1.0, None, None])
    age(write(tmp_path / "it", "eval/episodes/old", 0, [episode("q", 0)] * 4))
    write(tmp_path / "it", "eval/episodes/other", 0, [episode("p", 0)], [1.0])
    index, runs = ready(tmp_path)
    with index:
        answer = compare(index, runs, "it:eval/a", "it:eval/b")
        assert answer["counts"]["lost"] == 1 and answer["rows"][0]["b"]["graded"] == 1
        assert answer["note"] == (
            "it eval/a: 2 episodes could not be judged and count as wrong; "
            "it eval/b: 2 episodes could not be judged and count as wrong"
        )
        old = compare(index, runs, "it:eval/a", "it:eval/old")
        assert "it eval/old: its files have no verdicts, so nothing can be compared" in old["note"]
        assert old["rows"] == [] and old["b"]["accuracy"] is None and old["difference"]["mean"] is None
        assert old["shared"] == 1 and old["b"]["tokens"] == 5
        other = compare(index, runs, "it:eval/other", "it:eval/other")
        assert other["difference"] == {"mean": 0.0, "low": -1.0, "high": 1.0}
        apart = compare(index, runs, "it:eval/b", "it:eval/other")
        assert apart["shared"] == 0 and apart["rows"] == []
        none = compare(index, runs, "it:eval/nothing", "it:eval/a")
        assert none["note"].startswith("it eval/nothing: no episodes") and none["a"]["questions"] == 0


@pytest.mark.parametrize(
    ("a", "kind", "error", "message"),
    [
        ("it", "all", ValueError, "'it' is not a valid side: write run:source or run:source:from-to"),
        (":x", "all", ValueError, "':x' is not a valid side"),
        ("no:train", "all", NotThere, "there is no run 'no'"),
        ("it:train", "mine", ValueError, "kind is 'mine'; it may be all, solved, lost, both, neither"),
    ],
)
def test_mistakes_are_one_line(tmp_path, a, kind, error, message):
    write(tmp_path / "it", "episodes/train_000000", 0, [episode("q", 0)], [1.0])
    index, runs = ready(tmp_path)
    with index, pytest.raises(error) as raised:
        compare(index, runs, a, "it:train", kind)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_interval():
    assert paired_interval(None, None, 0) == {"mean": None, "low": None, "high": None}
    assert paired_interval(1.0, 0.0, 3) == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert paired_interval(0.0, 2**0.5, 2)["high"] == 1.0  # no wider than can be
