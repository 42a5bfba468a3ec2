"""Rewards of whole groups: each function's values, and how they combine into one total an episode.

total = (sum of weight x value over the `add` functions) x (product of the `multiply` functions' values)
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any, Literal

from rollout.types import Episode

RewardFunction = Callable[..., list[float | None]]
"""TRL's signature: `f(prompts, completions, episodes, **columns)`, one value an episode; None = can't be scored."""


class RewardError(ValueError):
    """A reward function that breaks its contract. The message names it and says how to mend it."""


@dataclass(frozen=True)
class Reward:
    """A reward function with its part in the total."""

    fn: RewardFunction
    name: str
    weight: float = 1.0
    combine: Literal["add", "multiply"] = "add"

    def __post_init__(self):
        if self.combine not in ("add", "multiply"):
            raise ValueError(f"reward {self.name!r}: combine is {self.combine!r}; it must be add or multiply")


@dataclass
class Scores:
    """Values of a batch of episodes; lists are in the order of the episodes."""

    total: list[float]  # nan: can't be scored, and so is left out of the update
    values: dict[str, list[float | None]] = field(default_factory=dict)  # each function's, before weights
    errors: dict[str, int] = field(default_factory=dict)  # episodes on which a function raised
    messages: dict[str, str] = field(default_factory=dict)  # the first exception of each function

    def __getitem__(self, name: str) -> list[float | None]:
        return self.values[name]

    def joined(self, other: Scores) -> Scores:
        """These scores, then those of further episodes by the same functions."""
        return Scores(
            self.total + other.total,
            {name: values + other.values[name] for name, values in self.values.items()},
            {name: self.errors.get(name, 0) + other.errors.get(name, 0) for name in self.errors | other.errors},
            other.messages | self.messages,
        )

    def metrics(self) -> dict[str, float]:
        """`reward/mean`, `reward/std`, `reward/unscored`, `reward/<name>/mean` and `reward/<name>/errors`."""
        scored = [t for t in self.total if not math.isnan(t)]
        metrics = {"reward/unscored": len(self.total) - len(scored)}
        if scored:
            metrics |= {"reward/mean": fmean(scored), "reward/std": pstdev(scored)}
        for name, values in self.values.items():
            known = [v for v in values if v is not None]
            if known:
                metrics[f"reward/{name}/mean"] = fmean(known)
            metrics[f"reward/{name}/errors"] = self.errors.get(name, 0)
        return metrics


class FailureWatch:
    """Stops a run in which a reward function raises on every episode, several steps in a row."""

    def __init__(self, limit: int = 3):
        self.limit = limit
        self._in_a_row: dict[str, int] = defaultdict(int)

    def check(self, scores: Scores, episodes: int) -> list[str]:
        """Lines to show on the functions that raised in this step.

        Raises:
            RewardError: one has raised on every episode of `limit` steps in a row.
        """
        lines = []
        for name in scores.values:
            failed = scores.errors.get(name, 0)
            self._in_a_row[name] = self._in_a_row[name] + 1 if failed == episodes else 0
            if failed:
                lines.append(f"reward {name!r} raised on {failed} of {episodes} episodes: {scores.messages[name]}")
            if self._in_a_row[name] >= self.limit:
                raise RewardError(
                    f"reward {name!r} raised on every episode of {self.limit} steps in a row: {scores.messages[name]}"
                )
        return lines


def as_rewards(rewards: Sequence[Reward | RewardFunction]) -> list[Reward]:
    """Plain functions become `Reward`s with weight 1. Names are made different from one another."""
    result: list[Reward] = []
    for reward in rewards:
        if not isinstance(reward, Reward):
            reward = Reward(reward, getattr(reward, "__name__", type(reward).__name__))
        taken = {r.name for r in result}
        name, number = reward.name, 2
        while name in taken:
            name, number = f"{reward.name}_{number}", number + 1
        result.append(Reward(reward.fn, name, reward.weight, reward.combine))
    return result


def score_episodes(episodes: Sequence[Episode], rewards: Sequence[Reward | RewardFunction], **context: Any) -> Scores:
    """Scores whole groups at once: give it all episodes of a step, from every rank.

    A function that returns None for an episode has nothing to say about it: the other functions decide, and an
    episode that no `add` function scored has total nan. A function that raises is called again group by group; the
    episodes of the groups where it raises again get total nan and are counted in `errors`. Never a silent 0.

    Args:
        context: further keyword arguments for every function, as TRL passes `trainer_state`.

    Raises:
        RewardError: a function returned no list, a list of the wrong length, or something other than numbers.
    """
    rewards = as_rewards(rewards)
    scores = Scores(total=[])
    failed: set[int] = set()
    for reward in rewards:
        values, errors, message = _call(reward, episodes, context)
        scores.values[reward.name] = values
        if errors:
            failed |= errors
            scores.errors[reward.name] = len(errors)
            scores.messages[reward.name] = message
    for index, episode in enumerate(episodes):
        if index in failed or episode.stop_reason == "failed":
            scores.total.append(math.nan)
        else:
            scores.total.append(_combine([(r, scores.values[r.name][index]) for r in rewards]))
    return scores


def _combine(parts: list[tuple[Reward, float | None]]) -> float:
    added = [r.weight * v for r, v in parts if r.combine == "add" and v is not None]
    factors = [v for r, v in parts if r.combine == "multiply"]
    if not added or None in factors:
        return math.nan
    return sum(added) * math.prod(factors)


def _call(
    reward: Reward, episodes: Sequence[Episode], context: dict[str, Any]
) -> tuple[list[float | None], set[int], str]:
    """Values of one function, the indices on which it raised, and its first message."""
    scorable = [index for index, episode in enumerate(episodes) if episode.stop_reason != "failed"]
    values: list[float | None] = [None] * len(episodes)
    errors: set[int] = set()
    message = ""
    batches = [scorable] if scorable else []
    while batches:
        indices = batches.pop(0)
        batch = [episodes[index] for index in indices]
        try:
            returned = _invoke(reward, batch, context)
        except RewardError:
            raise
        except Exception as error:  # a user's function may raise anything: it is data, with a count
            message = message or f"{type(error).__name__}: {error}"
            groups: dict[Hashable, list[int]] = defaultdict(list)
            for index in indices:
                groups[episodes[index].group_id].append(index)
            if len(groups) > 1:
                batches += list(groups.values())
            else:
                errors |= set(indices)
            continue
        for index, value in zip(indices, returned, strict=True):
            values[index] = value
    return values, errors, message


def _invoke(reward: Reward, episodes: Sequence[Episode], context: dict[str, Any]) -> list[float | None]:
    chat = bool(episodes) and not isinstance(episodes[0].question, str)
    texts = [e.final_text for e in episodes]
    names = dict.fromkeys(key for e in episodes for key in e.columns)
    columns = {key: [e.columns.get(key) for e in episodes] for key in names}
    returned = reward.fn(
        **{
            **columns,
            **context,
            "prompts": [e.question for e in episodes],
            "completions": [[{"role": "assistant", "content": text}] for text in texts] if chat else texts,
            "completion_ids": [e.segments[-1].completion_ids if e.segments else [] for e in episodes],
            "episodes": list(episodes),
        }
    )
    if inspect.isawaitable(returned):
        returned = asyncio.run(_awaited(returned))
    return _checked(reward.name, returned, len(episodes))


async def _awaited(value: Any) -> Any:
    return await value


def _checked(name: str, returned: Any, expected: int) -> list[float | None]:
    if returned is None or isinstance(returned, (str, bytes, dict)) or not hasattr(returned, "__len__"):
        raise RewardError(
            f"reward {name!r} returned {type(returned).__name__}, not a list: return one number or None an episode"
        )
    if len(returned) != expected:
        raise RewardError(
            f"reward {name!r} returned {len(returned)} values for {expected} episodes: return one an episode, in order"
        )
    values: list[float | None] = []
    for value in returned:
        try:
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            raise RewardError(f"reward {name!r} returned {value!r}: a value must be a number or None") from None
        values.append(None if number is None or math.isnan(number) else number)
        if number is not None and math.isinf(number):
            raise RewardError(f"reward {name!r} returned an infinite value: rewards must be finite")
    return values
