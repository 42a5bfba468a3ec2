"""A run's curves as the rules for warnings read them: medians over several log lines, so one odd batch is not news."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.monitor.curves import Curves
from rl.monitor.runs import Run

WINDOW = 10  # log lines of a median: with 256 episodes a line it moves by a point or two from chance
TREND_LINES = 2 * WINDOW  # fewer: the start and the end of a trend would be the same lines
LEVEL_LINES = 5  # an extreme state is told sooner than a trend
RECENT = 20  # log lines in which a failure is news


@dataclass(frozen=True)
class RunWarning:
    """One thing that looks wrong."""

    kind: str
    level: str  # "serious" or "warning"
    title: str
    detail: str  # the figures
    remedy: str  # with the names of our settings
    step: int | None = None
    chart: str | None = None  # id of the chart that shows it (`rl.monitor.charts`)
    stage: str = "rl"  # whose step and chart these are


class View:
    """Curves of RL, without values that are no number, and settings."""

    def __init__(self, run: Run, curves: Curves, now: float):
        self.run, self.curves, self.now = run, curves, now
        self.step = curves.last_step("rl")
        self.names = curves.names("rl")
        self.protocol = run.protocol()

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values)"""
        steps, _, values = self.curves.series("rl", name)
        finite = np.isfinite(values)
        return steps[finite], values[finite]

    def level(self, name: str) -> float:
        """Median of the last lines; nan while they are too few."""
        values = self.points(name)[1]
        return float(np.median(values[-LEVEL_LINES:])) if len(values) >= LEVEL_LINES else math.nan

    def all_along(self, name: str) -> float:
        """`level`, or, while lines are too few for it, the least value so far: what each line shows is no accident."""
        values, level = self.points(name)[1], self.level(name)
        return float(values.min()) if math.isnan(level) and len(values) else level

    def ends(self, name: str) -> tuple[float, float]:
        """Medians of the first and of the last window; nan while the run is short."""
        values = self.points(name)[1]
        if len(values) < TREND_LINES:
            return math.nan, math.nan
        return float(np.median(values[:WINDOW])), float(np.median(values[-WINDOW:]))

    def number(self, path: str, default: float) -> float:
        """A setting that is a number, `section.key`; the default where the config has none."""
        value = self._get(path)
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return value if known else default

    def setting(self, path: str) -> str:
        """The name of a setting for a remedy, with its value where the config holds one."""
        value = self._get(path)
        return path if value is None or isinstance(value, dict | list) else f"{path} (now {value})"

    def _get(self, path: str) -> Any:
        section, _, key = path.rpartition(".")  # a stage may have a dot in its name
        return self.run.section(section).get(key)

    def warning(self, kind: str, level: str, title: str, detail: str, remedy: str, chart: str) -> RunWarning:
        """A warning about the last step of RL."""
        return RunWarning(kind, level, title, detail, remedy, self.step, chart)


def noise(values: np.ndarray) -> float:
    """Standard error of a window's median, from the differences between neighbours: a trend adds nothing to it."""
    deviation = 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
    return 1.2533 * deviation / math.sqrt(WINDOW)
