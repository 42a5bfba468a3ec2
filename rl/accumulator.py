"""Accumulates metrics between two logs, over micro-batches and ranks, and the seconds of an optimizer step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils import gather_object


class MetricAccumulator:
    """Weighted means, maxima and minima. Micro-batches differ in tokens, so a plain mean over them would be wrong."""

    def __init__(self):
        self.clear()

    def clear(self) -> None:
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._maxima: dict[str, float] = {}
        self._minima: dict[str, float] = {}

    def add(self, name: str, value: float, weight: float) -> None:
        """Adds `value` with `weight` to the mean `name`."""
        self._sums[name][0] += value * weight
        self._sums[name][1] += weight

    def max(self, name: str, value: float) -> None:
        """Keeps the largest `value` of `name`."""
        self._maxima[name] = max(value, self._maxima.get(name, value))

    def min(self, name: str, value: float) -> None:
        """Keeps the smallest `value` of `name`."""
        self._minima[name] = min(value, self._minima.get(name, value))

    def flush(self) -> dict[str, float]:
        """Returns the values over all ranks and clears them. Collective: every rank calls it."""
        parts = gather_object([(dict(self._sums), self._maxima, self._minima)])
        self.clear()
        means: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        values: dict[str, float] = {}
        for sums, maxima, minima in parts:
            for name, (total, weight) in sums.items():
                means[name][0] += total
                means[name][1] += weight
            for name, value in maxima.items():
                values[name] = max(value, values.get(name, value))
            for name, value in minima.items():
                values[name] = min(value, values.get(name, value))
        return values | {name: total / weight for name, (total, weight) in means.items() if weight}


class StepTimes:
    """Seconds of one optimizer step on this rank, summed by name."""

    def __init__(self):
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the seconds that the block takes to `name`."""
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

    def flush(self) -> dict[str, float]:
        """Returns the sums and clears them."""
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds
