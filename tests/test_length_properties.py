"""What holds for the length rewards whatever the group, and, by counterexample, what does not.

A wrong episode never gets more than a right one of its group (`NEVER_BEATEN`) under all but four: `kimi` alone,
`l1_exact`, `o1_pruner` and `shorterbetter` price the length without regard to the answer, and so does `alp` from
1 / beta tokens on (10 million by default). Two hold for the settings here: `arora_zanette` needs alpha of at most 1,
`hapo` weight * -floor of at most 1.
"""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import length
from rewards.score import Reward, score_episodes
from rollout.types import Episode, Segment, StopReason, Turn

quick = settings(max_examples=100, deadline=None, derandomize=True)

LENGTH = st.integers(1, 10**6) | st.integers(1, 4)  # the small ones: ties
SMALL = st.floats(0.0, 1.0)
TOKENS = st.floats(1.0, 1e6)
SETTINGS = {
    "kimi": {},
    "l1_exact": {"alpha": SMALL},
    "l1_max": {"alpha": SMALL, "delta": st.floats(-2.0, 2.0)},
    "o1_pruner": {"ref_lengths": st.lists(LENGTH, min_size=1, max_size=5), "ref_accuracy": SMALL},
    "dast": {"max_length": st.integers(1, 10**6)},
    "arora_zanette": {"alpha": SMALL},
    "shorterbetter": {"alpha": st.floats(0.0, 10.0), "beta": SMALL},
    "hapo": {"best_length": st.none() | st.integers(1, 10**6), "weight": SMALL},
    "alp": {"beta": st.floats(0.0, 1e-6)},  # at most 1 / the longest: see `test_where_a_wrong_one_beats_a_right_one`
    "thinkprune": {"limit": TOKENS},
    "laser": {"target": TOKENS, "bonus": st.floats(0.0, 5.0)},
}
BY_LENGTH_ALONE = {"kimi", "l1_exact", "o1_pruner", "shorterbetter"}
NEVER_BEATEN = sorted(SETTINGS.keys() - BY_LENGTH_ALONE)


@st.composite
def groups(draw, name):
    """(lengths, correct, settings), with the lists that go with the lengths among the settings."""
    rows = draw(st.lists(st.tuples(LENGTH, st.booleans(), TOKENS), max_size=8))
    chosen = {key: draw(strategy) for key, strategy in SETTINGS[name].items()}
    if "budgets" in inspect.signature(getattr(length, name)).parameters:
        chosen["budgets"] = [row[2] for row in rows]
    return [row[0] for row in rows], [row[1] for row in rows], chosen


def test_every_function_is_here():
    public = {n for n, f in inspect.getmembers(length, inspect.isfunction) if not n.startswith("_")}
    assert public - {"fmean", "pstdev"} == {"iteration_decay", *SETTINGS}


@pytest.mark.parametrize("name", SETTINGS)
def test_finite_and_blind_to_the_order_of_the_group(name):
    function = getattr(length, name)

    @quick
    @given(groups(name), st.randoms(use_true_random=False))
    def check(group, random):
        lengths, correct, chosen = group
        values = function(lengths, correct, **chosen)
        assert len(values) == len(lengths)
        assert all(isinstance(value, float) and math.isfinite(value) for value in values)
        order = random.sample(range(len(lengths)), len(lengths))
        moved = dict(chosen)
        if "budgets" in chosen:
            moved["budgets"] = [chosen["budgets"][i] for i in order]
        if "ref_lengths" in chosen:
            moved["ref_lengths"] = sorted(chosen["ref_lengths"])
        found = function([lengths[i] for i in order], [correct[i] for i in order], **moved)
        assert found == [values[i] for i in order]

    check()


@pytest.mark.parametrize("name", NEVER_BEATEN)
def test_a_wrong_one_never_beats_a_right_one(name):
    function = getattr(length, name)

    @quick
    @given(groups(name))
    def check(group):
        lengths, correct, chosen = group
        _assert_right_is_best(function(lengths, correct, **chosen), correct)

    check()


@quick
@given(groups("kimi"), st.floats(0.5, 10.0))
def test_kimi_added_to_answer_never_pays_more_for_a_wrong_one(group, weight):
    """answer + kimi holds; so it does for any weight of `answer` from 0.5 on."""
    lengths, correct, _ = group
    terms = length.kimi(lengths, correct)
    _assert_right_is_best([weight * c + term for c, term in zip(correct, terms, strict=True)], correct)


@quick
@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 1.0)), min_size=1, max_size=8))
def test_answer_times_any_factor_from_0_to_1(rows):
    correct, factors = [row[0] for row in rows], [row[1] for row in rows]
    _assert_right_is_best(_multiplied(correct, factors), correct)


@quick
@given(st.data(), st.integers(1, 20))
def test_answer_times_iteration_decay(data, max_rounds):
    rows = data.draw(st.lists(st.tuples(st.booleans(), st.integers(1, max_rounds)), min_size=1, max_size=8))
    correct, rounds = [row[0] for row in rows], [row[1] for row in rows]
    decay = length.iteration_decay(rounds, max_rounds)
    assert all(0.0 < factor <= 1.0 for factor in decay)
    assert decay == [length.iteration_decay([n], max_rounds)[0] for n in rounds]
    totals = _multiplied(correct, decay)
    assert all((total > 0.0) == c for total, c in zip(totals, correct, strict=True))  # right ones beat all wrong ones
    fewest_first = sorted(range(len(rounds)), key=rounds.__getitem__)
    assert all(decay[a] >= decay[b] for a, b in pairwise(fewest_first))


@pytest.mark.parametrize(
    ("name", "right", "wrong", "chosen"),
    [
        ("kimi", 8000, 2000, {}),
        ("l1_exact", 8000, 4000, {"budgets": [4000, 4000]}),
        ("o1_pruner", 4000, 100, {"ref_lengths": [4000], "ref_accuracy": 0.5}),
        ("alp", 10**8, 1, {}),
    ],
)
def test_where_a_wrong_one_beats_a_right_one(name, right, wrong, chosen):
    """By the papers' formulas, with their defaults: not a fault of the code, but to be known."""
    values = getattr(length, name)([right, wrong], [True, False], **chosen)
    assert values[1] > values[0]


def test_shorterbetter_pays_more_for_a_wrong_one_2000_tokens_nearer_to_the_shortest_right_one():
    values = length.shorterbetter([1000, 4000, 1500], [True, True, False])
    assert values == pytest.approx([2.0, -1.0, -0.5])


def test_iteration_decay_past_max_rounds_makes_a_right_one_worse_than_a_wrong_one():
    """No episode has more rounds than the protocol's phi, but `max_rounds` can be set below it in the reward."""
    assert _multiplied([True, False], length.iteration_decay([5, 5], 3)) == pytest.approx([-7 / 9, 0.0])


def _multiplied(correct, factors):
    """Totals of `answer` times a function with `combine: multiply`, as a run composes them."""
    segment = Segment([1], [2], None, "", "stop", Turn("conclusion", conclusion=""))
    episodes = [Episode("q", "1", 0, [segment], StopReason.ANSWERED) for _ in correct]
    answer = Reward(lambda **_: [float(c) for c in correct], "answer")
    return score_episodes(episodes, [answer, Reward(lambda **_: factors, "factor", combine="multiply")]).total


def _assert_right_is_best(values, correct):
    right = [value for value, c in zip(values, correct, strict=True) if c]
    wrong = [value for value, c in zip(values, correct, strict=True) if not c]
    if right and wrong:
        assert max(wrong) <= min(right)
