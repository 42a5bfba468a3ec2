"""Checks config values: known keys and types. Suggests the nearest key to a mistyped one."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Mapping
from typing import Any

from rl.settings.library_source import library_source
from rollout.errors import ConfigError, unknown_key


def library_fields(name: str) -> dict[str, str]:
    """Returns names and annotations of all fields of "SFTConfig", "EpisodeGRPOConfig" or "LoraConfig"."""
    return {key: field.annotation for key, field in library_source(name).fields.items()}


def check_section(where: str, section: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
    """Returns the section with every value converted to its field's type.

    Raises:
        ConfigError: a key is unknown or a value has the wrong type.
    """
    checked = {}
    for key, value in section.items():
        if key not in fields:
            raise unknown_key(where, key, fields)
        checked[key] = check_value(f"{where}.{key}" if where else key, value, fields[key])
    return checked


def check_value(where: str, value: Any, annotation: str) -> Any:
    """Returns `value` if it fits the annotation, with 1e-6 read as a number (YAML reads it as text)."""
    kinds = _members(annotation)
    for kind in kinds:
        fits, converted = _fit(value, kind)
        if fits:
            return converted
    quotes = quotes_hint(value) if "str" in kinds else ""
    raise ConfigError(f"{where} is {value!r}; it must be {' or '.join(map(_readable, kinds))}{quotes}")


def quotes_hint(value: Any) -> str:
    """Returns a hint for a value that should be text, but that YAML has read as something else."""
    if isinstance(value, bool):
        return " (YAML reads a bare yes, no, on or off as true or false: put it in quotes)"
    return "" if value is None or isinstance(value, list | dict) else " (put it in quotes)"


_READABLE = {
    "None": "null", "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
    "list": "a list", "tuple": "a list", "dict": "a mapping",
}  # fmt: skip


def _readable(kind: str) -> str:
    base, _, inner = kind.partition("[")
    if base == "Literal":
        return f"one of {', '.join(map(str, _literal(kind)))}"
    of = _READABLE.get(inner.removesuffix("]"), "") if base == "list" else ""
    return _READABLE.get(base, base) + (f", each {of}" if of else "")


def _members(annotation: str) -> list[str]:
    """Returns the top-level members of `A | B[C | D]`, `Union[A, B]` or `Optional[A]`."""
    found = []
    for part in _split(annotation, "|"):
        base, _, inner = part.partition("[")
        if base in ("Optional", "Union"):
            found += [member for each in _split(inner.removesuffix("]"), ",") for member in _members(each)]
            found += ["None"] if base == "Optional" else []
        else:
            found.append(part)
    return found


def _split(text: str, mark: str) -> list[str]:
    """Splits at the marks outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == mark and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _literal(kind: str) -> tuple[Any, ...]:
    return ast.literal_eval(f"({kind.removeprefix('Literal[').removesuffix(']')},)")


def _fit(value: Any, kind: str) -> tuple[bool, Any]:
    base, _, inner = kind.partition("[")
    if base == "None":
        return value is None, None
    if base == "bool":
        return isinstance(value, bool), value
    if base == "int":
        return isinstance(value, int) and not isinstance(value, bool), value
    if base == "float":
        return _fit_float(value)
    if base == "str":
        return isinstance(value, str), value
    if base == "Literal":  # peft's 'pissa_niter_[number of iters]' stands for any number
        named = _literal(kind)
        open_ended = tuple(text.partition("[")[0] for text in named if isinstance(text, str) and "[" in text)
        is_text = isinstance(value, str)
        return any(value is n or (is_text and value == n) for n in named) or (
            is_text and value.startswith(open_ended)
        ), value
    if base in ("list", "tuple"):
        return _fit_list(value, inner.removesuffix("]") if base == "list" else "")
    if base == "dict":
        return isinstance(value, dict), value
    return base in ("Any", "object") or value is not None, value  # a library's own type: its constructor checks it


def _fit_list(value: Any, each: str) -> tuple[bool, Any]:
    if not isinstance(value, list) or not each:
        return isinstance(value, list), value
    fitted = [next((found for found in (_fit(item, k) for k in _members(each)) if found[0]), None) for item in value]
    return None not in fitted, [found[1] for found in fitted if found]


def _fit_float(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False, value
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return False, value
    return math.isfinite(number), number


def check_table(where: str, settings: Mapping[str, Any]) -> None:
    """Checks TRL's settings of its table of completions, which is a table of episodes here.

    Args:
        where: prefix of a setting's name in a message: "rl.", or empty.

    Raises:
        ConfigError: a setting that can't be honored.
    """
    if settings.get("log_completions") and not {"wandb", "trackio", "all"} & {*_trackers(settings)}:
        raise ConfigError(
            f"{where}log_completions gives W&B and Trackio a table of episodes: name wandb or trackio in "
            f"{where}report_to (every episode is stored even without it)"
        )
    for name in ("num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo"):
        if settings.get(name):
            raise ConfigError(
                f"{where}{name} is not supported: the table of {where}log_completions contains the best and the worst "
                "episode of up to 8 groups, and nothing is printed"
            )


_NEEDS = (("use_liger_kernel", "liger_kernel", "liger-kernel"), ("deepspeed", "deepspeed", "deepspeed"))


def check_installed(where: str, settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` if the settings need a tracker or package that the user has not installed."""
    for name in ("wandb", "trackio"):
        # W&B's own folder `wandb` in the working directory is found too, but has no origin
        if name in _trackers(settings) and getattr(importlib.util.find_spec(name), "origin", None) is None:
            raise ConfigError(f"{where}report_to names {name}, which is not installed here: pip install {name}")
    for key, module, package in _NEEDS:
        if settings.get(key) and importlib.util.find_spec(module) is None:
            raise ConfigError(f"{where}{key} needs {package}, which is not installed here: pip install {package}")


def _trackers(settings: Mapping[str, Any]) -> list[str]:
    named = settings.get("report_to") or []
    return [named] if isinstance(named, str) else named
