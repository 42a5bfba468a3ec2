"""One run in `sawtooth top`: its step, main metrics, stop reasons, step time by part, warnings."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rl.monitor.charts import natural
from rl.monitor.figures import duration, number
from rl.monitor.runs import Run
from rl.monitor.warnings_find import find_warnings
from rl.monitor.warnings_view import RunWarning

_MAIN = {
    "rl": {
        "reward/mean": "reward", "accuracy/mean": "accuracy", "episode/rounds/mean": "rounds",
        "episode/tokens/mean": "tokens", "episode/context/mean": "peak context",
        "summary/tokens/mean": "summary tokens", "group/frac_zero_std": "equal groups", "entropy": "entropy",
        "mismatch/logprob_diff/mean": "mismatch", "clip_ratio/region_mean": "clipped", "kl": "KL",
        "rollout/staleness/mean": "staleness", "loss": "loss", "grad_norm": "gradient norm", "step_time": "step time",
    },
    "sft": {
        "loss": "loss", "mean_token_accuracy": "token accuracy", "entropy": "entropy", "grad_norm": "gradient norm",
        "learning_rate": "learning rate",
    },
}  # fmt: skip
_GOOD_UP = {"reward/mean", "accuracy/mean", "mean_token_accuracy"}
_STATES = {"running": "green", "finished": "cyan", "waiting": "yellow", "stopped": "yellow"}
_STOPS = {
    "answered": "green",
    "max_rounds": "yellow",
    "malformed": "magenta",
    "truncated": "red",
    "failed": "bright_black",
}
_BACK = 20  # steps over which a change is shown
_SPARKS = "▁▂▃▄▅▆▇█"
_NARROW = 64  # columns: below it there is no room for sparklines


def panel_of_run(run: Run, summary: dict[str, Any], console: Console, brief: bool = False) -> Panel:
    """Returns the full panel of a run.

    Args:
        summary: a fresh `run.summary()`.
        brief: for a short terminal: warnings before the metrics, one line each, without remedies.
    """
    state, stage, latest = summary["state"], summary["stage"], summary["latest"]
    parts: list[Any] = []
    if stage is not None:
        warnings = [_warning(warning, brief) for warning in find_warnings(run, run.curves)]
        numbers = [_numbers(run, stage, console), _stops(latest), _times(latest)]
        numbers = [part for part in numbers if part is not None]
        parts = [_where(run, summary, console), *(warnings + numbers if brief else numbers + warnings)]
    elif state == "waiting":
        parts.append(Text("nothing has been logged yet", "dim"))
    if summary["message"]:
        parts.append(Text(plain(summary["message"]), "yellow"))
    title = Text.assemble(
        (plain(summary["id"]), "bold"), " ", (state, _STATES.get(state, "red")), plain(f" {stage or ''}".rstrip())
    )
    return Panel(Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="bright_black")


def _warning(warning: RunWarning, brief: bool) -> Text:
    text = Text(
        f"{warning.level.upper()}: {plain(warning.title)}", "bold red" if warning.level == "serious" else "bold yellow"
    )
    text.append(f" ({plain(warning.detail)})", "not bold default")
    if brief:
        text.no_wrap, text.overflow = True, "ellipsis"
        return text
    return text.append(f". {plain(warning.remedy)}", "dim not bold default")


def lines_of_runs(runs: Sequence[Run], summaries: dict[str, dict[str, Any]]) -> Table:
    """Returns a table of the runs without room for a panel, one line each."""
    table = Table(box=None, pad_edge=False, expand=True)
    for head in ("run", "state", "step", "reward", "accuracy", "warnings"):
        table.add_column(head, no_wrap=True, overflow="ellipsis")
    for run in runs:
        summary = summaries[run.id]
        latest, serious = summary["latest"], find_warnings(run, run.curves)
        table.add_row(
            Text(plain(summary["id"])), Text(summary["state"], _STATES.get(summary["state"], "red")), _steps(summary),
            number(latest.get("reward/mean")), number(latest.get("accuracy/mean")),
            Text(str(len(serious)) if serious else "-", "bold red" if serious else ""),
        )  # fmt: skip
    return table


def _where(run: Run, summary: dict[str, Any], console: Console) -> Text:
    """Returns progress bar, step, seconds per step, time left, and age of the last log line."""
    stage, step, most = summary["stage"], summary["step"] or 0, summary["max_steps"]
    text = Text()
    if most:
        width = max(5, min(30, console.width - 50))
        filled = round(width * min(1.0, step / most))
        full, empty = ("#", "-") if console.options.ascii_only else ("█", "░")
        text.append(full * filled, "green").append(empty * (width - filled), "bright_black").append(" ")
    text.append(f"step {_steps(summary)}")
    pace = seconds_of_step(run, stage)
    if pace is not None:
        text.append(f", {duration(pace)} per step")
        if most and summary["state"] == "running" and step < most:
            text.append(f", {duration(pace * (most - step))} left")
    if summary["updated"]:
        text.append(f", last log {duration(max(0.0, round(time.time() - summary['updated'])))} ago", "dim")
    return text


def _numbers(run: Run, stage: str, console: Console) -> Table:
    """Returns the main metrics: latest value, change over `_BACK` steps (or since the first), and sparkline."""
    course = console.width >= _NARROW and not console.options.ascii_only
    table = Table(box=None, pad_edge=False, header_style="bright_black")
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column("now", justify="right", no_wrap=True, min_width=8)
    table.add_column("", justify="right", no_wrap=True, min_width=9)
    if course:
        table.add_column("trend", no_wrap=True, overflow="crop")
    for name, label in _rows(run, stage):
        steps, _, values = run.curves.series(stage, name)
        known = np.isfinite(values)
        if not known.any():
            continue
        now = Text(number(values[-1]), "bold") if known[-1] else Text(str(values[-1]), "bold red")
        steps, values = steps[known], values[known]
        then = max(0, int(np.searchsorted(steps, steps[-1] - _BACK, "right")) - 1)
        change = Text()
        if then < len(steps) - 1:
            change = _change(name, float(values[-1] - values[then]))
            table.columns[2].header = table.columns[2].header or f"in {steps[-1] - steps[then]:.0f} steps"
        cells = [Text(plain(label)), now, change]
        table.add_row(*cells, *([Text(sparkline(values, min(40, console.width - 44)), "cyan")] if course else []))
    return table


def _rows(run: Run, stage: str) -> list[tuple[str, str]]:
    """Returns metrics and labels: the parts of the reward and the accuracy by rounds follow their totals."""
    main, names = _MAIN.get(stage, _MAIN["sft"]), run.curves.names(stage)
    rows = []
    for name, label in main.items():
        rows.append((name, label))
        if name == "reward/mean":
            parts = [n for n in names if n.startswith("reward/") and n.endswith("/mean") and n != name]
            rows += [(n, f"  {n.removeprefix('reward/').removesuffix('/mean')}") for n in parts]
        if name == "accuracy/mean":
            parts = sorted((n for n in names if n.startswith("accuracy/rounds/")), key=natural)
            rows += [(n, f"  in {n.rpartition('/')[2]} rounds") for n in parts]
    return rows


def _change(name: str, change: float) -> Text:
    style = ("green" if change > 0 else "red") if name in _GOOD_UP and change else "dim"
    return Text(f"+{number(change)}" if change > 0 else number(change) if change else "=", style)


def _stops(latest: dict[str, float]) -> Text | None:
    shares = {reason: latest.get(f"episode/stop/{reason}", 0.0) for reason in _STOPS}
    if not any(shares.values()):
        return None
    parts = [(f"{reason} {share:.1%}", _STOPS[reason]) for reason, share in shares.items() if share]
    return Text("stop reasons: ") + Text(", ").join(Text(*part) for part in parts)


def _times(latest: dict[str, float]) -> Text | None:
    parts = {n.removeprefix("time/"): v for n, v in latest.items() if n.startswith("time/") and v > 0}
    if not parts:
        return None
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return Text("step time by part: " + ", ".join(f"{plain(name)} {_seconds(value)}" for name, value in ordered), "dim")


def _seconds(value: float) -> str:
    return "0.0 s" if value < 0.05 else duration(value)


def _steps(summary: dict[str, Any]) -> str:
    step, most = summary["step"], summary["max_steps"]
    return "-" if step is None else f"{step}/{most}" if most else str(step)


def seconds_of_step(run: Run, stage: str) -> float | None:
    """Returns seconds per optimizer step over the last log lines; None if there are too few."""
    longest = max(
        (run.curves.series(stage, name) for name in run.curves.names(stage)), key=lambda s: len(s[0]), default=None
    )
    if longest is None or len(longest[0]) < 2:
        return None
    steps, times = longest[0][-_BACK:], longest[1][-_BACK:]
    taken = (times[-1] - times[0]) / (steps[-1] - steps[0]) if steps[-1] > steps[0] else -1.0
    return float(taken) if taken > 0 else None


def sparkline(values: np.ndarray, width: int) -> str:
    """Draws a curve in block characters: means of neighboring values, scaled from minimum to maximum."""
    bins = [part.mean() for part in np.array_split(values, min(width, len(values)))]
    low, high = min(bins), max(bins)
    if not math.isfinite(high - low) or high == low:
        return _SPARKS[0] * len(bins)
    return "".join(_SPARKS[min(7, int(8 * (value - low) / (high - low)))] for value in bins)


def plain(text: str) -> str:
    """Replaces unprintable characters, which could control the terminal, in text from files and folder names."""
    return "".join(c if c.isprintable() else "?" for c in text)
