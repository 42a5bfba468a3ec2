"""Length and efficiency rewards: pure functions of one group that return one float per episode.

`lengths[i]`: tokens generated in episode i, over all its rounds; `correct[i]`: whether its answer was verified. All
raise ValueError that names the argument: lists of unequal length, a length below 1, a parameter that is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any


def iteration_decay(rounds: Sequence[int], max_rounds: int) -> list[float]:
    """1 - ((n - 1) / phi)^2 for each episode of n rounds (phi = `max_rounds`), to be multiplied with the task reward.

    InftyThink+ (arXiv 2602.06960), eq. 4.
    """
    _check_counts("max_rounds", [max_rounds])
    _check_counts("rounds", rounds)
    return [1.0 - ((n - 1) / max_rounds) ** 2 for n in rounds]


def kimi(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """0.5 for the shortest of the group to -0.5 for the longest; at most 0 for a wrong episode.

    Kimi k1.5 (arXiv 2501.12599), section 2.3.3. All 0 if all lengths are equal.
    """
    _check_group(lengths, correct)
    if not lengths or max(lengths) == min(lengths):
        return [0.0] * len(lengths)
    least, most = min(lengths), max(lengths)
    terms = [0.5 - (length - least) / (most - least) for length in lengths]
    return [term if right else min(0.0, term) for term, right in zip(terms, correct, strict=True)]


def l1_exact(
    lengths: Sequence[int], correct: Sequence[bool], budgets: Sequence[float], alpha: float = 0.0003
) -> list[float]:
    """c - alpha * |budget - L|: the length should equal the budget. L1 / LCPO (arXiv 2503.04697), eq. 1."""
    _check_group(lengths, correct, budgets=budgets)
    _check_finite(alpha=alpha)
    return [c - alpha * abs(n - length) for length, c, n in zip(lengths, map(float, correct), budgets, strict=True)]


def l1_max(
    lengths: Sequence[int],
    correct: Sequence[bool],
    budgets: Sequence[float],
    alpha: float = 0.0003,
    delta: float = 0.5,
) -> list[float]:
    """c * clip(alpha * (budget - L) + delta, 0, 1): the budget is a maximum. arXiv 2503.04697, eq. 2."""
    _check_group(lengths, correct, budgets=budgets)
    _check_finite(alpha=alpha, delta=delta)
    rows = zip(lengths, map(float, correct), budgets, strict=True)
    return [c * _clip(alpha * (n - length) + delta, 0.0, 1.0) for length, c, n in rows]


def o1_pruner(
    lengths: Sequence[int],
    correct: Sequence[bool],
    ref_lengths: Sequence[int],
    ref_accuracy: float,
    alpha: float = 5.0,
    low: float = -2.0,
    high: float = 4.0,
) -> list[float]:
    """clip(mean(ref_lengths) / L - 1 + alpha * (c - ref_accuracy), low, high).

    O1-Pruner (arXiv 2501.12570; its code divides by L). The reference is sampled from the model before training.
    """
    _check_group(lengths, correct)
    _check_counts("ref_lengths", ref_lengths)
    _check_finite(ref_accuracy=ref_accuracy, alpha=alpha, low=low, high=high)
    if not ref_lengths:
        raise ValueError("ref_lengths is empty; it must contain the lengths of the reference model's samples")
    reference = fmean(ref_lengths)
    rows = zip(lengths, map(float, correct), strict=True)
    return [_clip(reference / length - 1.0 + alpha * (c - ref_accuracy), low, high) for length, c in rows]


def dast(lengths: Sequence[int], correct: Sequence[bool], max_length: int) -> list[float]:
    """Compares L with a budget between the correct episodes' mean length and `max_length`, by the group's accuracy.

    DAST (arXiv 2503.04472), section 3: with lam = (L - budget) / budget, correct: max(0.5 - 0.5 lam, 0.1), wrong:
    min(0.9 lam - 0.1, -0.1).
    """
    _check_group(lengths, correct)
    _check_counts("max_length", [max_length])
    right = [length for length, c in zip(lengths, correct, strict=True) if c]
    accuracy = len(right) / len(lengths) if lengths else 0.0
    budget = accuracy * fmean(right) + (1.0 - accuracy) * max_length if right else float(max_length)
    terms = [(length - budget) / budget for length in lengths]
    return [
        max(0.5 - 0.5 * term, 0.1) if c else min(0.9 * term - 0.1, -0.1) for term, c in zip(terms, correct, strict=True)
    ]


def arora_zanette(lengths: Sequence[int], correct: Sequence[bool], alpha: float = 0.1) -> list[float]:
    """c * (1 - alpha * sigma((L - mean) / (std + 1e-7))), mean and std over correct episodes. arXiv 2502.04463."""
    _check_group(lengths, correct)
    _check_finite(alpha=alpha)
    right = [length for length, c in zip(lengths, correct, strict=True) if c]
    if not right:
        return [0.0] * len(lengths)
    mean, std = fmean(right), pstdev(right)
    rows = zip(lengths, correct, strict=True)
    return [1.0 - alpha * _sigmoid((length - mean) / (std + 1e-7)) if c else 0.0 for length, c in rows]


def shorterbetter(
    lengths: Sequence[int], correct: Sequence[bool], alpha: float = 2.0, beta: float = 0.001
) -> list[float]:
    """alpha * c - beta * |L - L*|, L*: the shortest correct length, or the mean if none. arXiv 2504.21370."""
    _check_group(lengths, correct)
    _check_finite(alpha=alpha, beta=beta)
    if not lengths:
        return []
    right = [length for length, c in zip(lengths, correct, strict=True) if c]
    best = min(right) if right else fmean(lengths)
    return [alpha * float(c) - beta * abs(length - best) for length, c in zip(lengths, correct, strict=True)]


def hapo(
    lengths: Sequence[int],
    correct: Sequence[bool],
    best_length: float | None,
    weight: float = 1.0,
    floor: float = -0.7,
) -> list[float]:
    """c + weight * (max(f, floor) if correct else min(f, 0)), f = cos(min(pi L / (2 h), pi)).

    HAPO (arXiv 2505.11225). h = `best_length`: the shortest correct length seen so far for this question; None if there
    is none yet, and then the term is 0.
    """
    _check_group(lengths, correct)
    _check_finite(weight=weight, floor=floor)
    if best_length is None:
        return [float(c) for c in correct]
    _check_counts("best_length", [best_length])
    terms = [math.cos(min(math.pi * length / (2.0 * best_length), math.pi)) for length in lengths]
    rows = zip(terms, correct, strict=True)
    return [float(c) + weight * (max(f, floor) if c else min(f, 0.0)) for f, c in rows]


def alp(lengths: Sequence[int], correct: Sequence[bool], beta: float = 1e-7) -> list[float]:
    """c - beta * L * max(p, 1/G), p: share correct of G. Easy questions cost more per token. arXiv 2506.05256."""
    _check_group(lengths, correct)
    _check_finite(beta=beta)
    price = beta * max(sum(map(bool, correct)), 1) / max(len(lengths), 1)
    return [float(c) - price * length for length, c in zip(lengths, correct, strict=True)]


def thinkprune(lengths: Sequence[int], correct: Sequence[bool], limit: float) -> list[float]:
    """c if L <= limit, else 0. ThinkPrune (arXiv 2504.01296), which lowers the limit from stage to stage."""
    _check_group(lengths, correct)
    _check_finite(limit=limit)
    return [float(c) if length <= limit else 0.0 for length, c in zip(lengths, correct, strict=True)]


def laser(lengths: Sequence[int], correct: Sequence[bool], target: float, bonus: float = 0.5) -> list[float]:
    """1 + bonus if correct within `target`, 1 if correct, -0.5 if wrong. LASER (arXiv 2505.15612)."""
    _check_group(lengths, correct)
    _check_finite(target=target, bonus=bonus)
    rows = zip(lengths, correct, strict=True)
    return [(1.0 + bonus if length <= target else 1.0) if c else -0.5 for length, c in rows]


def _clip(value: float, low: float, high: float) -> float:
    return max(low, min(high, value))


def _sigmoid(value: float) -> float:
    """Sigmoid without overflow: for an outlier among nearly equal lengths, `value` is huge."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)


def _check_group(lengths: Sequence[int], correct: Sequence[bool], **others: Sequence[float]) -> None:
    for name, values in {"correct": correct, **others}.items():
        if len(values) != len(lengths):
            raise ValueError(f"{name} has {len(values)} values for {len(lengths)} lengths")
    _check_counts("lengths", lengths)
    for name, values in others.items():
        for value in values:
            _check_finite(**{name: value})


def _check_counts(name: str, values: Sequence[Any]) -> None:
    for value in values:
        if not math.isfinite(value) or value < 1:
            raise ValueError(f"{name} contains {value}; values must be finite and at least 1")


def _check_finite(**parameters: float) -> None:
    for name, value in parameters.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be a finite number")
