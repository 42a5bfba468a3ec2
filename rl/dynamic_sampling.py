"""Dynamic sampling (DAPO, arXiv 2503.14476): replaces groups without a gradient by other questions.

A group with a failed episode is always dropped, because its mean would be biased toward the easier episodes. With
`dynamic_sampling`, groups that are all right or all wrong are dropped too, and replaced. Accuracy decides, not the
shaped reward, which a length term makes vary within such groups.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rewards.score import Scores
from rl.rollouts import task_of
from rollout.types import Episode, StopReason, Task


def dropped_groups(episodes: list[Episode], correct: list[float | None] | None) -> dict[Hashable, str]:
    """Returns groups to drop, each with its reason: "failed", "all_right" or "all_wrong" (given `correct`, 1 or 0)."""
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
    """Returns `totals` with nan for the episodes of dropped groups."""
    return [math.nan if e.group_id in dropped else total for e, total in zip(episodes, totals, strict=True)]


def refill(
    episodes: list[Episode],
    scores: Scores,
    *,
    questions: Sequence[dict[str, Any]],
    group_size: int,
    most: int,
    seed: str,
    roll_out: Callable[[list[Task]], list[Episode]],
    score: Callable[[list[Episode]], Scores],
) -> tuple[list[Episode], Scores, dict[Hashable, str]]:
    """Rolls out further questions until as many groups have a gradient as `episodes` has groups.

    Args:
        questions: rows of the training data.
        most: maximum number of refills (`max_refills`).
        seed: seeds the choice of questions, the same on every rank.
        roll_out: returns all ranks' episodes for tasks that all ranks know.

    Returns:
        all episodes, their scores, and the groups to drop.
    """
    wanted = len({e.group_id for e in episodes})
    dropped = dropped_groups(episodes, scores.correct)
    for _ in range(most):
        groups = {e.group_id for e in episodes}
        missing, asked = wanted - len(groups - dropped.keys()), {repr(e.question) for e in episodes}
        tasks = _further_tasks(questions, missing, group_size, len(groups), asked, f"{seed}/{len(groups)}")
        if not tasks:
            break
        more = roll_out(tasks)
        scores = scores.joined(score(more))
        episodes = episodes + more
        dropped = dropped_groups(episodes, scores.correct)
    return episodes, scores, dropped


def _further_tasks(
    questions: Sequence[dict[str, Any]], groups: int, size: int, first_group: int, asked: set[str], seed: str
) -> list[Task]:
    """Returns tasks for `groups` questions not yet in this step, the same on every rank; fewer if questions run out."""
    order = list(range(len(questions)))
    random.Random(seed).shuffle(order)
    tasks: list[Task] = []
    for index in order:
        if len(tasks) == groups * size:
            break
        row = questions[index]
        if repr(row["prompt"]) not in asked:
            tasks += [task_of(row, first_group + len(tasks) // size)] * size
    return tasks
