"""pass@k against every subset, intervals, accuracy within rounds, rows and tables."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import comb
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.evaluation.evaluate import accuracy_interval, format_table, summarize_evaluation
from rl.evaluation.statistics import default_k, pass_at_k, within_rounds
from rollout.types import Episode, Segment, StopReason, Turn


def every_subset(samples: int, right: int, k: int) -> Fraction:
    outcomes = [place < right for place in range(samples)]
    subsets = list(combinations(outcomes, k))
    return Fraction(sum(any(subset) for subset in subsets), len(subsets))


def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_one():
    for samples in range(1, 9):
        for right in range(samples + 1):
            for k in range(1, samples + 1):
                assert pass_at_k(samples, right, k) == pytest.approx(every_subset(samples, right, k), abs=1e-15)


@given(st.data())
def test_pass_at_k_equals_the_closed_formula_for_many_samples(data):
    samples = data.draw(st.integers(1, 2000))
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    exact = 1 - Fraction(comb(samples - right, k), comb(samples, k))
    assert pass_at_k(samples, right, k) == pytest.approx(exact, rel=1e-12, abs=0)  # small ones too


def test_pass_at_k_wants_a_k_that_can_be_drawn():
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-14)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k} with 4 samples"):
            pass_at_k(4, 1, k)
    assert default_k(32) == [1, 8, 32] and default_k(4) == [1, 4] and default_k(1) == [1]


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30))
def test_within_rounds_never_falls_and_ends_at_the_accuracy(episodes):
    rounds, right = [n for n, _ in episodes], [ok for _, ok in episodes]
    curve = within_rounds(rounds, right, 6)
    assert curve == sorted(curve) and curve[-1] == pytest.approx(fmean(right))
    assert curve[2] == pytest.approx(sum(ok and n <= 3 for n, ok in episodes) / len(episodes))


def episode(question, rounds, reason=StopReason.ANSWERED, **columns):
    segments = [Segment([0] * 3, [0] * 5, None, "", "stop", Turn("conclusion", conclusion="x"))] * rounds
    return Episode(f"q{question}", "1", question, segments, reason, columns=columns, seconds=2.0 + question)


ROW = {"stage": "rl", "protocol": "inftythink", "dataset": "d"}


def test_a_row_by_hand():
    """Three questions of two samples: both right, one right, one unjudged beside one that failed."""
    episodes = [
        episode(0, 1, difficulty=1), episode(0, 3, difficulty=1), episode(1, 2, difficulty=5),
        episode(1, 2, difficulty=5), episode(2, 1, difficulty=5), episode(2, 0, StopReason.FAILED, difficulty=5),
    ]  # fmt: skip
    correct = [1.0, 1.0, 0.0, 1.0, None, None]
    row = summarize_evaluation(
        episodes, correct, **ROW, k=[1, 2], classes=[0, 0, 0, 1, 0, None], max_rounds=4, in_flight=[6] * 5 + [1]
    )
    assert (row["questions"], row["samples"], row["unjudged"], row["failed"]) == (3, 2, 1, 1)
    assert row["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert row["pass_at_k"]["1"]["value"] == pytest.approx(row["accuracy"])
    assert row["pass_at_k"]["2"]["value"] == pytest.approx((1 + 1 + 0) / 3)
    assert row["maj_at_k"]["2"]["value"] == pytest.approx((1 + 0.5 + 0) / 3)  # a tie of a right and a wrong one
    low, high = row["pass_at_k"]["2"]["ci95"]
    assert (low, high) == pytest.approx(accuracy_interval([1.0, 1.0, 0.0]))
    assert row["accuracy_within_rounds"] == pytest.approx({"1": 1 / 6, "2": 2 / 6, "3": 3 / 6, "4": 3 / 6})
    assert row["by_difficulty"]["1"]["accuracy"] == 1.0 and row["by_difficulty"]["1"]["questions"] == 1
    assert row["by_difficulty"]["5"]["accuracy"] == 0.25 and row["by_difficulty"]["5"]["questions"] == 2
    assert (row["latency_mean"], row["latency_median"], row["concurrency"]) == (3.0, 3.0, [1, 6])
    assert (row["peak_context_mean"], row["peak_context_max"], row["tokens_mean"]) == (8 * 5 / 6, 8, 7.5)


def test_a_table_has_the_columns_that_its_rows_need():
    plain = summarize_evaluation([episode(0, 1), episode(1, 1)], [1.0, 0.0], **ROW)
    assert format_table([plain]).splitlines()[0].count("|") == 8 and "run as" not in format_table([plain])
    other = plain | {"label": "vanilla", "pass_at_k": {"4": {"value": 0.5, "ci95": [0.0, 1.0]}}}
    other["vote"] = {"accuracy": 0.5, "accuracy_ci95": [0.25, 0.75], "samples_mean": 4.5}
    head, _, first, second = format_table([plain, other]).splitlines()
    assert head.split(" | ")[2:6] == [
        "run as",
        "accuracy % (95% interval)",
        "pass@4 %",
        "vote % (95% interval), samples",
    ]
    assert first.split(" | ")[2] == "inftythink" and first.split(" | ")[4:6] == ["–", "–"]
    assert second.split(" | ")[4:6] == ["50.0 (0.0 to 100.0)", "50.0 (25.0 to 75.0), 4.5"]
