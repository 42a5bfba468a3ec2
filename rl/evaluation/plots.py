"""Plots: an evaluation's accuracy, training curves, and the sawtooth of one episode's context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

_COLORS = {"base": "#888888", "sft": "#4477aa", "rl": "#cc3311"}
_OTHER_COLORS = [
    "#4477aa", "#cc3311", "#228833", "#aa3377", "#ccbb44", "#66ccee", "#bb5500", "#555555",
    "#223355", "#ee99aa", "#88cc88", "#551144", "#777700", "#009988", "#ffaa66", "#bbbbbb",
]  # fmt: skip
_MOST_INSIDE = 4  # entries of a legend
_MARKERS = "osD^vP*X"
_WORDS = {"tokens_mean": ("generated tokens", "tokens per episode"), "latency_mean": ("latency", "seconds per episode")}


Out = Path | IO[bytes]
"""A picture's file, or a stream for the bytes of its PNG."""

_CHART_COLORS = ["#4477aa", "#cc3311", "#228833", "#ee7733", "#aa3377", "#009988", "#997700", "#6f6f6f"]
_STOPS = {"answered": 2, "max_rounds": 3, "malformed": 4, "truncated": 1, "failed": 7}
_AREAS = [0, 5, 2, 6, 3, 4, 1, 7]  # colors of stacked areas: red last, because it looks like a warning
_SMOOTHED = 60  # from this many points on, a line is smoothed and drawn over the raw one


def _figure(columns: int = 1, width: float = 6.4, height: float = 4.0) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width if columns == 1 else 4.4 * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _axes(title: str, x: str, y: str) -> Any:
    figure, axes = _figure()
    _dress(axes, title, x, y)
    return figure, axes


