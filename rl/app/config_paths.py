"""Expands `~` and `${VAR}` in the values of a config that name files and folders."""

from __future__ import annotations

import os
import re
from typing import Any

from rl.settings.schema import ConfigError

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_OTHER_FORM = re.compile(r"\$(?=[{(\w])")
_PLACES = (
    "model.path", "model.build", "data.traces", "data.questions", "data.eval", "data.prepared", "data.decontaminate",
    "summarizer.fn", "summarizer.url", "summarizer.model", "rollout.weights_dir", "rollout.urls", "eval.cache",
    "eval.summarizer", "rewards", "sft.deepspeed", "rl.deepspeed", "sft.logging_dir", "rl.logging_dir",
)  # fmt: skip
"""Keys whose texts are paths, or a source of data, a function or a model that may be given as one."""
_INSIDE = ("source", "fn", "model", "url")
"""In mappings below those places, the keys with such a text."""


def expand_paths(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config with paths expanded. `~` is expanded only at the start of a path.

    Raises:
        ConfigError: a variable is not set.
    """
    expanded = dict(raw)
    for place in _PLACES:
        section, _, key = place.partition(".")
        if not key:
            expanded[section] = _expand(place, expanded.get(section))
        elif isinstance(expanded.get(section), dict) and key in expanded[section]:
            expanded[section] = expanded[section] | {key: _expand(place, expanded[section][key])}
    expanded = {key: value for key, value in expanded.items() if key in raw}
    _refuse_others("", expanded)
    return expanded


def _refuse_others(where: str, value: Any) -> None:
    """Raises ConfigError for a variable elsewhere, which would not be expanded. (A prompt may hold `${question}`.)"""
    if isinstance(value, str) and _VARIABLE.search(value) and not where.endswith("prompt"):
        raise ConfigError(f"{where} is {value!r}: variables are expanded only in paths, sources and functions")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        place = f"{where}.{key}" if where else str(key)
        if isinstance(key, str) and _VARIABLE.search(key):
            raise ConfigError(f"{place}: variables are not expanded in keys: write the key itself")
        _refuse_others(place, item)


def _expand(where: str, value: Any) -> Any:
    if isinstance(value, str):
        if _OTHER_FORM.search(_VARIABLE.sub("", value)):
            raise ConfigError(f"{where} is {value!r}: write a variable as ${{NAME}}, with only its name in the braces")
        return os.path.expanduser(_VARIABLE.sub(lambda found: _value(where, found.group(1)), value))
    if isinstance(value, list):
        return [_expand(f"{where}.{number}", item) for number, item in enumerate(value)]
    if isinstance(value, dict):  # in data.eval, every key names a source
        names = where == "data.eval"
        return {
            key: _expand(f"{where}.{key}", item) if names or key in _INSIDE else item for key, item in value.items()
        }
    return value


def _value(where: str, name: str) -> str:
    if name not in os.environ:
        raise ConfigError(f"{where}: the environment variable {name} is not set")
    return os.environ[name]
