"""The numbers of the evaluation."""

from __future__ import annotations

import pytest

from rl.evaluation.evaluate import accuracy_interval, format_table, summarize_evaluation
from rl.train import check_gold
from rollout.types import Episode, Segment, StopReason, Turn


def episode(question, rounds):
    segments = [Segment([0] * 3, [0] * 5, None, "", "stop", Turn("conclusion", conclusion="x"))] * rounds
    return Episode(f"q{question}", "1", question, segments, StopReason.ANSWERED, seconds=2.0)


def test_interval_is_over_questions():
    # Two questions, all samples alike: four samples tell no more than one.
    low, high = accuracy_interval([1.0, 0.5, 0.5, 0.0])
    assert (low + high) / 2 == pytest.approx(0.5)
    assert high - low == pytest.approx(2 * 1.96 * 0.408248 / 2, rel=1e-4)
    assert accuracy_interval([1.0]) == (0.0, 1.0)


def test_summary_row():
    episodes = [episode(0, 1), episode(0, 3), episode(1, 2), episode(1, 2)]
    row = summarize_evaluation(episodes, [1.0, 0.0, None, 1.0], stage="rl", protocol="inftythink", dataset="d")
    assert (row["accuracy"], row["samples"], row["questions"], row["unjudged"]) == (0.5, 2, 2, 1)
    assert (row["rounds_mean"], row["tokens_mean"], row["peak_context_mean"]) == (2.0, 10.0, 8.0)
    assert row["latency_mean"] == 2.0 and row["stops"]["answered"] == 1.0
    assert row["accuracy_by_rounds"] == {"1": 1.0, "2": 0.5, "3": 0.0}
    assert "| d | rl | 50.0 (" in format_table([row])


def test_gold_answers_are_checked_against_themselves(capsys):
    counts = check_gold([{"answer": "3"}, {"answer": ""}, {"answer": "1/2"}])
    assert counts["correct"] == 2
    assert "2 of 3" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no gold answer verifies"):
        check_gold([{"answer": ""}])
