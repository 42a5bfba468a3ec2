"""`sawtooth top`: the metrics of runs in a terminal, live or once."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from rl.monitor.runs import Run, Runs
from rl.monitor.summaries import Summaries
from rl.monitor.top_panel import lines_of_runs, panel_of_run
from rollout.errors import InputError

_SLICE = 0.2  # seconds of a sleep: Ctrl-C takes effect at once
_WAIT = 10.0  # seconds that a frame waits for the runs; a slower run is reported


def top(runs: Runs, once: bool, interval: float, console: Console | None = None) -> None:
    """Shows the runs until Ctrl-C, or prints one frame with `once` or if the output is not a terminal.

    Args:
        interval: seconds between two frames.
        console: None: standard output.

    Raises:
        InputError: `interval` is not above 0.
    """
    if not (math.isfinite(interval) and interval > 0):
        raise InputError(f"--interval is {interval}; it must be above 0 seconds")
    if console is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # a terminal without UTF-8 gets question marks, not a traceback
        console = Console(highlight=False)
    summaries = Summaries(_WAIT)
    if once or not console.is_terminal:
        console.print(frame(runs.refresh(), console, summaries=summaries))
        return
    last = None
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            last = frame(runs.refresh(), console, console.height, summaries)
            live.update(last, refresh=True)
            until = time.monotonic() + interval
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(_SLICE, left))
    if last is not None:
        console.print(last)


def frame(runs: Sequence[Run], console: Console, height: int | None = None, summaries: Summaries | None = None) -> Any:
    """Returns all runs as one renderable: full panels as far as they fit, one line for each other run.

    Args:
        height: lines of the screen; None: no limit.
        summaries: reads the runs; None: a new one.
    """
    lines = (summaries or Summaries(_WAIT)).of(runs)
    summaries = {run.id: line for run, line in zip(runs, lines, strict=True)}
    newest_first = sorted(
        runs, key=lambda run: (summaries[run.id]["state"] != "running", -(summaries[run.id]["updated"] or 0.0))
    )
    panels = [panel_of_run(run, summaries[run.id], console) for run in newest_first]
    full = len(panels)
    if height is not None:
        heights = [_lines(panel, console) for panel in panels]
        if panels and heights[0] > height:
            panels[0] = panel_of_run(newest_first[0], summaries[newest_first[0].id], console, brief=True)
            heights[0] = _lines(panels[0], console)
        while full > 1 and sum(heights[:full]) + (3 + len(panels) - full if full < len(panels) else 0) > height:
            full -= 1
    rest = newest_first[full:]
    return Group(*panels[:full], *([lines_of_runs(rest, summaries)] if rest else []))


def _lines(panel: Any, console: Console) -> int:
    return len(console.render_lines(panel, console.options.update(height=None)))
