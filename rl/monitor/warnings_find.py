"""Finds likely problems in a run's curves, with the figures that show them and a remedy."""

from __future__ import annotations

import time

from rl.monitor.curves import Curves
from rl.monitor.runs import Run
from rl.monitor.warnings_learning import LEARNING
from rl.monitor.warnings_machinery import MACHINERY
from rl.monitor.warnings_view import RunWarning, View


def find_warnings(run: Run, curves: Curves, now: float | None = None) -> list[RunWarning]:
    """Returns the warnings of a run, serious ones first.

    Args:
        curves: refreshed by the caller.
        now: unix seconds; None: the current time.
    """
    view = View(run, curves, time.time() if now is None else now)
    found = [warning for rule in (*MACHINERY, *LEARNING) for warning in rule(view)]
    return sorted(found, key=lambda warning: warning.level != "serious")
