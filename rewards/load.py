"""Loads reward functions from a config: built-in name, `path.py:name`, `module:name`, or a package's entry point."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.metadata import entry_points
from typing import Any

from rewards.detectors import DETECTORS
from rewards.efficiency import EFFICIENCY
from rewards.length import iteration_decay
from rewards.schedule import Gate, Schedule, at_step, read_schedule
from rewards.trl_rewards import TRL_REWARDS
from rewards.types import Reward
from rewards.verifiers import VERIFIERS
from rollout.errors import InputError
from rollout.plugins import is_function_spec, load_function, loading
from rollout.protocol import RoundProtocol
from rollout.types import Episode

ENTRY_POINTS = "sawtooth.rewards"
"""Entry-point group in which an installed package registers its reward functions."""


def _iteration_decay(episodes: Sequence[Episode], max_rounds: int, **_: Any) -> list[float | None]:
    return iteration_decay([max(1, e.num_rounds) for e in episodes], max_rounds)


_GIVEN = ("prompts", "completions", "completion_ids", "episodes", "correct", "trainer_state", "log_metric", "log_extra")
_COLUMNS = ("tests", "budget", "ref_lengths", "ref_accuracy")  # built-in functions' arguments filled from the data

BUILT_IN: dict[str, Callable[..., Any]] = {
    **VERIFIERS,
    "iteration_decay": _iteration_decay,
    **EFFICIENCY,
    **TRL_REWARDS,
    **DETECTORS,
}
_FORMER_NAMES = {"normalised": "normalized"}


def load_rewards(entries: Sequence[dict[str, Any]], protocol: RoundProtocol) -> list[Reward]:
    """Loads the config's list of `{fn, weight, combine, name, gate, time_limit, verifier}` and function settings;
    `model` instead of `fn` is a reward model.

    A weight or a numeric setting may be a schedule: `{schedule: linear, points: {0: 0.0, 100: 0.5}}`.

    Raises:
        InputError: an unknown function or setting (one-line message).
    """
    if not entries:
        raise InputError("rewards is empty: name at least one, as in `rewards: [{fn: answer}]`")
    rewards = [_load(dict(entry), protocol) for entry in entries]
    if all(r.combine == "multiply" for r in rewards):
        raise InputError("rewards has only `multiply` terms: at least one must `add`")
    return rewards


def _load(entry: dict[str, Any], protocol: RoundProtocol) -> Reward:
    if "model" in entry and "fn" not in entry:  # next to `fn`, it is the function's own setting
        return _load_model(entry, protocol)
    spec = entry.pop("fn", None)
    if not isinstance(spec, str):
        raise InputError(f"rewards: {entry} has no `fn`: a built-in name, path.py:name or module:name")
    built_in = BUILT_IN.get(_FORMER_NAMES.get(spec, spec))
    function = built_in or _plugin(spec)
    if inspect.isclass(function):
        function = function()  # a stateful reward: each run has its own instance
    where = f"rewards: {spec}"
    part = _part(where, entry, spec.rpartition(":")[2])
    if part["verifier"] is None:
        part["verifier"] = function in VERIFIERS.values()
    settings = {key: read_schedule(f"{where}.{key}", value) for key, value in entry.items()}
    if spec == "iteration_decay":
        most = settings.setdefault("max_rounds", protocol.max_rounds)
        if isinstance(most, bool) or not isinstance(most, int) or most < protocol.max_rounds:
            raise InputError(
                f"{where}.max_rounds is {most!r}; it must be a whole number of at least the protocol's "
                f"{protocol.max_rounds}, or a late correct answer would score below an incorrect one"
            )
    _check_settings(where, function, settings, built_in is not None)
    own = frozenset(inspect.signature(function).parameters) - {*_COLUMNS, "columns"} if built_in else frozenset()
    return Reward(function, settings=settings, own=own, **part)


def _load_model(entry: dict[str, Any], protocol: RoundProtocol) -> Reward:
    """Loads `{model: folder or Hub id, weight, batch_size, dtype, …}`: a sequence classifier, read at first use."""
    from rewards.model import RewardModel

    path = entry.pop("model")
    if not isinstance(path, str) or not path:
        raise InputError(f"rewards: model is {path!r}; it must be a folder or a Hub id")
    where = f"rewards: {path}"
    part = _part(where, entry, path.rstrip("/").rpartition("/")[2])
    batch = entry.pop("batch_size", 8)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"{where}.batch_size is {batch!r}; it must be a whole number of at least 1")
    loading = {key: entry.pop(key) for key in ("dtype", "revision", "trust_remote_code") if key in entry}
    for key in entry:
        raise InputError(
            f"{where} has no setting {key!r}; a reward model takes batch_size, dtype, revision, trust_remote_code"
        )
    template = protocol.chat_template_kwargs
    return Reward(RewardModel(path, batch_size=batch, chat=protocol.chat, template=template, loading=loading), **part)


def _part(where: str, entry: dict[str, Any], name: str) -> dict[str, Any]:
    """Pops the fields that define a reward's part in the total from its entry."""
    weight = read_schedule(f"{where}.weight", entry.pop("weight", 1.0))
    if not isinstance(weight, Schedule):
        weight = _number(f"{where}.weight", weight)
    time_limit, own = entry.pop("time_limit", None), entry.pop("name", name)
    if not isinstance(own, str) or not own:
        raise InputError(f"{where}.name is {own!r}; it must be text (it names the reward in tables and metrics)")
    return {
        "name": own,
        "weight": weight,
        "combine": entry.pop("combine", "add"),
        "gate": _gate(where, entry.pop("gate", None)),
        "verifier": _flag(f"{where}.verifier", entry.pop("verifier", None)),
        "time_limit": None if time_limit is None else _number(f"{where}.time_limit", time_limit),
    }


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise InputError(f"{where} is {value!r}; it must be a number")
    return float(value)


