"""Statistics of samples: pass@k, intervals over questions, accuracy after at most r rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from rollout.errors import InputError


def accuracy_interval(per_question: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """95% interval of a mean over questions: samples of one question are not independent, so they are one cluster.

    Args:
        per_question: a value from 0 to 1 of each question: its share of right samples, its pass@k or its maj@k.
    """
    mean = fmean(per_question)
    if len(per_question) < 2:
        return 0.0, 1.0
    half = z * stdev(per_question) / math.sqrt(len(per_question))
    return max(0.0, mean - half), min(1.0, mean + half)


def check_k(k: int, samples: int) -> None:
    """Raises `InputError` where no k of the samples can be drawn."""
    if not 1 <= k <= samples:
        raise InputError(f"k is {k} with {samples} samples a question: k must be from 1 to the number of samples")


def default_k(samples: int) -> list[int]:
    """1, 8 and the samples, as far as there are so many."""
    return sorted({k for k in (1, 8, samples) if k <= samples})


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that at least one of k samples of a question, drawn from all of them without putting back, is right.

    1 - C(n-c, k) / C(n, k), which is unbiased (Chen et al. 2021, arXiv 2107.03374, eq. 1). The quotient is the
    product of 1 - k/i over i = n-c+1 … n; its logarithms keep a small result exact where 1 - product would not.

    Args:
        samples: n. right: c, how many of them are.

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
    """Share of episodes that were right and over within r rounds, for r = 1 … most: it never falls.

    Args:
        rounds: of each episode. right: whether each is.
    """
    return [fmean(ok and n <= r for n, ok in zip(rounds, right, strict=True)) for r in range(1, most + 1)]
