"""Length rewards: the shared vectors, and what holds for any group."""

from __future__ import annotations

import inspect
import json
import math
import random

import pytest

from rewards import length

PARAMETERS = {
    "kimi": {},
    "l1_exact": {},
    "l1_max": {},
    "o1_pruner": {"ref_lengths": [900, 4000, 77], "ref_accuracy": 0.4},
    "dast": {"max_length": 8192},
    "arora_zanette": {},
    "shorterbetter": {},
    "hapo": {"best_length": 700},
    "alp": {},
    "thinkprune": {"limit": 2000},
    "laser": {"target": 2000},
}


def call(name, lengths, correct, budgets=None):
    function = getattr(length, name)
    given = dict(PARAMETERS[name])
    if "budgets" in inspect.signature(function).parameters:
        given["budgets"] = [1000] * len(lengths) if budgets is None else budgets
    return function(lengths, correct, **given)


def test_vectors(shared_data):
    cases = json.loads((shared_data / "reward_vectors.json").read_text())
    assert {case["function"] for case in cases} == {"iteration_decay", *PARAMETERS}
    for case in cases:
        values = getattr(length, case["function"])(**case["kwargs"])
        assert values == pytest.approx(case["expected"], abs=1e-6), case


@pytest.mark.parametrize("name", PARAMETERS)
def test_any_group_in_any_order(name):
    rng = random.Random(0)
    for _ in range(200):
        size = rng.randrange(1, 9)
        lengths = [rng.choice([1, 2, 500, rng.randrange(1, 20000)]) for _ in range(size)]
        correct = [rng.random() < 0.5 for _ in range(size)]
        values = call(name, lengths, correct)
        assert len(values) == size and all(isinstance(v, float) and math.isfinite(v) for v in values)
        order = rng.sample(range(size), size)
        moved = call(name, [lengths[i] for i in order], [correct[i] for i in order])
        assert moved == pytest.approx([values[i] for i in order], abs=1e-12)
        for i in range(size):  # of two as long, the right one never has less
            for j in range(size):
                if lengths[i] == lengths[j] and correct[i] and not correct[j]:
                    assert values[i] >= values[j]


@pytest.mark.parametrize("name", PARAMETERS)
def test_nonsense_is_refused_by_name(name):
    assert call(name, [], []) == []
    with pytest.raises(ValueError, match="correct has 1 values for 2 lengths"):
        call(name, [5, 6], [True])
    for bad in (0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lengths contains"):
            call(name, [bad], [True])
    function = getattr(length, name)
    for parameter in inspect.signature(function).parameters:
        if parameter in ("lengths", "correct", "budgets", "ref_lengths"):
            continue
        given = PARAMETERS[name] | ({"budgets": [3.0]} if name.startswith("l1") else {}) | {parameter: float("nan")}
        with pytest.raises(ValueError, match=parameter):
            function([5], [True], **given)


def test_lists_beside_the_lengths_are_checked_too():
    with pytest.raises(ValueError, match="budgets has 1 values for 2 lengths"):
        call("l1_max", [5, 6], [True, False], budgets=[3])
    with pytest.raises(ValueError, match="budgets is inf"):
        call("l1_exact", [5], [True], budgets=[math.inf])
    with pytest.raises(ValueError, match="ref_lengths is empty"):
        length.o1_pruner([5], [True], [], 0.5)
    with pytest.raises(ValueError, match="ref_lengths contains 0"):
        length.o1_pruner([5], [True], [0], 0.5)


def test_far_from_a_mean_of_equal_lengths_nothing_overflows():
    values = length.arora_zanette([10, 10, 10, 10**9], [True, True, True, False])
    assert values[:3] == pytest.approx([0.95] * 3) and values[3] == 0.0
