"""Statistics of a batch of episodes. Each name has one meaning; README and docs list them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rollout.protocol import FAULTS
from rollout.types import Episode, StopReason


def episode_metrics(
    episodes: Sequence[Episode],
    correct: Sequence[float | None] | None = None,
    step: int | None = None,
    max_rounds: int | None = None,
) -> dict[str, float]:
    """Computes the rounds, tokens, stop reasons, summaries and accuracy of a batch.

    Args:
        correct: 1 or 0 for each episode, None if it could not be judged.
        step: optimizer step that trains on them.
        max_rounds: phi; if given, shares of 0 are included, so that means over batches are right.

    Returns:
        `episode/rounds/mean`, `/max`; `episode/tokens/mean`, `/max` (generated, all rounds); `episode/context/mean`
        (peak of an episode's rounds); `episode/stop/<reason>` (share); `episode/malformed/<fault>` (share, by the
        round's fault, `protocol.FAULTS`); `summary/tokens/mean`; with `correct`:
        `accuracy/mean`, `accuracy/rounds/<n>` (of the episodes with n rounds) and their share `episode/rounds/<n>`.
        With `step`, if the engine reports its weights: `rollout/staleness/mean`, `/max` (optimizer steps from an
        episode's oldest weights to `step`), `rollout/straddled` (share of episodes sampled from several weights).
    """
    if not episodes:
        return {}
    rounds = [e.num_rounds for e in episodes]
    tokens = [e.num_tokens for e in episodes]
    metrics = {
        "episode/rounds/mean": fmean(rounds),
        "episode/rounds/max": max(rounds),
        "episode/tokens/mean": fmean(tokens),
        "episode/tokens/max": max(tokens),
        "episode/context/mean": fmean(e.peak_context for e in episodes),
    }
    for reason in StopReason:
        metrics[f"episode/stop/{reason}"] = fmean(e.stop_reason == reason for e in episodes)
    faults = [e.segments[-1].turn.fault for e in episodes if e.stop_reason == StopReason.MALFORMED]
    for fault in FAULTS:
        metrics[f"episode/malformed/{fault}"] = faults.count(fault) / len(episodes)
    summaries = [s.summary_tokens for e in episodes for s in e.segments if s.turn.kind == "summary"]
    if summaries:
        metrics["summary/tokens/mean"] = fmean(summaries)
    for count in sorted({*rounds, *range(1, (max_rounds or 0) + 1)}):
        metrics[f"episode/rounds/{count}"] = fmean(n == count for n in rounds)
    sampled = [e.policy_steps for e in episodes if step is not None and e.policy_steps is not None]
    if sampled:
        metrics["rollout/staleness/mean"] = fmean(step - first for first, _ in sampled)
        metrics["rollout/staleness/max"] = max(step - first for first, _ in sampled)
        metrics["rollout/straddled"] = fmean(first != last for first, last in sampled)
    judged = [(n, c) for n, c in zip(rounds, correct or [], strict=False) if c is not None]
    if judged:
        metrics["accuracy/mean"] = fmean(c for _, c in judged)
        for count in sorted({n for n, _ in judged}):
            metrics[f"accuracy/rounds/{count}"] = fmean(c for n, c in judged if n == count)
    return metrics
