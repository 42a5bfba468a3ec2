"""Statistics of samples: pass@k, intervals over questions, accuracy within r rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from rollout.errors import InputError


def accuracy_interval(per_question: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """Returns the 95% interval of a mean over questions. A question is one cluster: its samples are not independent.

    Args:
        per_question: a value from 0 to 1 per question: its share of correct samples, its pass@k or its maj@k.
    """
    mean = fmean(per_question)
    if len(per_question) < 2:
        return 0.0, 1.0
    half = z * stdev(per_question) / math.sqrt(len(per_question))
    return max(0.0, mean - half), min(1.0, mean + half)


def check_k(k: int, samples: int) -> None:
    """Raises `InputError` if k samples cannot be drawn."""
    if not 1 <= k <= samples:
        raise InputError(f"k is {k} with {samples} samples per question: k must be from 1 to the number of samples")


def default_k(samples: int) -> list[int]:
    """Returns those of 1, 8 and `samples` that are at most `samples`."""
    return sorted({k for k in (1, 8, samples) if k <= samples})


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Returns the probability that at least one of k of a question's samples, drawn without replacement, is correct.

    1 - C(n-c, k) / C(n, k), which is unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1). The quotient is the
    product of 1 - k/i over i = n-c+1 … n. Summing logarithms keeps a small result exact, unlike 1 - product.

    Args:
        samples: n. right: c, the number of correct ones.

    Raises:
        InputError: k is below 1 or above n.
    """
    check_k(k, samples)
    if samples - right < k:
        return 1.0
    if right == 0:
        return 0.0  # the sum below is empty, and gives -0.0
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(samples - right + 1, samples + 1)))


def within_rounds(rounds: Sequence[int], right: Sequence[bool], most: int) -> list[float]:
    """Returns the share of episodes correct and finished within r rounds, for r = 1 … most. It never decreases.

    Args:
        rounds: of each episode. right: whether each is correct.
    """
    return [fmean(ok and n <= r for n, ok in zip(rounds, right, strict=True)) for r in range(1, most + 1)]
