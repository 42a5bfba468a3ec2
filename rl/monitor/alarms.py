"""What looks wrong in a run's curves: with the figures it was seen in, and what to do."""

from __future__ import annotations

import time

from rl.monitor.alarm_view import Alarm, View
from rl.monitor.alarms_learning import LEARNING
from rl.monitor.alarms_machinery import MACHINERY
from rl.monitor.curves import Curves
from rl.monitor.runs import Run

__all__ = ["Alarm", "find"]


def find(run: Run, curves: Curves, now: float | None = None) -> list[Alarm]:
    """Alarms of a run, the serious ones first.

    Args:
        curves: refreshed by the caller.
        now: unix seconds; None: the clock's.
    """
    view = View(run, curves, time.time() if now is None else now)
    found = [alarm for rule in (*MACHINERY, *LEARNING) for alarm in rule(view)]
    return sorted(found, key=lambda alarm: alarm.level != "serious")
