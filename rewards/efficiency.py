"""The functions of `rewards.length` as rewards for a config: applied per group, with the verifier's verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rewards import length
from rewards.task import answer
from rollout.errors import InputError
from rollout.types import Episode

Verdicts = Sequence[float | None] | None
"""1, 0 or None (can't be judged) for each episode; None instead of a list: `answer` is called."""

REFERENCE_SAMPLES = 4
"""Episodes per question from the initial model, for `o1_pruner` without reference columns in the data."""


def kimi(episodes: Sequence[Episode], correct: Verdicts = None, **_: Any) -> list[float | None]:
    return _by_group(length.kimi, episodes, correct)


def l1_exact(
    episodes: Sequence[Episode],
    budget: Sequence[float] | None = None,
    alpha: float = 0.0003,
    correct: Verdicts = None,
    **_: Any,
) -> list[float | None]:
    _need(episodes, "l1_exact", budget=budget)
    return _by_group(length.l1_exact, episodes, correct, _budgets(budget), alpha=alpha)


def l1_max(
    episodes: Sequence[Episode],
    budget: Sequence[float] | None = None,
    alpha: float = 0.0003,
    delta: float = 0.5,
    correct: Verdicts = None,
    **_: Any,
) -> list[float | None]:
    _need(episodes, "l1_max", budget=budget)
    return _by_group(length.l1_max, episodes, correct, _budgets(budget), alpha=alpha, delta=delta)


def o1_pruner(
    episodes: Sequence[Episode],
    ref_lengths: Sequence[Sequence[int]] | None = None,
    ref_accuracy: Sequence[float] | None = None,
    samples: int = REFERENCE_SAMPLES,
    alpha: float = 5.0,
    low: float = -2.0,
    high: float = 4.0,
    correct: Verdicts = None,
    **_: Any,
) -> list[float | None]:
    """Applies `length.o1_pruner`.

    Args:
        ref_lengths, ref_accuracy: columns, the same for all episodes of a question. Without them, `samples` episodes
            per question are rolled out before the first step (`rl.reference`).
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}; it must be a whole number of at least 1")
    _need(episodes, "o1_pruner", ref_lengths=ref_lengths, ref_accuracy=ref_accuracy)

    def reference(members: list[int]) -> dict[str, Any]:
        if not members:
            return {"ref_lengths": [1], "ref_accuracy": 0.0}
        return {"ref_lengths": ref_lengths[members[0]], "ref_accuracy": ref_accuracy[members[0]]}

    return _by_group(length.o1_pruner, episodes, correct, reference, alpha=alpha, low=low, high=high)


def dast(episodes: Sequence[Episode], max_length: int, correct: Verdicts = None, **_: Any) -> list[float | None]:
    return _by_group(length.dast, episodes, correct, max_length=max_length)


def arora_zanette(
    episodes: Sequence[Episode], alpha: float = 0.1, correct: Verdicts = None, **_: Any
) -> list[float | None]:
    return _by_group(length.arora_zanette, episodes, correct, alpha=alpha)


def shorterbetter(
    episodes: Sequence[Episode], alpha: float = 2.0, beta: float = 0.001, correct: Verdicts = None, **_: Any
) -> list[float | None]:
    return _by_group(length.shorterbetter, episodes, correct, alpha=alpha, beta=beta)


class Hapo:
    """`length.hapo` with state: the shortest correct length of each question so far, restored on resume."""

    def __init__(self) -> None:
        self.best: dict[str, int] = {}

    def __call__(
        self, episodes: Sequence[Episode], floor: float = -0.7, correct: Verdicts = None, **_: Any
    ) -> list[float | None]:
        questions = [json.dumps(episode.question, sort_keys=True) for episode in episodes]

        def of_group(members: list[int]) -> dict[str, Any]:
            return {"best_length": self.best.get(questions[members[0]]) if members else None}

        verdicts = answer(episodes) if correct is None else correct
        values = _by_group(length.hapo, episodes, verdicts, of_group, floor=floor)
        for episode, question, verdict in zip(episodes, questions, verdicts, strict=True):
            if verdict == 1.0:
                tokens = max(1, episode.num_tokens)
                self.best[question] = min(tokens, self.best.get(question, tokens))
        return values

    def state_dict(self) -> dict[str, int]:
        return self.best

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.best = dict(state)


def alp(episodes: Sequence[Episode], beta: float = 1e-7, correct: Verdicts = None, **_: Any) -> list[float | None]:
    return _by_group(length.alp, episodes, correct, beta=beta)


def thinkprune(episodes: Sequence[Episode], limit: float, correct: Verdicts = None, **_: Any) -> list[float | None]:
    return _by_group(length.thinkprune, episodes, correct, limit=limit)


def laser(
    episodes: Sequence[Episode], target: float, bonus: float = 0.5, correct: Verdicts = None, **_: Any
) -> list[float | None]:
    return _by_group(length.laser, episodes, correct, target=target, bonus=bonus)


EFFICIENCY: dict[str, Callable[..., Any]] = {
    "kimi": kimi,
    "l1_exact": l1_exact,
    "l1_max": l1_max,
    "o1_pruner": o1_pruner,
    "dast": dast,
    "arora_zanette": arora_zanette,
    "shorterbetter": shorterbetter,
    "hapo": Hapo,
    "alp": alp,
    "thinkprune": thinkprune,
    "laser": laser,
}
"""By name. All but `kimi` already include the task reward: use them instead of `answer`, with its weight set to 0."""


def _need(episodes: Sequence[Episode], name: str, **columns: Any) -> None:
    for column, values in columns.items():
        if episodes and values is None:
            raise InputError(f"{name} needs a column {column!r} in the data")


def _budgets(column: Sequence[float] | None) -> Callable[[list[int]], dict[str, Any]]:
    return lambda members: {"budgets": [column[i] for i in members]}


def _by_group(
    function: Callable[..., list[float]],
    episodes: Sequence[Episode],
    correct: Verdicts,
    of_group: Callable[[list[int]], dict[str, Any]] = lambda members: {},
    **settings: Any,
) -> list[float | None]:
    """Returns the values of `function(lengths, correct, ...)` on each group, in the order of the episodes.

    Episodes whose answer can't be judged get None and are excluded from their group's statistics. Without episodes, the
    function is called on an empty group, so that it checks its settings.

    Args:
        of_group: returns additional arguments for the group whose episodes have these indices.
    """
    verdicts = answer(episodes) if correct is None else correct
    groups: dict[Hashable, list[int]] = {} if episodes else {None: []}
    for index, (episode, verdict) in enumerate(zip(episodes, verdicts, strict=True)):
        if verdict is not None:
            groups.setdefault(episode.group_id, []).append(index)
    values: list[float | None] = [None] * len(episodes)
    for members in groups.values():
        lengths = [max(1, episodes[i].num_tokens) for i in members]
        right = [verdicts[i] == 1.0 for i in members]
        for index, value in zip(members, function(lengths, right, **of_group(members), **settings), strict=True):
            values[index] = value
    return values
