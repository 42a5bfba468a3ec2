"""Calls one reward function on a batch and returns its values, with its failures recorded per episode."""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rewards.schedule import at_step, step_of
from rewards.types import Reward, RewardError
from rollout.types import Episode, StopReason


@dataclass
class Called:
    """Result of one function on a batch. A value is None if the function returned None or failed (`errors`)."""

    values: list[float | None]
    errors: set[int] = field(default_factory=set)
    message: str = ""  # of the first failure
    extra: dict[str, list[Any]] = field(default_factory=dict)  # columns passed to `log_extra`


def call_reward(
    reward: Reward,
    episodes: Sequence[Episode],
    context: dict[str, Any],
    correct: Sequence[float | None] | None = None,
) -> Called:
    """Returns the values of one function. If it raises or returns no valid list, it is called again group by group.

    Args:
        correct: verdict on each episode, for functions with a `correct` argument.

    Raises:
        RewardError: the function breaks its contract on every episode, which no later batch would fix.
    """
    scorable = [i for i, e in enumerate(episodes) if e.stop_reason != StopReason.FAILED]
    called = Called([None] * len(episodes))
    breaks_contract = True
    batches = [scorable] if scorable else []
    while batches:
        indices = batches.pop(0)
        try:
            given = {"log_extra": partial(_keep_column, called.extra, indices, len(episodes))}
            if correct is not None:
                given["correct"] = [correct[i] for i in indices]
            returned = _invoke(reward, [episodes[i] for i in indices], context | given)
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            ours = isinstance(error, RewardError | _OutOfTime)
            called.message = called.message or (str(error) if ours else f"{type(error).__name__}: {error}")
            breaks_contract &= isinstance(error, RewardError)
            groups: dict[Hashable, list[int]] = defaultdict(list)
            for index in indices:
                groups[episodes[index].group_id].append(index)
            if len(groups) > 1 and not isinstance(error, _OutOfTime):
                batches += list(groups.values())
            else:
                called.errors |= set(indices)
            continue
        for index, value in zip(indices, returned, strict=True):
            try:
                called.values[index] = _number(reward.name, value)
            except RewardError as error:
                called.errors.add(index)
                called.message = called.message or str(error)
    if scorable and breaks_contract and len(called.errors) == len(scorable):
        raise RewardError(called.message)
    return called


def _keep_column(
    columns: dict[str, list[Any]], indices: Sequence[int], episodes: int, name: str, values: Sequence[Any]
) -> None:
    """Implements TRL's `log_extra(name, values)`: one value for each episode that the function was called on."""
    column = columns.setdefault(name, [None] * episodes)
    for index, value in zip(indices, values, strict=False):
        column[index] = value


def _invoke(reward: Reward, episodes: Sequence[Episode], context: dict[str, Any]) -> Sequence[Any]:
    chat = bool(episodes) and not isinstance(episodes[0].question, str)
    texts = [e.final_text for e in episodes]
    names = dict.fromkeys(key for e in episodes for key in e.columns)
    columns = {key: [e.columns.get(key) for e in episodes] for key in names if key not in reward.own}
    arguments = {
        **columns,
        **context,
        "prompts": [e.question for e in episodes],
        "completions": [[{"role": "assistant", "content": text}] for text in texts] if chat else texts,
        "completion_ids": [e.segments[-1].completion_ids if e.segments else [] for e in episodes],
        "episodes": list(episodes),
        **{name: at_step(value, step_of(context)) for name, value in reward.settings.items()},  # override columns
    }
    returned = _within(lambda: _finished(reward.fn(**arguments)), reward.time_limit)
    if isinstance(returned, str | bytes | dict | set | frozenset) or not hasattr(returned, "__len__"):
        raise RewardError(
            f"reward {reward.name!r} returned {type(returned).__name__}, not a list: "
            "return one number or None per episode"
        )
    if len(returned) != len(episodes):
        raise RewardError(
            f"reward {reward.name!r} returned {len(returned)} values for {len(episodes)} episodes: "
            "return one per episode, in order"
        )
    return list(returned)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise RewardError(f"reward {name!r} returned {value!r:.80}: a value must be a number or None") from None
    if math.isnan(number):
        raise RewardError(f"reward {name!r} returned nan: return None for an episode that can't be scored")
    if math.isinf(number):
        raise RewardError(f"reward {name!r} returned an infinite value: rewards must be finite")
    return number


class _OutOfTime(Exception):
    pass


def _finished(value: Any) -> Any:
    """Returns the value, awaited if it is awaitable; also works inside a running event loop (a notebook)."""
    if not inspect.isawaitable(value):
        return value

    async def awaited() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(awaited())
    return _in_thread(lambda: asyncio.run(awaited()), None)


def _within(call: Callable[[], Any], seconds: float | None) -> Any:
    return call() if seconds is None else _in_thread(call, seconds)


def _in_thread(call: Callable[[], Any], seconds: float | None) -> Any:
    """Runs a call in a daemon thread. Python can't stop a function: one that times out keeps running in its thread."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # raised again in the caller's thread
            outcome.append((None, error))

    thread = threading.Thread(target=work, name="reward", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _OutOfTime(f"took longer than its time_limit of {seconds:g} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
