"""Advantages, one for each episode (InftyThink+, arXiv 2602.06960, eq. 8)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch

SCALES = ("group", "batch", "none")


def group_advantages(
    rewards: Sequence[float] | torch.Tensor, group_ids: Sequence[Hashable], scale: str = "group"
) -> torch.Tensor:
    """A_i = (R_i - mean_G) / std_G over the episodes of one question, counted once each whatever their rounds.

    Args:
        rewards: one value an episode; nan (or None) where it can't be scored.
        group_ids: the group of each episode, in any order.
        scale: divisor: "group" the group's std, "batch" the std of all rewards, "none" 1 (Dr. GRPO).

    Returns:
        float64 tensor [episodes]. A nan reward has advantage 0 and stands outside the statistics. A group whose
        rewards are all equal, or with a single scored episode, has exactly 0. The std is the sample's (n - 1), as
        torch.std and TRL take it, without TRL's 1e-4 in the divisor.

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
        if _is_constant(group):
            continue
        divisor = {"group": group.std, "batch": lambda: batch_std, "none": lambda: 1.0}[scale]()
        advantages[indices] = (group - group.mean()) / divisor
    return advantages


def zero_variance_share(rewards: Sequence[float], group_ids: Sequence[Hashable]) -> float:
    """Share of the groups with a scored episode whose rewards are all equal; 1 when nothing is scored."""
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for reward, group in zip(rewards, group_ids, strict=True):
        if not math.isnan(reward):
            groups[group].append(reward)
    constant = [_is_constant(torch.tensor(values, dtype=torch.float64)) for values in groups.values()]
    return sum(constant) / len(constant) if constant else 1.0


def _is_constant(values: torch.Tensor) -> bool:
    """True when all values are equal up to float64 rounding: the group then says nothing."""
    spread = values.max() - values.min()
    return bool(spread <= 1e-12 * max(1.0, float(values.abs().max())))
