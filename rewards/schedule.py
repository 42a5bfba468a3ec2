"""Weights and settings that change with the step, and terms that count only in groups of some accuracy."""

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
    """A value for every optimizer step, from `points` of (step, value). Before the first and after the last: theirs.

    `linear` goes from point to point in a line (a warm-up); otherwise a value holds until the next point (ThinkPrune's
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
    """`value`, or the Schedule that `{schedule: steps|linear, points: {step: value}}` describes.

    Raises:
        InputError: what is wrong with the description, and where.
    """
    if not (isinstance(value, dict) and "schedule" in value):
        return value
    kind, points = value["schedule"], value.get("points")
    if kind not in ("steps", "linear") or value.keys() != {"schedule", "points"}:
        raise InputError(f"{where}: a schedule is {{schedule: steps or linear, points: {{step: value}}}}, not {value}")
    if not isinstance(points, dict) or not points:
        raise InputError(f"{where}: points must be {{step: value}}, as {{0: 0.0, 100: 0.5}}, not {points!r}")
    for step, point in points.items():
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(f"{where}: {step!r} is not an optimizer step")
        if isinstance(point, bool) or not isinstance(point, int | float):
            raise InputError(f"{where}: the value at step {step} is {point!r}; it must be a number")
    return Schedule(tuple(sorted(points.items())), kind == "linear")


def at_step(value: Any, step: int) -> Any:
    """The value of a schedule at `step`; anything else as it is."""
    return value.at(step) if isinstance(value, Schedule) else value


def step_of(context: dict[str, Any]) -> int:
    """Optimizer step of the trainer that calls; 0 where nobody says."""
    return getattr(context.get("trainer_state"), "global_step", 0)


@dataclass(frozen=True)
class Gate:
    """A term counts in groups whose share of right answers is within these bounds, both included."""

    min_accuracy: float = 0.0
    max_accuracy: float = 1.0

    def __post_init__(self):
        for name in ("min_accuracy", "max_accuracy"):
            bound = getattr(self, name)
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0.0 <= bound <= 1.0:
                raise InputError(f"gate.{name} is {bound!r}; it must be a share from 0 to 1")
        if self.min_accuracy > self.max_accuracy:
            raise InputError(f"gate: min_accuracy {self.min_accuracy} is above max_accuracy {self.max_accuracy}")

    def opens(self, episodes: Sequence[Episode], correct: Sequence[float | None]) -> list[bool]:
        """For each episode, whether its group's accuracy is within the bounds.

        Episodes that can't be judged don't count; a group of none but those is closed.
        """
        verdicts: dict[Hashable, list[float]] = defaultdict(list)
        for episode, value in zip(episodes, correct, strict=True):
            if value is not None:
                verdicts[episode.group_id].append(value)
        accuracy = {group: fmean(values) for group, values in verdicts.items()}
        return [self.min_accuracy <= accuracy.get(e.group_id, -1.0) <= self.max_accuracy for e in episodes]
