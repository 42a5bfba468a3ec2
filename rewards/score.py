"""Scores whole groups: each function's values, combined into one total per episode.

total = (sum of weight x value over the `add` terms) x (product of 1 + weight x (value - 1) over the `multiply` terms)

A `multiply` weight of 1 multiplies by the value itself, 0 by 1. A term is omitted in groups where its gate is closed.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rewards.call import Called, call_reward
from rewards.schedule import at_step, step_of
from rewards.task import answer
from rewards.types import Reward, RewardError, RewardFunction, Scores
from rewards.verifiers import VERIFIERS
from rollout.types import Episode, StopReason


class FailureWatch:
    """Stops a run if a reward function fails on every episode for several steps in a row."""

    def __init__(self, limit: int = 3):
        self.limit = limit
        self._in_a_row: dict[str, int] = defaultdict(int)

    def check(self, scores: Scores, episodes: int) -> list[str]:
        """Returns lines to print about the functions that failed in this step.

        Raises:
            RewardError: a function failed on every episode for `limit` steps in a row.
        """
        lines = []
        for name in scores.values:
            failed = scores.errors.get(name, 0)
            self._in_a_row[name] = self._in_a_row[name] + 1 if failed == episodes else 0
            if failed:
                lines.append(f"reward {name!r} failed on {failed} of {episodes} episodes: {scores.messages[name]}")
            if self._in_a_row[name] >= self.limit:
                raise RewardError(
                    f"reward {name!r} failed on every episode of {self.limit} steps in a row: {scores.messages[name]}"
                )
        return lines


def as_rewards(rewards: Sequence[Reward | RewardFunction]) -> list[Reward]:
    """Wraps plain functions as `Reward`s with weight 1, makes names unique, and marks built-in verifiers as such."""
    result: list[Reward] = []
    for reward in rewards:
        if not isinstance(reward, Reward):
            reward = Reward(reward, _name_of(reward))
        if reward.verifier is None:
            reward = replace(reward, verifier=reward.fn in VERIFIERS.values())
        taken = {r.name for r in result}
        name, number = reward.name, 2
        while name in taken:
            name, number = f"{reward.name}_{number}", number + 1
        result.append(replace(reward, name=name))
    return result


def _name_of(function: RewardFunction) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def score_episodes(episodes: Sequence[Episode], rewards: Sequence[Reward | RewardFunction], **context: Any) -> Scores:
    """Scores whole groups at once. Pass all episodes of a step, from every rank.

    If a function returns None for an episode, the other functions determine its total; an episode that no `add`
    function scored has total nan. If a function fails (it raises, times out, or returns a non-number, nan or too few
    values), the episode has total nan and is counted in `errors`. An episode that the verifier could not judge against
    its gold answer also has total nan, whatever the other terms are. No failure silently becomes 0.

    The verdicts (`correct`: for length rewards, gates, accuracy) are the values of the first verifier among the
    functions; without one, those of `answer`, if a function or gate needs them.

    Args:
        context: additional keyword arguments for every function, such as TRL's `trainer_state`, whose `global_step` is
            the step for schedules.

    Raises:
        RewardError: a function returned no list, or a list of the wrong length, for every group.
    """
    rewards = as_rewards(rewards)
    scores = Scores(total=[])
    failed: set[int] = set()
    verifier = next((r for r in rewards if r.verifier), None)
    first: dict[str, Called] = {}
    if verifier:
        first = {verifier.name: call_reward(verifier, episodes, context)}
        scores.correct = first[verifier.name].values
    elif any(r.wants_verdicts for r in rewards):
        scores.correct = answer(episodes)
    for reward in rewards:
        called = first.get(reward.name) or call_reward(reward, episodes, context, scores.correct)
        scores.values[reward.name] = called.values
        scores.extra |= called.extra
        if called.errors:
            failed |= called.errors
            scores.errors[reward.name] = len(called.errors)
            scores.messages[reward.name] = called.message
        if reward.gate:
            scores.gated[reward.name] = reward.gate.opens(episodes, scores.correct)
    step = step_of(context)
    for index, episode in enumerate(episodes):
        unjudged = verifier and scores.correct[index] is None and episode.answer is not None
        if index in failed or unjudged or episode.stop_reason == StopReason.FAILED:
            scores.total.append(math.nan)
        else:
            scores.total.append(_total(rewards, scores, index, step))
    return scores


def weighted_terms(rewards: list[Reward], scores: Scores, step: int) -> tuple[list[list[float]], list[float]]:
    """Returns the terms of each episode's total: values [episodes][rewards], and the weights at `step`.

    A value is nan if the reward returned None, its gate is closed, or the episode can't be scored at all.
    """
    rows = []
    for index, total in enumerate(scores.total):
        row = []
        for reward in rewards:
            value = scores.values[reward.name][index]
            closed = reward.gate is not None and not scores.gated[reward.name][index]
            row.append(math.nan if value is None or closed or math.isnan(total) else value)
        rows.append(row)
    return rows, [at_step(reward.weight, step) for reward in rewards]


def _total(rewards: list[Reward], scores: Scores, index: int, step: int) -> float:
    added, factor = [], 1.0
    for reward in rewards:
        value, weight = scores.values[reward.name][index], at_step(reward.weight, step)
        if reward.gate and not scores.gated[reward.name][index]:
            if reward.combine == "add":
                added.append(0.0)
        elif reward.combine == "multiply":
            factor *= math.nan if value is None else 1.0 + weight * (value - 1.0)
        elif value is not None:
            added.append(weight * value)
    return sum(added) * factor if added else math.nan
