"""Reads numbers, JSON and fenced blocks from a model's text. Time is linear in the text; nothing is raised."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

NOTHING = object()
"""Returned by a reader that finds no value. (None is taken: it is JSON's null.)"""

WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol)\s{0,3}\{([^{}]{0,1000})\}")
_LONGEST_NUMBER = 400  # characters
_LONGEST_JSON, _DEEPEST_JSON = 1 << 20, 100  # characters; nesting depth of lists and objects

_PLAIN = r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)?(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,5})?"
_NUMBER = re.compile(rf"({_PLAIN})(?:/({_PLAIN}))?")
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)  # an unclosed one too, in one pass


def read_number(text: str) -> tuple[float, bool] | Any:
    """Parses the whole text as a finite number and returns it with whether it has a percent sign, else NOTHING."""
    if len(text) > _LONGEST_NUMBER:
        return NOTHING
    text = WRAPPED.sub(r"\1", text.replace("\N{MINUS SIGN}", "-").replace("{,}", ","))
    text = re.sub(r"\\[,!;]|\$|\s+(?=[/%])|(?<=/)\s+", "", text).strip().removesuffix(".")
    percent = text.endswith("%")
    text = text.removesuffix("%").removesuffix("\\")
    if fraction := _FRACTION.fullmatch(text):
        text = "{}{}/{}".format(*fraction.groups())
    match = _NUMBER.fullmatch(text)
    if match is None:
        return NOTHING
    try:
        value, divisor = (float(part.replace(",", "")) for part in match.groups(default="1"))
        value /= divisor
    except (ValueError, ZeroDivisionError):  # ValueError: no digits
        return NOTHING
    return (value, percent) if math.isfinite(value) else NOTHING


def fenced_block(text: str, languages: Collection[str]) -> str | None:
    """Returns the last closed block fenced with three backticks and one of `languages`, or None."""
    found, lines = None, None
    for line in text.splitlines():
        mark = line.strip()
        if lines is None:
            if mark.startswith("```") and "`" not in mark[3:]:
                lines, wanted = [], "".join(mark[3:].lower().split()[:1]) in languages
        elif mark == "```":
            found, lines = ("\n".join(lines) if wanted else found), None
        else:
            lines.append(line)
    return found


def read_json(value: Any) -> Any:
    """Parses a text as JSON; returns other types unchanged, and NOTHING if the text is not strict JSON."""
    if not isinstance(value, str):
        return value
    if len(value) > _LONGEST_JSON or _depth(value) > _DEEPEST_JSON:
        return NOTHING
    try:
        return json.loads(value, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except ValueError:
        return NOTHING


def same_json(a: Any, b: Any) -> bool:
    """Compares two JSON values: the order of keys does not matter, 1 equals 1.0, true does not equal 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same_json, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _depth(text: str) -> int:
    """Returns the maximum bracket nesting depth, outside strings."""
    depth = deepest = 0
    for character in re.sub(r"[^][{}]", "", _JSON_STRING.sub("", text)):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number too large")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
