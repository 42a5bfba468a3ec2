"""Pictures of a report: a chart of curves and the saw of an episode, as SVG that follows the page's theme or as PNG."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.monitor.charts import Chart
from rl.monitor.curves import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _GRID = "#1f2328", "#d0d7de"
_LIGHT = ["#4477aa", "#cc3311", "#228833", "#ee7733", "#aa3377", "#009988", "#997700", "#6f6f6f"]
_DARK = ["#82b4ea", "#ff8266", "#63c97f", "#ffab70", "#e58abf", "#52cdbf", "#d8c35a", "#a9a9a9"]
_STOPS = {"answered": 2, "max_rounds": 3, "malformed": 4, "truncated": 1, "failed": 7}
_OF_STOP = {f"episode/stop/{reason}": color for reason, color in _STOPS.items()}
_AREAS = [0, 5, 2, 6, 3, 4, 1, 7]  # colours of stacked areas: red last, as it looks like an alarm
_POINTS = 400  # of a curve: a picture shows no more
_SMOOTHED = 60  # points from which on a line is drawn smoothed, the raw one behind it
_LOG_CHARTS = ("mismatch", "mismatch_max", "grad_norm")  # where a rise by a thousand matters

THEME = {name: value for i, dark in enumerate(_DARK) for name, value in ((f"--c{i}", (_LIGHT[i], dark)),)} | {
    "--grid": (_GRID, "#3d444d")
}
"""CSS variables of the pictures: their values on a light and on a dark page."""


def draw_chart(chart: Chart, curves: Curves, stage: str) -> Figure:
    """One chart over the stage's steps. Long curves are drawn as means of bins."""
    figure, axes = _axes()
    columns = [curves.series(stage, name) for name in chart.names]
    labels = [_plain(label) for label in chart.labels]
    order = _AREAS if chart.kind == "stacked" else range(len(_LIGHT))
    colors = [_LIGHT[_OF_STOP.get(name, order[index % len(order)])] for index, name in enumerate(chart.names)]
    if chart.kind == "stacked":
        steps, values = _aligned([(steps, values) for steps, _, values in columns])
        axes.stackplot(steps, values, labels=labels, colors=colors, alpha=0.85, linewidth=0)
        if "share" in chart.unit and np.nansum(values, axis=0).max(initial=0) > 0.5:
            axes.set_ylim(0, 1)
        if len(steps) > 1:
            axes.set_xlim(steps[0], steps[-1])
    else:
        for (steps, _, values), label, color in zip(columns, labels, colors, strict=True):
            _line(axes, *_binned(steps, values), label, color)
        known = np.concatenate([values[np.isfinite(values)] for _, _, values in columns])
        if chart.id in _LOG_CHARTS and len(known) and known.min() > 0 and known.max() > 100 * known.min():
            axes.set_yscale("log")
        elif chart.unit.startswith("share") and len(known) and known.min() >= 0 and known.max() > 0.5:
            axes.set_ylim(0, max(1.0, known.max()))
    axes.set(xlabel="step", ylabel=_plain(chart.unit))
    if len(chart.names) > 1 or chart.kind == "stacked":
        figure.legend(
            loc="outside lower center", ncols=min(3, len(chart.names)), frameon=False, fontsize=8, labelcolor=_INK
        )
    return figure


def draw_saw(generated: list[int], saw: list[int], single: list[int], rounds: int) -> Figure:
    """One episode's context beside one long context of the same tokens (`rl.evaluation.plots.context_over_time`)."""
    figure, axes = _axes()
    axes.plot(generated, single, color=_LIGHT[7], linestyle="--", label="the same tokens in one context")
    axes.plot(generated, saw, color=_LIGHT[1], label=f"{rounds} rounds")
    axes.fill_between(generated, saw, color=_LIGHT[1], alpha=0.15, linewidth=0)
    axes.set(xlabel="tokens generated", ylabel="tokens in context", ylim=(0, None), xlim=(0, None))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=_INK)
    return figure


def to_png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    return file.getvalue()


def to_svg(figure: Figure, prefix: str, alt: str) -> str:
    """An `<svg>` to stand in a page: its colours are the page's variables, its ids start with `prefix`."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r"font-family: [^;\"]*; ", "", text)
    text = text.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    for index, color in enumerate(_LIGHT):
        text = text.replace(color, f"var(--c{index})")
    head = re.sub(r' (?:width|height|xmlns:xlink|version)="[^"]*"', "", text[: text.index(">")])
    return f'{head} role="img" aria-label="{escape(alt)}"{text[text.index(">") :]}'.replace("xlink:href", "href")


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=_INK, labelsize=8, length=3)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=_INK, size=9)
    return figure, axes


def _plain(text: str) -> str:
    """Text that matplotlib neither takes for a formula nor leaves out of a legend."""
    text = text.replace("\\", "\\\\").replace("$", "\\$") if "$" in text else text
    return f" {text}" if text.startswith("_") else text


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, color: str) -> None:
    few = {"marker": "o", "markersize": 3} if np.isfinite(values).sum() < 3 else {}
    if len(values) < _SMOOTHED:
        axes.plot(steps, values, color=color, linewidth=1.5, label=label, **few)
        return
    axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
    axes.plot(steps, _smooth(values, len(values) // 25), color=color, linewidth=1.6, label=label)


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over the `width` points before and after each, of those that are numbers."""
    known = np.isfinite(values)
    window = np.ones(2 * width + 1)
    sums = np.convolve(np.where(known, values, 0.0), window, "same")
    counts = np.convolve(known.astype(float), window, "same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0.5)


def _binned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `_POINTS` points: means of neighbours, of those that are numbers."""
    values = np.where(np.isfinite(values), values, np.nan)
    if len(steps) <= _POINTS:
        return steps, values
    bins = np.arange(len(steps)) * _POINTS // len(steps)
    known = np.isfinite(values)
    counts = np.bincount(bins[known], minlength=_POINTS)
    sums = np.bincount(bins[known], values[known], minlength=_POINTS)
    means = np.divide(sums, counts, out=np.full(_POINTS, np.nan), where=counts > 0)
    return np.bincount(bins, steps) / np.bincount(bins), means


def _aligned(columns: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The steps of all columns, and each column on them: 0 where it has no number."""
    steps = np.unique(np.concatenate([steps for steps, _ in columns]))
    whole = []
    for own, values in columns:
        filled = np.zeros(len(steps))
        filled[np.searchsorted(steps, own)] = np.where(np.isfinite(values), values, 0.0)
        whole.append(_binned(steps, filled))
    return whole[0][0], [values for _, values in whole]


def is_flat_zero(curves: Curves, stage: str, chart: Chart) -> bool:
    """True when there is nothing to see: every value is 0, or no number."""
    found: list[Any] = [curves.series(stage, name)[2] for name in chart.names]
    return all(not np.nan_to_num(values, posinf=1.0, neginf=1.0).any() for values in found)
