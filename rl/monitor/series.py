"""Curves as a page draws them: a range, at most so many points, and what lies between them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from rl.monitor.curves import Curves


def curve(
    curves: Curves, stage: str, name: str, *, x: str = "step", low: float | None, high: float | None, points: int
) -> dict[str, list | None]:
    """One metric over steps, or over seconds since the run's first log.

    Args:
        x: "step" or "time".
        low, high: range of x; None: open.
        points: most points; where there are more, each stands for several lines.

    Returns:
        `x`, `y` (means), and `low`, `high` (extremes of each point; None where a point is one line). No number: None.
    """
    steps, times, values = curves.series(stage, name)
    xs = steps if x == "step" else times - (curves.times()[0] if len(times) else 0.0)
    kept = np.ones(len(xs), bool)
    if low is not None:
        kept &= xs >= low
    if high is not None:
        kept &= xs <= high
    xs, values = xs[kept], np.where(np.isfinite(values[kept]), values[kept], np.nan)
    if len(xs) <= points:
        return {"x": xs.tolist(), "y": _numbers(values), "low": None, "high": None}
    edges = np.linspace(0, len(xs), points + 1).astype(int)
    buckets = [values[a:b][~np.isnan(values[a:b])] for a, b in pairwise(edges)]
    middle = [float(xs[a:b].mean()) for a, b in pairwise(edges)]
    return {
        "x": middle,
        "y": [float(b.mean()) if len(b) else None for b in buckets],
        "low": [float(b.min()) if len(b) else None for b in buckets],
        "high": [float(b.max()) if len(b) else None for b in buckets],
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
