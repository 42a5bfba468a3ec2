"""Metrics of a generation batch (docs/rules.md), under our names and under TRL's, for its users' dashboards.

In TRL's metrics a completion is an episode: all tokens that the model generated over its rounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean, stdev

import torch

from rewards.detectors import guard_metrics
from rewards.score import Scores
from rl.advantages import is_constant, zero_variance_share
from rollout.metrics import episode_metrics
from rollout.types import Episode, StopReason


def batch_metrics(
    episodes: list[Episode],
    scores: Scores,
    dropped: Mapping[Hashable, str],
    asked: int,
    step: int,
    max_rounds: int,
) -> dict[str, float]:
    """Returns metrics of episodes, rewards and groups.

    Args:
        dropped: dropped groups, each with its reason.
        asked: number of groups requested; the others replaced dropped ones.
    """
    metrics = scores.metrics() | guard_metrics(episodes)
    metrics |= episode_metrics(episodes, scores.correct, step, max_rounds)
    group_ids = [e.group_id for e in episodes]
    metrics["group/frac_zero_std"] = zero_variance_share(scores.total, group_ids)
    counts = Counter(dropped.values())
    metrics |= {f"group/dropped_{reason}": counts[reason] for reason in ("failed", "all_right", "all_wrong")}
    metrics["group/refilled"] = len(set(group_ids)) - asked
    return metrics


def trl_metrics(
    episodes: Sequence[Episode], scores: Scores, advantages: torch.Tensor, scale: str, aggregation: str
) -> dict[str, float]:
    """Returns TRL 1.16's metrics of a generation batch; nan if there are no values to average.

    Args:
        advantages: one per episode.
        scale: `scale_rewards`: whether a reward's std is taken over its group or over the batch.
        aggregation: `multi_objective_aggregation`.
    """
    metrics = dict(zip(("reward", "reward_std"), _mean_and_std(scores.total), strict=True))
    for name, values in scores.values.items():
        mean, std = _mean_and_std([math.nan if v is None else v for v in values])
        metrics |= {f"rewards/{name}/mean": mean, f"rewards/{name}/std": std}
    metrics["frac_reward_zero_std"] = _flat_share(episodes, scores.total, advantages, scale, aggregation)
    lengths = {i: e.num_tokens for i, e in enumerate(episodes) if e.stop_reason != StopReason.FAILED}
    whole = {i: n for i, n in lengths.items() if episodes[i].stop_reason != StopReason.TRUNCATED}
    if lengths:
        metrics["completions/clipped_ratio"] = 1.0 - len(whole) / len(lengths)
        for kind, known in (("", [*lengths.values()]), ("terminated_", [*whole.values()] or [0])):
            metrics[f"completions/mean_{kind}length"] = fmean(known)
            metrics[f"completions/min_{kind}length"] = float(min(known))
            metrics[f"completions/max_{kind}length"] = float(max(known))
    return metrics


def trained_tokens(episodes: Sequence[Episode]) -> int:
    """Returns the tokens that TRL counts in `num_tokens`: prompt and completion of every round."""
    return sum(len(s.prompt_ids) + len(s.completion_ids) for e in episodes for s in e.segments)


def _mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample std of the values that are not nan."""
    known = [v for v in values if not math.isnan(v)]
    return fmean(known) if known else math.nan, stdev(known) if len(known) > 1 else math.nan


def _flat_share(
    episodes: Sequence[Episode], totals: Sequence[float], advantages: torch.Tensor, scale: str, aggregation: str
) -> float:
    """Returns the share of episodes whose reward is divided by a std of 0, that of the group or of the batch."""
    if aggregation == "normalize_then_sum":
        return float(not advantages.any())
    groups: dict[object, list[float]] = {}
    for episode, total in zip(episodes, totals, strict=True):
        groups.setdefault(0 if scale == "batch" else episode.group_id, []).append(total)
    flat = 0
    for values in groups.values():
        known = torch.tensor([v for v in values if not math.isnan(v)], dtype=torch.float64)
        flat += len(values) if len(known) > 1 and is_constant(known) else 0
    return flat / len(totals)