def _dress(axes: Any, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _legend(figure: Any, axes: Any) -> None:
    """Puts the legend inside the axes if it is short, else next to them."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) <= _MOST_INSIDE:
        axes.legend(frameon=False, fontsize=8)
    else:
        figure.set_figwidth(figure.get_figwidth() + 2.6)
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=8)


def _save(figure: Any, out: Out) -> None:
    figure.savefig(out, dpi=150)


def series_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the series of each row: its model, and its variant if that differs among a model's rows."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["stage"], set()).add(row.get("label") or "")
    several_models = len(labels) > 1
    names = []
    for row in rows:
        label = row.get("label") if len(labels[row["stage"]]) > 1 else None
        names.append(", ".join(filter(None, [row["stage"] if several_models or not label else None, label])))
    return names


def _colors(series: Sequence[str]) -> dict[str, str]:
    names = list(dict.fromkeys(series))
    if all(name in _COLORS for name in names):
        return {name: _COLORS[name] for name in names}
    return {name: _OTHER_COLORS[place % len(_OTHER_COLORS)] for place, name in enumerate(names)}


def plot_accuracy(rows: Sequence[dict[str, Any]], path: Path, against: str = "tokens_mean") -> None:
    """Plots accuracy with its 95% interval against tokens or latency, with an arrow from SFT to RL per data set.

    Args:
        against: "tokens_mean" or "latency_mean".
    """
    what, unit = _WORDS[against]
    figure, axes = _axes(f"Accuracy against {what}", unit, "accuracy, %")
    series = series_of(rows)
    colors = _colors(series)
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    ends: dict[tuple[str, str], tuple[float, float]] = {}
    for name, row in zip(series, rows, strict=True):
        low, high = (100 * bound for bound in row["accuracy_ci95"])
        x, y = row[against], 100 * row["accuracy"]
        axes.errorbar(
            x, y, yerr=[[max(0.0, y - low)], [max(0.0, high - y)]], color=colors[name], capsize=3,
            fmt=_MARKERS[datasets.index(row["dataset"]) % len(_MARKERS)], alpha=0.8,
        )  # fmt: skip
        ends[name, row["dataset"]] = (x, y)
    for dataset in datasets:
        if ("sft", dataset) in ends and ("rl", dataset) in ends:
            arrow = {"arrowstyle": "->", "alpha": 0.4}
            axes.annotate("", ends["rl", dataset], ends["sft", dataset], arrowprops=arrow)
    for name, color in colors.items():
        axes.plot([], [], lw=3, color=color, label=name)
    for place, dataset in enumerate(datasets):
        axes.plot([], [], _MARKERS[place % len(_MARKERS)], color="black", fillstyle="none", label=dataset)
    _legend(figure, axes)
    _save(figure, path)


def plot_rounds(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plots, per data set, the share of episodes correct and finished within r rounds: the gain from more rounds."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure, panels = _figure(len(datasets))
    colors = _colors(series_of(rows))
    most = max(len(row["accuracy_within_rounds"]) for row in rows)
    for axes, dataset in zip([panels] if len(datasets) == 1 else panels, datasets, strict=True):
        _dress(axes, f"{dataset}: correct within r rounds", "rounds r", "accuracy, %")
        for name, row in zip(series_of(rows), rows, strict=True):
            if row["dataset"] == dataset:
                shares = [100 * share for share in row["accuracy_within_rounds"].values()]
                shares += [shares[-1]] * (most - len(shares))  # all its episodes have ended
                axes.plot(range(1, most + 1), shares, "o-", markersize=4, alpha=0.8, color=colors[name], label=name)
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(1, most + 1))
    _legend(figure, axes)
    _save(figure, path)


def plot_curves(
    curves: Sequence[tuple[str, str, np.ndarray, np.ndarray]], out: Out, unit: str, stacked: bool, log: bool
) -> None:
    """Plots curves over training steps.

    Args:
        curves: (metric, label, steps, values) of each curve; values may be nan.
        unit: of the y-axis; if it starts with "share", the axis goes from 0 to 1.
        stacked: stacked areas instead of lines.
        log: a log axis if all values are above 0 and span more than two powers of ten.
    """
    figure, axes = _figure(width=4.8, height=2.9)
    _dress(axes, "", "step", _plain(unit))
    places = _AREAS if stacked else range(len(_CHART_COLORS))
    colors = [
        _CHART_COLORS[_STOPS.get(metric.removeprefix("episode/stop/"), places[n % len(places)])]
        for n, (metric, *_) in enumerate(curves)
    ]
    labels = [_plain(label) for _, label, _, _ in curves]
    known = np.concatenate([values[np.isfinite(values)] for *_, values in curves])
    if stacked:
        steps, areas = _stack(curves)
        axes.stackplot(steps, areas, labels=labels, colors=colors, alpha=0.85, linewidth=0)
        top = areas.sum(axis=0).max(initial=0)
    else:
        for (*_, steps, values), label, color in zip(curves, labels, colors, strict=True):
            _line(axes, steps, values, label, color)
        top = known.max(initial=0)
    if log and len(known) and known.min() > 0 and known.max() > 100 * known.min():
        axes.set_yscale("log")
    elif unit.startswith("share") and known.min(initial=0) >= 0 and top > 0.5:
        axes.set_ylim(0, max(1.0, top))
    if len(curves) > 1 or stacked:
        figure.legend(loc="outside lower center", ncols=min(3, len(curves)), frameon=False, fontsize=8)
    _save(figure, out)


def _plain(text: str) -> str:
    """Escapes text that matplotlib would read as a formula or omit from a legend."""
    text = text.replace("\\", "\\\\").replace("$", "\\$") if "$" in text else text
    return f" {text}" if text.startswith("_") else text


def _line(axes: Any, steps: np.ndarray, values: np.ndarray, label: str, color: str) -> None:
    known = np.isfinite(values)
    if len(values) < _SMOOTHED:
        few = {"marker": "o", "markersize": 3} if known.sum() < 3 else {}
        axes.plot(steps, values, color=color, linewidth=1.5, label=label, **few)
        return
    axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
    window = np.ones(2 * (len(values) // 25) + 1)  # mean of the finite neighbors
    sums, counts = (np.convolve(column, window, "same") for column in (np.where(known, values, 0.0), known * 1.0))
    mean = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0.5)
    axes.plot(steps, mean, color=color, linewidth=1.6, label=label)


def _stack(curves: Sequence[tuple[str, str, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps of all curves, and each curve on them, with 0 where it has no value."""
    steps = np.unique(np.concatenate([steps for *_, steps, _ in curves]))
    areas = np.zeros((len(curves), len(steps)))
    for area, (*_, own, values) in zip(areas, curves, strict=True):
        area[np.searchsorted(steps, own)] = np.where(np.isfinite(values), values, 0.0)
    return steps, areas


def context_over_time(rounds: Sequence[dict[str, Any]]) -> tuple[list[int], list[int], list[int]]:
    """Returns (tokens generated, context in rounds, context without rounds) at every point of an episode's curve.

    Without rounds: the same thinking in one context, so nothing is dropped and no summary is written.
    """
    generated = [0]
    saw, single = [len(rounds[0]["prompt_ids"])], [len(rounds[0]["prompt_ids"])]
    for item in rounds:
        start = generated[-1]
        for context, values in ((len(item["prompt_ids"]), saw), (single[-1], single)):
            values += [context, context + len(item["completion_ids"])]
        generated += [start, start + len(item["completion_ids"])]
    return generated, saw, single


def plot_saw(rounds: Sequence[dict[str, Any]], path: Out) -> None:
    """Plots one episode's context length over time, and that of the same tokens in one long context."""
    generated, saw, single = context_over_time(rounds)
    figure, axes = _axes("Context of one episode", "tokens generated", "tokens in context")
    axes.plot(generated, single, color="#888888", linestyle="--", label="the same tokens in one context")
    axes.plot(generated, saw, color=_COLORS["rl"], label=f"{len(rounds)} rounds")
    axes.fill_between(generated, saw, color=_COLORS["rl"], alpha=0.12)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def pick_saw(episodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Returns the rounds of the answered episode with the most rounds, then tokens; None if no episode has several."""
    answered = [e for e in episodes if e["stop_reason"] == "answered" and e["num_rounds"] > 1]
    if not answered:
        return None
    return max(answered, key=lambda e: (e["num_rounds"], e["num_tokens"]))["rounds"]
