"""Length and efficiency rewards: pure functions over one group, one float an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence


def iteration_decay(rounds: Sequence[int], max_rounds: int) -> list[float]:
    """1 - ((n - 1) / phi)^2 for each episode of n rounds; meant to multiply the task reward.

    InftyThink+ (arXiv 2602.06960), eq. 4.

    Raises:
        ValueError: `max_rounds` or a number of rounds is below 1 or not finite.
    """
    if not math.isfinite(max_rounds) or max_rounds < 1:
        raise ValueError(f"max_rounds is {max_rounds}; it must be at least 1")
    for n in rounds:
        if not math.isfinite(n) or n < 1:
            raise ValueError(f"rounds holds {n}; an episode has at least 1 round")
    return [1.0 - ((n - 1) / max_rounds) ** 2 for n in rounds]
