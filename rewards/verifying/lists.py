"""Answers with several parts: tuples, sets, lists, vectors and matrices, compared part by part."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rewards.verifying import engine
from rewards.verifying.pieces import bracketed, expanded, rows, split
from rewards.verifying.relations import unordered

_TRANSPOSED = re.compile(r"\s*\^\s*\{?\s*(?:T|\\top|\\text\{T\}|\\intercal)\s*\}?$")

Same = Callable[[str, str], bool]


@dataclass(frozen=True)
class Parts:
    """Kind: `(` ordered, `{` a set, `[`, `` a bare list, `matrix` (its rows are the parts), `column`, `row`."""

    kind: str
    parts: tuple[str, ...]


def read(text: str) -> Parts | None:
    """Returns the parts of a normalized answer; None if it is a single value."""
    text = _TRANSPOSED.sub("", text) if text.endswith(("T", "}", "top", "top ")) else text
    if (found := rows(text)) and found[0] not in ("cases", "aligned", "align", "align*"):
        if found[0] in ("vmatrix", "Vmatrix"):  # a determinant
            return None
        cells = found[1]
        if any(len(row) != len(cells[0]) for row in cells):
            return None
        if all(len(row) == 1 for row in cells):
            return Parts("column", tuple(row[0] for row in cells))
        if len(cells) == 1:
            return Parts("row", tuple(cells[0]))
        return Parts("matrix", tuple("[" + ",".join(row) + "]" for row in cells))
    if vector := _along_axes(text):
        return vector
    if outer := bracketed(text):
        opening, inside, closing = outer
        parts = expanded(split(inside))
        kind = {"(": "(", "[": "[", r"\{": "{", r"\langle": "("}[opening]
        if (opening, closing) in (("(", "]"), ("[", ")")):
            return None
        if len(parts) >= 2 or kind == "{":
            if kind == "[" and all(p.startswith("[") for p in parts):
                return Parts("matrix", tuple(parts))
            return Parts(kind, tuple(parts))
        return None
    parts = expanded(split(text))
    return Parts("", tuple(parts)) if len(parts) >= 2 else None


def same(found: Parts, gold: Parts, equal: Same) -> bool:
    """Compares part by part; in any order if the gold answer is a set or a bare list."""
    if len(found.parts) != len(gold.parts):
        return False
    vectors = ("(", "column", "row")
    if gold.kind == "matrix" or found.kind == "matrix":
        return found.kind == gold.kind and all(map(_row_same(equal), found.parts, gold.parts))
    if gold.kind in ("column", "row"):
        if found.kind in ("column", "row") and found.kind != gold.kind:
            return False
        return found.kind != "{" and all(map(equal, found.parts, gold.parts))
    if gold.kind == "(":
        if found.kind not in (*vectors, "", "{"):
            return False
        return all(map(equal, found.parts, gold.parts))
    if gold.kind == "[":
        return found.kind in ("[", "", "column", "row") and all(map(equal, found.parts, gold.parts))
    if (found.kind in vectors and gold.kind == "") or (found.kind == "[" and gold.kind == ""):
        return all(map(equal, found.parts, gold.parts)) or all(map(equal, found.parts, _sorted(gold.parts)))
    if found.kind in ("[", *vectors) and gold.kind == "{":
        return found.kind == "(" and all(map(equal, found.parts, _sorted(gold.parts)))
    return unordered(list(found.parts), list(gold.parts), equal)


def _row_same(equal: Same) -> Same:
    def same_row(found: str, gold: str) -> bool:
        a, b = split(found.strip()[1:-1]), split(gold.strip()[1:-1])
        return len(a) == len(b) and all(map(equal, a, b))

    return same_row


def _sorted(parts: tuple[str, ...]) -> list[str]:
    values = [engine.value(part) for part in parts]
    if None in values:
        return list(parts)
    return [part for _, part in sorted(zip(values, parts, strict=True))]


def _along_axes(text: str) -> Parts | None:
    r"""Reads `3\hat{i} - 4\hat{j}` and `\mathbf{i}+2\mathbf{j}` as (3, -4) and (1, 2)."""
    if "j" not in text:
        return None
    text = re.sub(
        r"\\(?:hat|widehat|vec|text|mathbf)\s*\{\s*\\?([ijk])(?:math)?\s*\}|\\([ij])math", lambda m: m[1] or m[2], text
    )
    terms = re.findall(
        r"\s*([-+]?)\s*((?:\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}|\\sqrt\{\d+\}|\d+\\sqrt\{\d+\})?)\s*([ijk])(?![A-Za-z])",
        text,
    )
    if len(terms) < 2 or "".join("".join(term) for term in terms) != re.sub(r"\s", "", text):
        return None
    axes = [axis for _, _, axis in terms]
    if sorted(set(axes)) != sorted(axes):
        return None
    given = {axis: sign.replace("+", "") + (amount or "1") for sign, amount, axis in terms}
    size = 3 if "k" in given else 2
    return Parts("(", tuple(given.get(axis, "0") for axis in "ijk"[:size]))
