"""Reports the outcome of the traces: `data/report.json`, `data/report.md` and its figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sft.data.journal import Journal
from sft.data.progress import cost_of

_CASES = 3  # of each reason, shown in the report


def make_report(
    folder: Path, max_rounds: int, price: dict[str, float] | None, sets: dict[str, int] | None = None
) -> dict[str, Any]:
    """Writes and returns the counts of a finished data stage, read from its `traces.parquet` and journal.

    Args:
        sets: evaluation sets that no question may overlap, with the number of questions of each.
        max_rounds: phi, to count traces that have more rounds than an episode may have.
    """
    import pyarrow.parquet as pq

    dropped: Counter[str] = Counter()
    rounds: Counter[int] = Counter()
    draws: Counter[int] = Counter()
    cases: dict[str, list[str]] = {}
    lengths: dict[str, list[int]] = {"trace": [], "segment": [], "summary": []}
    unverified = rows = 0
    for batch in pq.ParquetFile(folder / "traces.parquet").iter_batches(batch_size=1024):
        for row in batch.to_pylist():
            rows = max(rows, row["row"] + 1)  # every source row has at least one line
            if row["reason"] is not None:
                dropped[row["reason"]] += 1
                shown = cases.setdefault(row["reason"], [])
                if len(shown) < _CASES:
                    shown.append(f"row {row['row']} ({row['id']}): {' '.join(row['excerpt'].split())}")
                continue
            unverified += not row["verified"]
            rounds[len(row["summary_tokens"]) + 1] += 1
            draws.update(row["draws"])
            lengths["trace"].append(sum(row["tokens"]))
            lengths["segment"] += row["tokens"]
            lengths["summary"] += row["summary_tokens"]
    kept = rounds.total()
    report = {
        "rows": rows, "traces": kept + dropped.total(), "kept": kept, "dropped": dict(dropped.most_common()),
        "rounds": sum(n * count for n, count in rounds.items()),
        "rounds_per_trace": {str(n): rounds[n] for n in sorted(rounds)},
        "over_max_rounds": sum(count for n, count in rounds.items() if n > max_rounds), "max_rounds": max_rounds,
        "not_verified": unverified, "draws_per_summary": {str(n): draws[n] for n in sorted(draws)},
        "tokens": {name: _spread(values) for name, values in lengths.items()},
        "decontaminated": sets or {}, "summarizer": _spent(folder, price), "first_cases": cases,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    pictures = _draw(folder, lengths, rounds, dropped) if kept else []
    (folder / "report.md").write_text(_text(report, pictures))
    return report


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    ordered = sorted(values)

    def at(share: float) -> int:
        return ordered[round(share * (len(ordered) - 1))]

    return {
        "mean": round(fmean(ordered), 1), "min": ordered[0], "p5": at(0.05), "median": at(0.5), "p95": at(0.95),
        "max": ordered[-1], "sum": sum(ordered),
    }  # fmt: skip


def _spent(folder: Path, price: dict[str, float] | None) -> dict[str, Any]:
    """Sums the summarizer's tokens and cost over all processes that worked on this data."""
    journal = Journal(folder / "summaries.sqlite")
    try:
        count, prompt, completion = journal.database.execute(
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM draws"
        ).fetchone()
    finally:
        journal.close()
    spent = {"answers": count, "prompt_tokens": prompt, "completion_tokens": completion}
    return spent | ({"cost": cost_of(prompt, completion, price)} if price else {})


def _text(report: dict[str, Any], pictures: Sequence[Path]) -> str:
    lines = [
        "# Multi-round data", "",
        f"{report['rows']} rows of the source, {report['traces']} traces: **{report['kept']} kept as "
        f"{report['rounds']} rounds**, {report['traces'] - report['kept']} not used.",
    ]  # fmt: skip
    if report["not_verified"]:
        lines.append(
            f"The answers of {report['not_verified']} kept traces are not verified: no gold answer or verdict."
        )
    if report["decontaminated"]:
        sets = ", ".join(f"{name} ({size} questions)" for name, size in report["decontaminated"].items())
        lines.append(f"No kept question overlaps {sets}.")
    if report["over_max_rounds"]:
        lines.append(
            f"{report['over_max_rounds']} have more than protocol.max_rounds={report['max_rounds']} rounds: a model "
            "that learns from them may run out of rounds."
        )
    lines += ["", *(f"![{path.stem}]({path.name})" for path in pictures), "", "## Lengths in tokens", ""]
    lines += ["| | mean | min | 5 % | median | 95 % | max |", "|---|---|---|---|---|---|---|"]
    for name, spread in report["tokens"].items():
        if spread:
            lines.append(
                f"| {name} | "
                + " | ".join(str(spread[k]) for k in ("mean", "min", "p5", "median", "p95", "max"))
                + " |"
            )
    lines += ["", "## Rounds", "", "| rounds | traces |", "|---|---|"]
    lines += [f"| {n} | {count} |" for n, count in report["rounds_per_trace"].items()]
    spent = report["summarizer"]
    if spent["answers"]:
        tokens = f"{spent['prompt_tokens']} prompt and {spent['completion_tokens']} completion tokens"
        cost = f", cost {spent['cost']:.2f}" if "cost" in spent else ""
        lines += ["", "## Summaries", "", f"{spent['answers']} answers of the summarizer, {tokens}{cost}."]
        lines += ["", "| draws | summaries |", "|---|---|"]
        lines += [f"| {n} | {count} |" for n, count in report["draws_per_summary"].items()]
    if report["dropped"]:
        lines += ["", "## Not used", "", "| reason | traces |", "|---|---|"]
        lines += [f"| {_cell(reason)} | {count} |" for reason, count in report["dropped"].items()]
        lines += ["", "The first of each:", ""]
        for reason, cases in report["first_cases"].items():
            lines += [f"* {reason}", *(f"  * `{_cell(case.replace('`', chr(39)))}`" for case in cases)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _draw(folder: Path, lengths: dict[str, list[int]], rounds: Counter[int], dropped: Counter[str]) -> list[Path]:
    """Draws figures of lengths, rounds, and reasons for unused traces."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = []

    def save(figure: Any, name: str) -> None:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        plt.close(figure)
        paths.append(path)

    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained")
    for ax, (name, values) in zip(axes, lengths.items(), strict=True):
        ax.hist(values, bins=40, color="#4477aa")
        ax.set(title=f"tokens per {name}", ylabel="number")
        ax.spines[["top", "right"]].set_visible(False)
    save(figure, "lengths")
    figure, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
    ax.bar(list(rounds), list(rounds.values()), color="#4477aa")
    ax.set(
        title="rounds per trace", xlabel="rounds", ylabel="traces", xticks=sorted(rounds)[:: max(1, len(rounds) // 12)]
    )
    ax.spines[["top", "right"]].set_visible(False)
    save(figure, "rounds")
    if dropped:
        names = [name for name, _ in dropped.most_common(12)][::-1]
        figure, ax = plt.subplots(figsize=(8, 0.9 + 0.3 * len(names)), layout="constrained")
        ax.barh(names, [dropped[name] for name in names], color="#cc3311")
        ax.set(title="traces not used")
        ax.spines[["top", "right"]].set_visible(False)
        save(figure, "dropped")
    return paths
