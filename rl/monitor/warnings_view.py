"""A run's curves for the warning rules: medians over several log lines, so that one odd batch raises no warning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl.monitor.curves import Curves
from rl.monitor.runs import Run

WINDOW = 10  # log lines per median: with 256 episodes per line it varies by a point or two by chance
TREND_LINES = 2 * WINDOW  # with fewer, the start and the end of a trend would share lines
LEVEL_LINES = 5  # an extreme state is reported sooner than a trend
RECENT = 20  # log lines for which a failure counts as recent


@dataclass(frozen=True)
class RunWarning:
    """One likely problem."""

    kind: str
    level: str  # "serious" or "warning"
    title: str
    detail: str  # the figures
    remedy: str  # names the settings to change
    step: int | None = None
    chart: str | None = None  # id of the chart that shows it (`rl.monitor.charts`)
    stage: str = "rl"  # stage of the step and the chart


class View:
    """RL curves without non-finite values, and settings."""

    def __init__(self, run: Run, curves: Curves, now: float):
        self.run, self.curves, self.now = run, curves, now
        self.step = curves.last_step("rl")
        self.names = curves.names("rl")
        self.protocol = run.protocol()

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (steps, values) with finite values."""
        steps, _, values = self.curves.series("rl", name)
        finite = np.isfinite(values)
        return steps[finite], values[finite]

    def level(self, name: str) -> float:
        """Returns the median of the last lines; nan while there are too few."""
        values = self.points(name)[1]
        return float(np.median(values[-LEVEL_LINES:])) if len(values) >= LEVEL_LINES else math.nan

    def all_along(self, name: str) -> float:
        """Returns `level` or, while there are too few lines, the minimum so far, which no single line can raise."""
        values, level = self.points(name)[1], self.level(name)
        return float(values.min()) if math.isnan(level) and len(values) else level

    def ends(self, name: str) -> tuple[float, float]:
        """Returns the medians of the first and the last window; nan while the run is short."""
        values = self.points(name)[1]
        if len(values) < TREND_LINES:
            return math.nan, math.nan
        return float(np.median(values[:WINDOW])), float(np.median(values[-WINDOW:]))

    def number(self, path: str, default: float) -> float:
        """Returns the numeric setting `section.key`, or the default if the config has none."""
        value = self._get(path)
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return value if known else default

    def setting(self, path: str) -> str:
        """Returns the name of a setting for a remedy, with its value if the config has one."""
        value = self._get(path)
        return path if value is None or isinstance(value, dict | list) else f"{path} (now {value})"

    def _get(self, path: str) -> Any:
        section, _, key = path.rpartition(".")  # a stage may have a dot in its name
        return self.run.section(section).get(key)

    def warning(self, kind: str, level: str, title: str, detail: str, remedy: str, chart: str) -> RunWarning:
        """Builds a warning about the last RL step."""
        return RunWarning(kind, level, title, detail, remedy, self.step, chart)


def noise(values: np.ndarray) -> float:
    """Returns the standard error of a window's median, from differences of neighboring lines: a trend adds nothing."""
    deviation = 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)
    return 1.2533 * deviation / math.sqrt(WINDOW)
