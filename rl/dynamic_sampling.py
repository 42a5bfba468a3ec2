"""Groups of a generation batch: which are trained on, what replaces those that teach nothing (DAPO), what is logged.

A group in which an episode failed is left out: its mean would be that of the easier part. With `dynamic_sampling`,
groups that are all right or all wrong are left out too and replaced. What counts is accuracy, not the shaped reward,
which a length term makes vary within such groups.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch

from rewards.guards import guard_metrics
from rewards.score import Reward, Scores, weighted_terms
from rl.advantages import group_advantages, normalized_sum, zero_variance_share
from rl.rollouts import roll_out_now, task_of
from rollout.metrics import episode_metrics
from rollout.types import Episode, StopReason, Task

if TYPE_CHECKING:
    from rl.trainer import EpisodeGRPOTrainer


def dropped_groups(episodes: list[Episode], correct: list[float | None] | None) -> dict[Hashable, str]:
    """Groups to leave out, each with its reason: "failed", "all_right" or "all_wrong" (given `correct`, 1 or 0)."""
    dropped: dict[Hashable, str] = {}
    if correct is not None:
        verdicts: dict[Hashable, list[float]] = defaultdict(list)
        for episode, value in zip(episodes, correct, strict=True):
            if value is not None:
                verdicts[episode.group_id].append(value)
        for group, values in verdicts.items():
            if len(set(values)) == 1:
                dropped[group] = "all_right" if values[0] else "all_wrong"
    return dropped | {e.group_id: "failed" for e in episodes if e.stop_reason == StopReason.FAILED}


def without(dropped: dict[Hashable, str], episodes: list[Episode], totals: list[float]) -> list[float]:
    """`totals` with nan for the episodes of dropped groups."""
    return [math.nan if e.group_id in dropped else total for e, total in zip(episodes, totals, strict=True)]


def refill(
    trainer: EpisodeGRPOTrainer, episodes: list[Episode], scores: Scores
) -> tuple[list[Episode], Scores, dict[Hashable, str]]:
    """Rolls out further questions until as many groups teach something as were asked for, `max_refills` times at most.

    Returns:
        all episodes, their scores, and the groups to leave out.
    """
    wanted = len({e.group_id for e in episodes})
    dropped = dropped_groups(episodes, scores.correct)
    for _ in range(trainer.args.max_refills):
        groups = {e.group_id for e in episodes}
        missing = wanted - len(groups - dropped.keys())
        tasks = _further_tasks(trainer, missing, len(groups), {repr(e.question) for e in episodes})
        if not tasks:
            break
        ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        mine = tasks[len(tasks) * rank // ranks : len(tasks) * (rank + 1) // ranks]
        more = roll_out_now(trainer, mine)
        scores = scores.joined(trainer.score(more))
        episodes = episodes + more
        dropped = dropped_groups(episodes, scores.correct)
    return episodes, scores, dropped


def batch_advantages(
    rewards: Sequence[Reward],
    scores: Scores,
    totals: Sequence[float],
    group_ids: Sequence[Hashable],
    step: int,
    scale: str,
    aggregation: str,
) -> torch.Tensor:
    """Advantages [episodes], float64: of the totals, or of each reward by itself (GDPO).

    Args:
        totals: those of `scores`, nan for what is left out.
        step: that of the rewards' weights.
        scale, aggregation: TRL's `scale_rewards` and `multi_objective_aggregation`.
    """
    if aggregation != "normalize_then_sum":
        return group_advantages(totals, group_ids, scale)
    rows, weights = weighted_terms(rewards, scores, step)
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(weights))
    values[torch.tensor([math.isnan(total) for total in totals], dtype=torch.bool)] = math.nan
    return normalized_sum(values, weights, group_ids)


def batch_metrics(episodes: list[Episode], scores: Scores, step: int, max_rounds: int) -> dict[str, float]:
    """All that is logged of a batch's episodes and their rewards (docs/rules.md)."""
    metrics = scores.metrics() | guard_metrics(episodes)
    metrics |= episode_metrics(episodes, scores.correct, step, max_rounds)
    metrics["group/frac_zero_std"] = zero_variance_share(scores.total, [e.group_id for e in episodes])
    return metrics


def drop_metrics(dropped: dict[Hashable, str], asked: int, groups: int) -> dict[str, float]:
    """Counts for the log: groups left out by reason, and groups rolled out beyond the `asked` ones."""
    counts = Counter(dropped.values())
    return {f"group/dropped_{reason}": counts[reason] for reason in ("failed", "all_right", "all_wrong")} | {
        "group/refilled": groups - asked
    }


def _further_tasks(trainer: EpisodeGRPOTrainer, groups: int, first_group: int, asked: set[str]) -> list[Task]:
    """Tasks for `groups` questions that this step has not asked, the same on every rank; fewer where they run out."""
    order = list(range(len(trainer.train_dataset)))
    random.Random(f"{trainer.args.seed}/{trainer.state.global_step}/{first_group}").shuffle(order)
    tasks: list[Task] = []
    for index in order:
        if len(tasks) == groups * trainer.num_generations:
            break
        row = trainer.train_dataset[index]
        if repr(row["prompt"]) not in asked:
            group = first_group + len(tasks) // trainer.num_generations
            tasks += [task_of(row, group)] * trainer.num_generations
    return tasks
