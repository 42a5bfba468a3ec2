"""Downsamples curves for the page: a range, a limited number of points, and the extremes of each point."""

from __future__ import annotations

from typing import Any

import numpy as np

from rl.monitor.curves import Curves


def curve(
    curves: Curves, stage: str, name: str, *, x: str = "step", low: float | None, high: float | None, points: int
) -> dict[str, list | None]:
    """Returns one metric over steps, or over seconds since the run's first log.

    Args:
        x: "step" or "time".
        low, high: range of x; None: open.
        points: limit of points. If the stage has more lines in the range, a point covers several lines, the same
            ones for every metric, so that metrics can be stacked.

    Returns:
        `x` and `steps` (of a point's last line), `y` (means), and `low`, `high` (extremes of each point; None if each
        point is one line). Values that are not finite are None.
    """
    begun = curves.times()[:1].sum()
    all_steps, all_times = curves.lines(stage)
    grid, inside = _within(all_steps if x == "step" else all_times - begun, low, high)
    steps, times, values = curves.series(stage, name)
    xs, kept = _within(steps if x == "step" else times - begun, low, high)
    steps, values = steps[kept], values[kept]
    values = np.where(np.isfinite(values), values, np.nan)
    if len(grid) <= points:
        return {"x": xs.tolist(), "steps": steps.tolist(), "y": _numbers(values), "low": None, "high": None}
    edges = np.linspace(0, len(grid), points + 1).astype(int)
    last = edges[1:] - 1
    bucket = np.searchsorted(grid[edges[:-1]], xs, "right") - 1
    real = ~np.isnan(values)
    count = np.bincount(bucket[real], minlength=points)
    lowest, highest = np.full(points, np.inf), np.full(points, -np.inf)
    np.minimum.at(lowest, bucket[real], values[real])
    np.maximum.at(highest, bucket[real], values[real])
    shown = np.flatnonzero(np.bincount(bucket, minlength=points))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(bucket[real], values[real], minlength=points) / count
    return {
        "x": grid[last][shown].tolist(),
        "steps": all_steps[inside][last][shown].tolist(),
        "y": _numbers(mean[shown]),
        "low": _numbers(lowest[shown]),
        "high": _numbers(highest[shown]),
    }


def _within(xs: np.ndarray, low: float | None, high: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values in the range and their mask."""
    kept = np.ones(len(xs), bool)
    if low is not None:
        kept &= xs >= low
    if high is not None:
        kept &= xs <= high
    return xs[kept], kept


def _numbers(values: np.ndarray) -> list[Any]:
    return [float(value) if np.isfinite(value) else None for value in values]
