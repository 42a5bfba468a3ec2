"""Evaluation of a checkpoint on questions with answers: accuracy with its interval, rounds, tokens, context."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rewards.score import Reward, score_episodes
from rewards.task import answer
from rollout.episodes import run_episodes
from rollout.metrics import episode_metrics
from rollout.protocol import RoundProtocol
from rollout.store import EpisodeStore
from rollout.types import Engine, Episode, Sampling, Task


def accuracy_interval(per_question: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """95% interval of the mean accuracy, by questions: samples of one question are not independent.

    Args:
        per_question: share of right samples of each question.
    """
    mean = fmean(per_question)
    if len(per_question) < 2:
        return 0.0, 1.0
    half = z * stdev(per_question) / math.sqrt(len(per_question))
    return max(0.0, mean - half), min(1.0, mean + half)


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
    """Rolls out `samples` episodes a question. Returns them with 1, 0 or None (could not be judged) for each.

    The first verifier among `rewards` judges; without one, `answer`.
    """
    from tqdm.auto import tqdm

    tasks = [
        Task(row["question"], row["answer"], index, {k: v for k, v in row.items() if k not in ("question", "answer")})
        for index, row in enumerate(rows)
        for _ in range(samples)
    ]
    with tqdm(total=len(tasks), desc=f"eval {label}", unit="episode") as bar:
        episodes = run_episodes(tasks, engine, protocol, tokenizer, sampling, on_episode=lambda *_: bar.update())
    verifiers = [r for r in rewards if r.verifier][:1] or [Reward(answer, "answer")]
    return episodes, score_episodes(episodes, verifiers).correct


def summarize_evaluation(
    episodes: Sequence[Episode], correct: Sequence[float | None], *, stage: str, protocol: str, dataset: str
) -> dict[str, Any]:
    """One row of `eval/summary.json`.

    What could not be judged counts as wrong and is counted apart. `latency_mean` is the seconds from an episode's
    first request to its last completion, with all episodes of the evaluation in flight at once.
    """
    by_question: dict[Any, list[float]] = {}
    for episode, value in zip(episodes, correct, strict=True):
        by_question.setdefault(episode.group_id, []).append(value or 0.0)
    per_question = [fmean(values) for values in by_question.values()]
    metrics = episode_metrics(episodes, [value or 0.0 for value in correct])
    return {
        "stage": stage,
        "protocol": protocol,
        "dataset": dataset,
        "questions": len(per_question),
        "samples": len(episodes) // len(per_question),
        "accuracy": fmean(per_question),
        "accuracy_ci95": list(accuracy_interval(per_question)),
        "rounds_mean": metrics["episode/rounds/mean"],
        "tokens_mean": metrics["episode/tokens/mean"],
        "peak_context_mean": metrics["episode/context/mean"],
        "latency_mean": fmean(e.seconds for e in episodes),
        "unjudged": sum(value is None for value in correct),
        "stops": {k.rpartition("/")[2]: v for k, v in metrics.items() if k.startswith("episode/stop/")},
        "accuracy_by_rounds": {k.rpartition("/")[2]: v for k, v in metrics.items() if k.startswith("accuracy/rounds/")},
    }


def evaluate_stage(
    stage: str,
    datasets: dict[str, Sequence[dict[str, Any]]],
    engine: Engine,
    protocol: RoundProtocol,
    tokenizer: Any,
    sampling: Sampling,
    samples: int,
    folder: Path,
    rewards: Sequence[Reward] = (),
) -> list[dict[str, Any]]:
    """Evaluates one checkpoint on every data set; a data set that is done stays as it is."""
    rows = []
    for name, questions in datasets.items():
        path = folder / f"{stage}_{name}.json"
        if not path.exists():
            episodes, correct = evaluate_dataset(
                questions, engine, protocol, tokenizer, sampling, samples, f"{stage} {name}", rewards
            )
            EpisodeStore(folder / "episodes").write(f"{stage}_{name}", 0, episodes, correct=correct)
            row = summarize_evaluation(episodes, correct, stage=stage, protocol=protocol.name, dataset=name)
            path.write_text(json.dumps(row, indent=2) + "\n")
        rows.append(json.loads(path.read_text()))
    return rows


def format_table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as a Markdown table."""
    lines = [
        "| data set | model | accuracy % (95% interval) | rounds | tokens | peak context |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: r["dataset"]):
        low, high = row["accuracy_ci95"]
        lines.append(
            f"| {row['dataset']} | {row['stage']} | {100 * row['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f}) "
            f"| {row['rounds_mean']:.2f} | {row['tokens_mean']:.1f} | {row['peak_context_mean']:.1f} |"
        )
    return "\n".join(lines)
