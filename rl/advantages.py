"""Advantages, one per episode (InftyThink+, arXiv 2602.06960, eq. 8)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch

from rewards.score import Reward, Scores, weighted_terms

SCALES = ("group", "batch", "none")


def group_advantages(
    rewards: Sequence[float] | torch.Tensor, group_ids: Sequence[Hashable], scale: str = "group"
) -> torch.Tensor:
    """Returns A_i = (R_i - mean_G) / std_G over the episodes of a question; each counts once, whatever its rounds.

    Args:
        rewards: one value per episode; nan (or None) if it can't be scored.
        group_ids: the group of each episode, in any order.
        scale: the divisor: the group's std ("group"), the std of all rewards ("batch") or 1 ("none", Dr. GRPO).

    Returns:
        float64 tensor [episodes]. An episode with a nan reward has advantage 0 and is excluded from the statistics.
        A group with equal rewards, or with a single scored episode, has exactly 0. The std is the sample std (n - 1),
        as in torch.std and TRL, without TRL's 1e-4 in the divisor.

    Raises:
        ValueError: the lengths differ, or `scale` is unknown.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}")
    if not isinstance(rewards, torch.Tensor):
        rewards = torch.tensor([float("nan") if r is None else float(r) for r in rewards], dtype=torch.float64)
    values = rewards.detach().to("cpu", torch.float64)  # [E]
    ids = group_ids.tolist() if isinstance(group_ids, torch.Tensor) else list(group_ids)
    if len(ids) != len(values):
        raise ValueError(f"{len(values)} rewards but {len(ids)} group ids")
    scored = ~torch.isnan(values)
    advantages = torch.zeros_like(values)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate(ids):
        if scored[index]:
            members[group].append(index)
    batch_std = values[scored].std() if scored.sum() > 1 else torch.tensor(1.0, dtype=torch.float64)
    for indices in members.values():
        group = values[indices]
        if is_constant(group):
            continue
        divisor = {"group": group.std, "batch": lambda: batch_std, "none": lambda: 1.0}[scale]()
        advantages[indices] = (group - group.mean()) / divisor
    return advantages


def normalized_sum(
    values: torch.Tensor, weights: Sequence[float], group_ids: Sequence[Hashable], epsilon: float = 1e-4
) -> torch.Tensor:
    """Returns GDPO's advantages (arXiv 2601.05242), TRL's `multi_objective_aggregation="normalize_then_sum"`.

    z = (r_k - mean_G) / (std_G + epsilon) for each reward k within its group; s = sum_k weight_k z over the rewards
    that are not nan; A = (s - mean) / (std + epsilon) over the whole batch. All stds are sample stds.

    Args:
        values: [episodes, rewards]; nan if a reward has no value for an episode.
        weights: one per reward.
        group_ids: the group of each episode, in any order.

    Returns:
        float64 tensor [episodes]. An episode without any reward has 0 and is excluded from all statistics. A reward
        that is constant over a group, or has a single value in it, adds exactly 0.
    """
    values = values.detach().to("cpu", torch.float64)  # [E, K]
    scaled = torch.zeros_like(values)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, group in enumerate(group_ids):
        members[group].append(index)
    for indices in members.values():
        for k in range(values.size(1)):
            rows = torch.tensor([i for i in indices if not torch.isnan(values[i, k])], dtype=torch.long)
            known = values[rows, k]
            if len(known) > 1 and not is_constant(known):
                scaled[rows, k] = (known - known.mean()) / (known.std() + epsilon)
    sums = scaled @ torch.tensor(weights, dtype=torch.float64)  # [E]
    scored = ~torch.isnan(values).all(dim=1)
    advantages = torch.zeros_like(sums)
    if scored.sum() > 1:
        kept = sums[scored]
        advantages[scored] = (kept - kept.mean()) / (kept.std() + epsilon)
    return advantages


def batch_advantages(
    rewards: Sequence[Reward],
    scores: Scores,
    totals: Sequence[float],
    group_ids: Sequence[Hashable],
    step: int,
    scale: str,
    aggregation: str,
) -> torch.Tensor:
    """Returns advantages [episodes], float64, from the totals or, with GDPO, from each reward normalized separately.

    Args:
        totals: those of `scores`, with nan for dropped episodes.
        step: training step at which the rewards' weights are read.
        scale, aggregation: TRL's `scale_rewards` and `multi_objective_aggregation`.
    """
    if aggregation != "normalize_then_sum":
        return group_advantages(totals, group_ids, scale)
    rows, weights = weighted_terms(rewards, scores, step)
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(weights))
    values[torch.tensor([math.isnan(total) for total in totals], dtype=torch.bool)] = math.nan
    return normalized_sum(values, weights, group_ids)


def zero_variance_share(rewards: Sequence[float], group_ids: Sequence[Hashable]) -> float:
    """Returns the share of the groups with a scored episode whose rewards are all equal; 1 if nothing is scored."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for reward, group in zip(rewards, group_ids, strict=True):
        if not math.isnan(reward):
            groups[group].append(reward)
    constant = [is_constant(torch.tensor(values, dtype=torch.float64)) for values in groups.values()]
    return sum(constant) / len(constant) if constant else 1.0


def is_constant(values: torch.Tensor) -> bool:
    """Returns whether all values are equal up to float32 rounding (many rewards are float32): they carry no signal."""
    spread = values.max() - values.min()
    return bool(spread <= 1e-6 * float(values.abs().max()) + 1e-7)
