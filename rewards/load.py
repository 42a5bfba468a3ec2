"""Reward functions from a config: built-in ones by name, the user's by `path.py:name` or `module:name`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rewards.efficiency import EFFICIENCY
from rewards.length import iteration_decay
from rewards.score import Reward
from rewards.task import answer
from rollout.plugins import is_function_spec, load_function
from rollout.protocol import RoundProtocol
from rollout.types import Episode


def _iteration_decay(episodes: Sequence[Episode], max_rounds: int, **_: Any) -> list[float | None]:
    return iteration_decay([max(1, e.num_rounds) for e in episodes], max_rounds)


BUILT_IN: dict[str, Callable[..., Any]] = {"answer": answer, "iteration_decay": _iteration_decay}


def load_rewards(entries: Sequence[dict[str, Any]], protocol: RoundProtocol) -> list[Reward]:
    """Rewards from the config's list: `{fn, weight, combine, name}` and any setting of the function itself.

    Raises:
        ValueError: an unknown function or setting, in one line.
    """
    if not entries:
        raise ValueError("rewards is empty: name at least one, as in `rewards: [{fn: answer}]`")
    rewards = []
    for entry in entries:
        settings = dict(entry)
        spec = settings.pop("fn", None)
        if not isinstance(spec, str):
            raise ValueError(f"rewards: {entry} has no `fn`: a built-in name, path.py:name or module:name")
        weight, combine = settings.pop("weight", 1.0), settings.pop("combine", "add")
        name = settings.pop("name", spec.rpartition(":")[2])
        if spec in EFFICIENCY:
            rewards.append(Reward(EFFICIENCY[spec].bind(settings), name, float(weight), combine))
            continue
        function = BUILT_IN.get(spec) or _plugin(spec)
        if spec == "iteration_decay":
            settings.setdefault("max_rounds", protocol.max_rounds)
        _check_settings(spec, function, settings)
        rewards.append(Reward(partial(function, **settings) if settings else function, name, float(weight), combine))
    if all(r.combine == "multiply" for r in rewards):
        raise ValueError("rewards holds only `multiply` terms: at least one must `add`")
    return rewards


def _plugin(spec: str) -> Callable[..., Any]:
    if not is_function_spec(spec):
        raise ValueError(
            f"rewards: no built-in {spec!r}; known: {', '.join([*BUILT_IN, *EFFICIENCY])}, path.py:name or module:name"
        )
    return load_function(spec)


def _check_settings(spec: str, function: Callable[..., Any], settings: dict[str, Any]) -> None:
    """A setting that the function does not name would vanish in its **kwargs: an error."""
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind != p.VAR_KEYWORD]
    for key in settings:
        if key not in known:
            raise ValueError(f"rewards: {spec} has no setting {key!r}; it takes {', '.join(known)}")
