"""Schedules of weights and settings over steps, and gates: terms that count only in groups within an accuracy range."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rollout.errors import InputError
from rollout.types import Episode


@dataclass(frozen=True)
class Schedule:
    """A value for every optimizer step, from `points` of (step, value), constant before the first and after the last.

    `linear` interpolates between points (a warm-up); otherwise a value is kept until the next point (ThinkPrune's
    limits, arXiv 2504.01296).
    """

    points: tuple[tuple[int, float], ...]
    linear: bool = False

    def at(self, step: int) -> float:
        index = bisect_right([s for s, _ in self.points], step)
        if index in (0, len(self.points)) or not self.linear:
            return self.points[max(index - 1, 0)][1]
        (before, low), (after, high) = self.points[index - 1 : index + 1]
        return low + (high - low) * (step - before) / (after - before)


def read_schedule(where: str, value: Any) -> Any:
    """Returns a Schedule if `value` is `{schedule: steps|linear, points: {step: value}}`, else `value` unchanged.

    Raises:
        InputError: an invalid schedule; the message begins with `where`.
    """
    if not (isinstance(value, dict) and "schedule" in value):
        return value
    kind, points = value["schedule"], value.get("points")
    if kind not in ("steps", "linear") or value.keys() != {"schedule", "points"}:
        raise InputError(f"{where}: a schedule is {{schedule: steps or linear, points: {{step: value}}}}, not {value}")
    if not isinstance(points, dict) or not points:
        raise InputError(f"{where}: points must be {{step: value}}, e.g. {{0: 0.0, 100: 0.5}}, not {points!r}")
    for step, point in points.items():
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(f"{where}: {step!r} is not an optimizer step")
        if isinstance(point, bool) or not isinstance(point, int | float):
            raise InputError(f"{where}: the value at step {step} is {point!r}; it must be a number")
    return Schedule(tuple(sorted(points.items())), kind == "linear")


def at_step(value: Any, step: int) -> Any:
    """Returns a schedule's value at `step`; anything else unchanged."""
    return value.at(step) if isinstance(value, Schedule) else value


def step_of(context: dict[str, Any]) -> int:
    """Returns the calling trainer's optimizer step; 0 if the context has no `trainer_state`."""
    return getattr(context.get("trainer_state"), "global_step", 0)


@dataclass(frozen=True)
class Gate:
    """Makes a term count only in groups whose accuracy is within these bounds, both inclusive."""

    min_accuracy: float = 0.0
    max_accuracy: float = 1.0

    def __post_init__(self):
        for name in ("min_accuracy", "max_accuracy"):
            bound = getattr(self, name)
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0.0 <= bound <= 1.0:
                raise InputError(f"gate.{name} is {bound!r}; it must be a fraction from 0 to 1")
        if self.min_accuracy > self.max_accuracy:
            raise InputError(f"gate: min_accuracy {self.min_accuracy} is above max_accuracy {self.max_accuracy}")

    def opens(self, episodes: Sequence[Episode], correct: Sequence[float | None]) -> list[bool]:
        """Returns, for each episode, whether its group's accuracy is within the bounds.

        Episodes that can't be judged don't count; the gate is closed for a group with only such episodes.
        """
        verdicts: dict[Hashable, list[float]] = defaultdict(list)
        for episode, value in zip(episodes, correct, strict=True):
            if value is not None:
                verdicts[episode.group_id].append(value)
        accuracy = {group: fmean(values) for group, values in verdicts.items()}
        return [self.min_accuracy <= accuracy.get(e.group_id, -1.0) <= self.max_accuracy for e in episodes]
