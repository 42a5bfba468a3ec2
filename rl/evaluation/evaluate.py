"""Evaluation from Python: samples of a data set, a row of metrics for `eval/summary.json`, a table of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from rewards.score import Reward, score_episodes
from rewards.task import answer
from rl.evaluation.sampler import Sampler
from rl.evaluation.statistics import accuracy_interval, pass_at_k, within_rounds
from rl.evaluation.votes import maj_at_k
from rollout.metrics import episode_metrics
from rollout.protocol import RoundProtocol
from rollout.types import Engine, Episode, Sampling, StopReason

__all__ = ["accuracy_interval", "evaluate_dataset", "format_table", "judge", "summarize_evaluation"]


def evaluate_dataset(
    rows: Sequence[dict[str, Any]],
    engine: Engine,
    protocol: RoundProtocol,
    tokenizer: Any,
    sampling: Sampling,
    samples: int,
    label: str,
    rewards: Sequence[Reward] = (),
) -> tuple[list[Episode], list[float | None]]:
    """Rolls out `samples` episodes per question. Returns them with 1, 0 or None (could not be judged) for each.

    Nothing is cached. With `sampling.seed`, an episode depends only on its question and its sample number.
    """
    drawn = Sampler(lambda: engine, tokenizer, protocol, sampling).draw(rows, range(samples), f"eval {label}")
    return drawn.episodes, judge(drawn.episodes, rewards)


def judge(episodes: Sequence[Episode], rewards: Sequence[Reward] = ()) -> list[float | None]:
    """Returns 1, 0 or None (can't be judged) for each, by the first verifier among `rewards`, else by `answer`."""
    verifiers = [r for r in rewards if r.verifier][:1] or [Reward(answer, "answer")]
    return score_episodes(episodes, verifiers).correct


def summarize_evaluation(
    episodes: Sequence[Episode],
    correct: Sequence[float | None],
    *,
    stage: str,
    protocol: str,
    dataset: str,
    label: str | None = None,
    k: Sequence[int] = (),
    classes: Sequence[int | None] = (),
    max_rounds: int | None = None,
    in_flight: Sequence[int] = (),
) -> dict[str, Any]:
    """Returns one row of `eval/summary.json`.

    Unjudged and failed episodes count as wrong and are also counted separately. Latencies are seconds from an episode's
    first request to its last completion, with `concurrency` episodes in flight.

    Args:
        label: the variant of the model; None: the protocol.
        k: of pass@k and maj@k, each up to the number of samples.
        classes: for each episode, the class of answers that it votes for (`votes.classes`); without them, no
            maj@k.
        max_rounds: phi, the last round of the accuracy within rounds; None: the most rounds of any episode.
        in_flight: for each episode, how many were sampled concurrently.
    """
    right = [value or 0.0 for value in correct]
    failed = [e.stop_reason == StopReason.FAILED for e in episodes]
    groups = _by_group(episodes)
    per_question = [fmean(right[i] for i in places) for places in groups]
    metrics = episode_metrics(episodes, right)
    rounds = [e.num_rounds for e in episodes]
    within = within_rounds(rounds, [value == 1.0 for value in right], max_rounds or max(rounds))
    return {
        "stage": stage,
        "protocol": protocol,
        "dataset": dataset,
        "label": label or protocol,
        "questions": len(groups),
        "samples": len(groups[0]),
        "accuracy": fmean(per_question),
        "accuracy_ci95": list(accuracy_interval(per_question)),
        "pass_at_k": {str(n): _passed(groups, right, n) for n in k},
        "maj_at_k": {str(n): _won(groups, classes, right, n) for n in k if classes},
        "rounds_mean": metrics["episode/rounds/mean"],
        "tokens_mean": metrics["episode/tokens/mean"],
        "peak_context_mean": metrics["episode/context/mean"],
        "peak_context_max": max(e.peak_context for e in episodes),
        "latency_mean": fmean(e.seconds for e in episodes),
        "latency_median": median(e.seconds for e in episodes),
        "concurrency": [min(in_flight), max(in_flight)] if in_flight else [len(episodes)] * 2,
        "unjudged": sum(value is None and not lost for value, lost in zip(correct, failed, strict=True)),
        "failed": sum(failed),
        "failures": dict(Counter(e.error for e, lost in zip(episodes, failed, strict=True) if lost)),
        "stops": {name.rpartition("/")[2]: v for name, v in metrics.items() if name.startswith("episode/stop/")},
        "accuracy_by_rounds": _named(metrics, "accuracy/rounds/"),
        "accuracy_within_rounds": {str(r): share for r, share in enumerate(within, start=1)},
        "by_difficulty": _by_difficulty(episodes, right),
    }


def _by_group(episodes: Sequence[Episode]) -> list[list[int]]:
    """Returns the indices of each question's episodes."""
    groups: dict[Any, list[int]] = {}
    for place, episode in enumerate(episodes):
        groups.setdefault(episode.group_id, []).append(place)
    return list(groups.values())


def _over_questions(values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean and 95% interval of one value per question."""
    return {"value": fmean(values), "ci95": list(accuracy_interval(values))}


def _passed(groups: list[list[int]], right: Sequence[float], k: int) -> dict[str, Any]:
    return _over_questions([pass_at_k(len(g), sum(right[i] == 1.0 for i in g), k) for g in groups])


def _won(groups: list[list[int]], classes: Sequence[int | None], right: Sequence[float], k: int) -> dict[str, Any]:
    return _over_questions([maj_at_k([classes[i] for i in g], [right[i] for i in g], k) for g in groups])


def _named(metrics: dict[str, float], start: str) -> dict[str, float]:
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def _by_difficulty(episodes: Sequence[Episode], right: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Returns accuracy, rounds and tokens by the column `difficulty`; empty if no question has one."""
    levels: dict[str, list[int]] = {}
    for place, episode in enumerate(episodes):
        if episode.columns.get("difficulty") is not None:
            levels.setdefault(str(episode.columns["difficulty"]), []).append(place)
    made = {}
    for level, places in sorted(levels.items()):
        groups = _by_group([episodes[i] for i in places])
        values = [fmean(right[places[i]] for i in group) for group in groups]
        made[level] = {
            "questions": len(groups),
            "accuracy": fmean(values),
            "accuracy_ci95": list(accuracy_interval(values)),
            "rounds_mean": fmean(episodes[i].num_rounds for i in places),
            "tokens_mean": fmean(episodes[i].num_tokens for i in places),
        }
    return made


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats the rows as a Markdown table, by data set. A column that is empty in all rows is omitted."""
    columns = [("data set", lambda r: r["dataset"]), ("model", lambda r: r["stage"])]
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["stage"], set()).add(row.get("label") or "")
    if any(len(found) > 1 for found in labels.values()):
        columns.append(("run as", lambda r: r.get("label") or "–"))
    columns.append(("accuracy % (95% interval)", lambda r: _percent(r["accuracy"], r["accuracy_ci95"])))
    columns += [_at_k(rows, "pass", k) for k in _ks(rows, "pass")] + [_at_k(rows, "maj", k) for k in _ks(rows, "maj")]
    if any(row.get("vote") for row in rows):
        columns.append(("vote % (95% interval), samples", _vote))
    columns += [
        ("rounds", lambda r: f"{r['rounds_mean']:.2f}"),
        ("tokens", lambda r: f"{r['tokens_mean']:.1f}"),
        ("peak context", lambda r: f"{r['peak_context_mean']:.1f}"),
    ]
    if any(_truncated(row) for row in rows):
        columns.append(("truncated %", lambda r: f"{100 * _truncated(r):.1f}"))
    if any("latency_mean" in row for row in rows):
        columns.append(("latency s", lambda r: f"{r['latency_mean']:.2f}" if "latency_mean" in r else "–"))
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + "---|" * len(columns)]
    for row in sorted(rows, key=lambda r: r["dataset"]):
        lines.append("| " + " | ".join(cell(row) for _, cell in columns) + " |")
    return "\n".join(lines)


def _truncated(row: dict[str, Any]) -> float:
    """Returns the share of episodes truncated at the token limit of a round, which have no answer."""
    return row.get("stops", {}).get("truncated", 0.0)


def _percent(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _ks(rows: Sequence[dict[str, Any]], kind: str) -> list[str]:
    """Returns the k of pass@k or maj@k that any row has, except 1, which equals the accuracy column."""
    return sorted({k for row in rows for k in row.get(f"{kind}_at_k", {}) if k != "1"}, key=int)


def _at_k(rows: Sequence[dict[str, Any]], kind: str, k: str) -> tuple[str, Any]:
    def cell(row: dict[str, Any]) -> str:
        found = row.get(f"{kind}_at_k", {}).get(k)
        return _percent(found["value"], found["ci95"]) if found else "–"

    return f"{kind}@{k} %", cell


def _vote(row: dict[str, Any]) -> str:
    vote = row.get("vote")
    return f"{_percent(vote['accuracy'], vote['accuracy_ci95'])}, {vote['samples_mean']:.1f}" if vote else "–"
