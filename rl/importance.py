"""The importance ratio k = pi_train / pi_infer between trainer and engine (IcePop, arXiv 2602.06960, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rl.accumulator import MetricAccumulator


@dataclass(frozen=True)
class Correction:
    """How k is bounded. The defaults are IcePop's: a token's k, or 0 outside the range."""

    mode: str = "token_mask"  # or token_truncate, sequence_mask, sequence_truncate
    low: float | None = 0.5
    high: float | None = 5.0


def importance_ratio(
    old_logps: torch.Tensor,
    sampled_logps: torch.Tensor,
    mask: torch.Tensor,
    correction: Correction | None,
    metrics: MetricAccumulator,
) -> torch.Tensor:
    """Computes k under the old weights, [B, T] (or [B, 1] for sequence modes), masked or truncated.

    Args:
        old_logps: the trainer's, [B, T].
        sampled_logps: the engine's, [B, T]; nan if it returned none, which gives k = 1.
        mask: 1 on generated tokens, [B, T].
        correction: None: k = 1.
        metrics: receives the mismatch between the two, and k.
    """
    difference = torch.nan_to_num(old_logps - sampled_logps, nan=0.0) * mask  # [B, T]
    _record_mismatch(metrics, difference, mask.bool() & ~torch.isnan(sampled_logps))
    if correction is None:
        return torch.ones_like(difference)
    low, high = correction.low, correction.high
    if correction.mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)  # [B, 1]
    ratio = difference.exp()
    if correction.mode.endswith("truncate"):
        ratio = ratio.clamp(min=low, max=high) if low is not None or high is not None else ratio
        _record_ratio(metrics, ratio, mask)
        return ratio
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if low is not None:
        outside |= ratio < low
    if high is not None:
        outside |= ratio > high
    kept = ratio.masked_fill(outside, 0.0)
    inside = mask.bool() if kept.shape == mask.shape else torch.ones_like(outside)
    if inside.any():
        metrics.add("mismatch/masked", float(outside[inside].float().mean()), float(inside.sum()))
    _record_ratio(metrics, kept, mask)
    return kept


def _record_mismatch(metrics: MetricAccumulator, difference: torch.Tensor, known: torch.Tensor) -> None:
    if known.any():
        gaps = difference[known].abs()
        for name in ("mismatch/logprob_diff", "sampling/sampling_logp_difference"):  # ours, and TRL's
            metrics.add(f"{name}/mean", float(gaps.mean()), float(known.sum()))
            metrics.max(f"{name}/max", float(gaps.max()))


def _record_ratio(metrics: MetricAccumulator, ratio: torch.Tensor, mask: torch.Tensor) -> None:
    """Records k as TRL does, over the generated tokens (over the rows, for sequence modes)."""
    values = ratio[mask.bool()] if ratio.shape == mask.shape else ratio.flatten()
    if values.numel():
        name = "sampling/importance_sampling_ratio"
        metrics.min(f"{name}/min", float(values.min()))
        metrics.add(f"{name}/mean", float(values.mean()), float(values.numel()))
        metrics.max(f"{name}/max", float(values.max()))
