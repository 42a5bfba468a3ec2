"""Means, maxima and minima over the micro-batches of a log interval, and over ranks."""

from __future__ import annotations

from collections import defaultdict

from accelerate.utils import gather_object


class Meter:
    """Weighted means: micro-batches hold unequal numbers of tokens, so a plain mean over them would be wrong."""

    def __init__(self):
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._maxima: dict[str, float] = {}
        self._minima: dict[str, float] = {}

    def add(self, name: str, value: float, weight: float) -> None:
        """Counts `value` with `weight` in the mean called `name`."""
        self._sums[name][0] += value * weight
        self._sums[name][1] += weight

    def top(self, name: str, value: float) -> None:
        """Keeps the greatest `value` under `name`."""
        self._maxima[name] = max(value, self._maxima.get(name, value))

    def bottom(self, name: str, value: float) -> None:
        """Keeps the least `value` under `name`."""
        self._minima[name] = min(value, self._minima.get(name, value))

    def flush(self) -> dict[str, float]:
        """All values over all ranks, and starts anew. A collective: every rank calls it."""
        parts = gather_object([(dict(self._sums), self._maxima, self._minima)])
        self.__init__()
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
