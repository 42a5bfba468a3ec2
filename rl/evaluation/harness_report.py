"""Rounds, tokens and stop reasons of a task's episodes, in addition to lm-evaluation-harness's own metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rollout.metrics import episode_metrics
from rollout.types import Episode, StopReason

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def episode_statistics(requests: Sequence[Instance], episodes: Sequence[Episode]) -> dict[str, dict[str, Any]]:
    """Returns, by task, the number of episodes, `rollout.metrics.episode_metrics` and counts of failure reasons."""
    by_task: dict[str, list[Episode]] = {}
    for request, episode in zip(requests, episodes, strict=True):
        by_task.setdefault(request.task_name or "", []).append(episode)
    return {
        name: {
            "episodes": len(group),
            **episode_metrics(group),
            "failures": dict(Counter(e.error for e in group if e.stop_reason == StopReason.FAILED)),
        }
        for name, group in by_task.items()
    }


def describe(statistics: dict[str, dict[str, Any]]) -> list[str]:
    """Returns lines to print: rounds, tokens and stop reasons of each task."""
    lines = []
    for name, numbers in statistics.items():
        stops = [f"{reason} {numbers[f'episode/stop/{reason}']:.1%}" for reason in StopReason]
        lines.append(
            f"{name}: {numbers['episodes']} episodes, {numbers['episode/rounds/mean']:.2f} rounds, "
            f"{numbers['episode/tokens/mean']:.1f} tokens, peak context {numbers['episode/context/mean']:.1f}; "
            + ", ".join(stop for stop in stops if not stop.endswith(" 0.0%"))
        )
        lines += [f"{name}: {count} failed: {error}" for error, count in numbers["failures"].items()]
    return lines
