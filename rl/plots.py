"""Pictures of an evaluation: accuracy against tokens, and the saw of one episode's context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COLORS = {"base": "#888888", "sft": "#4477aa", "rl": "#cc3311"}


def _axes(title: str, x: str, y: str) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def plot_accuracy(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy with its 95% interval against tokens an episode; an arrow from before RL to after for each data set."""
    figure, axes = _axes("Accuracy against generated tokens", "tokens an episode", "accuracy, %")
    by_dataset: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_dataset.setdefault(row["dataset"], {})[row["stage"]] = row
    for marker, (dataset, stages) in zip("osD^v", by_dataset.items(), strict=False):
        for stage, row in stages.items():
            low, high = (100 * bound for bound in row["accuracy_ci95"])
            y = 100 * row["accuracy"]
            axes.errorbar(
                row["tokens_mean"], y, yerr=[[y - low], [high - y]], fmt=marker, color=_COLORS[stage], capsize=3,
                label=f"{stage}, {dataset}",
            )  # fmt: skip
        if {"sft", "rl"} <= stages.keys():
            ends = [(stages[s]["tokens_mean"], 100 * stages[s]["accuracy"]) for s in ("sft", "rl")]
            axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "alpha": 0.4})
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def context_over_time(rounds: Sequence[dict[str, Any]]) -> tuple[list[int], list[int], list[int]]:
    """(tokens generated so far, context in rounds, context without rounds) at every point of an episode's curve.

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


def plot_saw(rounds: Sequence[dict[str, Any]], path: Path) -> None:
    """One episode's context use over time beside that of one long context of the same tokens."""
    generated, saw, single = context_over_time(rounds)
    figure, axes = _axes("Context of one episode", "tokens generated", "tokens in context")
    axes.plot(generated, single, color="#888888", linestyle="--", label="the same tokens in one context")
    axes.plot(generated, saw, color=_COLORS["rl"], label=f"{len(rounds)} rounds")
    axes.fill_between(generated, saw, color=_COLORS["rl"], alpha=0.12)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def pick_saw(episodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Rounds of the concluded episode with the most tokens among those with the most rounds; None if there is none."""
    answered = [e for e in episodes if e["stop_reason"] == "answered" and e["num_rounds"] > 1]
    if not answered:
        return None
    return max(answered, key=lambda e: (e["num_rounds"], e["num_tokens"]))["rounds"]