def _flag(where: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}; it must be true or false")
    return value


def _gate(where: str, gate: Any) -> Gate | None:
    if gate is None:
        return None
    known = [f.name for f in fields(Gate)]
    if not isinstance(gate, dict) or not gate or set(gate) - set(known):
        raise InputError(f"{where}.gate is {gate!r}; it takes {' and/or '.join(known)}, e.g. {{min_accuracy: 0.5}}")
    return Gate(**gate)


def _plugin(spec: str) -> Callable[..., Any]:
    if is_function_spec(spec):
        return load_function(spec)
    found = entry_points(group=ENTRY_POINTS)
    if spec in found.names:
        with loading(spec):
            return found[spec].load()
    known = [*BUILT_IN, *sorted(found.names)]
    near = difflib.get_close_matches(spec, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}, path.py:name or module:name"
    raise InputError(f"rewards: no built-in {spec!r}; {hint}")


def _check_settings(where: str, function: Callable[..., Any], settings: dict[str, Any], built_in: bool) -> None:
    """Rejects a setting that the function does not name, which would silently disappear in its **kwargs."""
    try:
        named = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise InputError(
            f"{where} has no inspectable signature (a C function?): wrap it in a Python function"
        ) from error
    parameters = [p for p in named if p.kind != p.VAR_KEYWORD]
    from_data = _COLUMNS if built_in else ()
    known = [p.name for p in parameters if p.name not in (*_GIVEN, *from_data)]
    for key in settings:
        if key not in known:
            raise InputError(f"{where} has no setting {key!r}; it takes {', '.join(known) or 'none'}")
    if not built_in:  # its other arguments may be data columns
        return
    for parameter in parameters:
        if parameter.annotation in ("int", "float") and not isinstance(settings.get(parameter.name), Schedule | None):
            _number(f"{where}.{parameter.name}", settings[parameter.name])
        if parameter.default is parameter.empty and parameter.name not in (*_GIVEN, *settings):
            raise InputError(f"{where} needs the setting {parameter.name!r}")
    if function in TRL_REWARDS.values():  # importing TRL takes 10 s
        return
    steps = {0, *(step for value in settings.values() if isinstance(value, Schedule) for step, _ in value.points)}
    for step in sorted(steps):  # a built-in function checks its settings even on an empty batch
        try:
            function([], **{name: at_step(value, step) for name, value in settings.items()})
        except (TypeError, ValueError, re.error) as error:
            raise InputError(f"{where}: {error}") from error
