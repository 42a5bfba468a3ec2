"""Answers that contain names: `x = 5`, `f(2) = 3`, `a = 1, b = 2`. The left side of the sign matters."""

from __future__ import annotations

import re
from collections.abc import Callable

from rewards.verifying import engine
from rewards.verifying.normal import plain_text
from rewards.verifying.pieces import bracketed, expanded, relations, rows, split

_INDEX = r"(?:_\s*(?:\{[^{}]*\}|\w|\\[a-z]+\s?))?"
_GREEK = (
    r"\\(?:alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi|chi|psi"
    r"|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell|hbar)\s?"
)
_ONE = (
    rf"(?:[A-Za-z]|{_GREEK}|\\(?:vec|hat|bar|tilde|overline|overrightarrow|widehat|dot|ddot|mathcal)\s*\{{?\s*[A-Za-z]+\s*\}}?)"
    rf"'*{_INDEX}'*(?:\^\s*(?:\{{\s*(?:-1|\*|\([a-z0-9]+\))\s*\}}|\*))?'*"
)
_APPLIED = rf"{_ONE}\s*\([^=<>{{}}]*\)"
_NAME = re.compile(
    rf"(?:(?![a-eg-z]\s*\^\s*\{{\s*-){_ONE}"  # f^{{-1}} is a function, x^{{-1}} is 1/x
    # A question may ask for a triangle's \tan A or a circuit's V_o(s)/V_i(s); \log x and x/2 are steps toward x.
    rf"|\\(?:sin|cos|tan|cot|sec|csc)\s*(?:[A-Z]|\\angle\s*[A-Z]+|{_GREEK})"
    rf"|\\frac\s*\{{\s*{_APPLIED}\s*\}}\s*\{{\s*{_APPLIED}\s*\}}|{_APPLIED}\s*/\s*{_APPLIED}"
    rf"|(?:{_ONE}|\\text\{{[A-Za-z ]+\}}|\\(?:Pr|det|gcd|lcm|deg|dim|max|min)\s*)\s*(?:\([^=<>]*\)|\[[^=<>]*\])"
    rf"|(?:\\(?:max|min|det|sup|inf)\s*){_ONE}"
    r"|m?\s*\\(?:angle|triangle|square|Delta|measuredangle)\s*[A-Za-z]+(?:\s*[A-Z])*"
    r"|[A-Z]{2,5}|[A-Z]'?[A-Z]'?|d[A-Za-z]\s*/\s*d[A-Za-z]|\\frac\s*\{d\^?\d?[A-Za-z]?\}\{d[A-Za-z]\^?\d?\}"
    r"|\|\s*(?:[A-Z]{1,3}|\\(?:vec|overline|overrightarrow)\s*\{[^{}]*\}|z)\s*\||\\#?\s*\|?[A-Z]\|?"
    rf"|(?:{_ONE}|[A-Z]{{2}})(?:\s*:\s*(?:{_ONE}|[A-Z]{{2}}))+)\s*"
)
_SUM = re.compile(r"[a-km-wA-Z]'?(?:\s*[+]\s*[a-km-wA-Z]){1,5}|[a-dA-Dmnpq]{2,4}|[a-dmnpqrk]\s*-\s*[a-dmnpqrk]")
_WORDS = re.compile(r"(?:\\text\{[^{}]*\}|[A-Za-z]{3,}+|[\s_:.'()%]|\\[$%&])+")
_TUPLE = re.compile(r"[(\[]?\s*[A-Za-z](?:_\{?\w\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w\}?)?)+\s*[)\]]?")
_BASE = re.compile(r"_\s*\{?\s*\d+\s*\}?|'+$|\s")

_LONGEST_NAME = 200  # characters

Same = Callable[[str, str], bool]


def is_name(side: str) -> bool:
    """Whether a side names the unknown: a letter, `f(2)`, `AB`, `\\angle A`, a label in words, `m+n`."""
    side = side.strip()
    if len(side) > _LONGEST_NAME:
        return False
    if not side or (re.fullmatch(r"[a-z]\s*\(?\s*\d.*", side) and not re.fullmatch(r"[a-zA-Z]\s*\([^()]*\)", side)):
        return False
    return bool(
        _NAME.fullmatch(side)
        or _SUM.fullmatch(side)
        or (_WORDS.fullmatch(side) and re.search(r"[A-Za-z]{2}", plain_text(side)))
        or _TUPLE.fullmatch(side)
    )


def given(text: str) -> list[tuple[str, str]] | None:
    """Returns (name, value) per part if all are equations with a name on a side; an unnamed part gets the last name."""
    if single := _named_tuple(text):
        return single
    if (found := rows(text)) and found[0] in ("cases", "aligned", "align", "align*", "array", "matrix"):
        text = ",".join("".join(row) for row in found[1])
    groups = split(text, ";")
    if len(groups) > 1 and "=" in groups[1]:  # p = 5, q = 2; p = 7, q = 2
        found = [given(group) for group in groups]
        if all(found) and len({tuple(name for name, _ in pairs) for pairs in found}) == 1 and len(found[0]) > 1:
            name = ",".join(name for name, _ in found[0])
            return [(name, "(" + ",".join(value for _, value in pairs) + ")") for pairs in found]
    pairs: list[tuple[str, str]] = []
    for part in split(text):
        sides, signs = relations(part)
        if not signs:
            if not pairs:
                return None
            pairs.append((pairs[-1][0], part))
            continue
        if signs[-1] == r"\approx" and len(sides) > 2:
            sides, signs = sides[:-1], signs[:-1]
        if any(sign not in ("=", r"\approx") for sign in signs):
            return None
        if not is_name(sides[0]):
            if len(sides) == 2 and is_name(sides[1]) and engine.value(sides[0]) is not None:
                sides = sides[::-1]
            else:
                return None
        pairs += [(_plain_name(sides[0]), value) for value in expanded([sides[-1]])]
    return pairs or None


def _named_tuple(text: str) -> list[tuple[str, str]] | None:
    """Reads `(x, y) = (1, 2)` as x = 1, y = 2."""
    sides, signs = relations(text)
    if signs != ["="]:
        return None
    names, values = (bracketed(side) for side in sides)
    if not names or not values or names[0] != "(" or values[0] != "(" or not _TUPLE.fullmatch(sides[0]):
        return None
    names, values = ([part.strip() for part in split(side[1])] for side in (names, values))
    if len(names) != len(values) or len({_BASE.sub("", name) for name in names}) < len(names):
        return None
    return list(zip(map(_plain_name, names), values, strict=True))


def consistent(text: str) -> bool:
    """Whether the last side of a chain of equations is the answer: the first side is a name, or equal to the last.

    `x+1 = 5` does not state 5; `x = 2+3 = 5`, `2+3 = 5` and `(x+1)^2 = x^2+2x+1` state their last side.
    """
    sides, signs = relations(text)
    sides = [side for side, sign in zip(sides, ["=", *signs], strict=True) if sign == "="]
    if len(sides) == 2 and is_name(sides[1]) and engine.value(sides[0]) is not None:  # 6 = x
        return True
    rest = sides[1:] if is_name(sides[0]) else sides
    values = [engine.value(side) for side in rest]
    if not is_name(sides[0]) and len(rest) > 1 and not _says(rest[0], rest[-1], values[0], values[-1]):
        return False
    last = values[-1]
    return last is None or all(v is None or abs(v - last) <= 1e-6 * max(1.0, abs(last)) for v in values)


def names_agree(found: list[tuple[str, str]], gold: list[tuple[str, str]], same: Same) -> bool:
    """Compares each name with its value; if both have the same names, the order does not matter."""
    if len(found) != len(gold):
        return False
    ours, theirs = [name for name, _ in found], [name for name, _ in gold]
    if sorted(ours) != sorted(theirs):
        labels = all(_WORDS.fullmatch(name) and len(name) > 2 for name in ours) or all(
            _WORDS.fullmatch(name) and len(name) > 2 for name in theirs
        )
        one_letter = len({_BASE.sub("", n) for n in ours + theirs}) == 1  # x = 1, x = 2 and x_1 = 1, x_2 = 2
        if not (labels and len(gold) == 1) and not one_letter:
            return False
        return unordered([v for _, v in found], [v for _, v in gold], same)
    if any(len({_BASE.sub("", n) for n in names}) == 1 for names in (theirs,)) and len(gold) > 1:
        return unordered([v for _, v in found], [v for _, v in gold], same)
    left = list(found)
    for name, value in gold:
        match = next((pair for pair in left if pair[0] == name and same(pair[1], value)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def values_agree(values: list[str], names: list[str], others: list[str], same: Same) -> bool:
    """Compares unnamed values with named ones: in the order of the names, or in any order for roots x_1, x_2."""
    if len(values) != len(others):
        return False
    if len(names) > 1 and len({_BASE.sub("", name) for name in names}) == 1:
        return unordered(values, others, same)
    return all(map(same, values, others))


def unordered(found: list[str], gold: list[str], same: Same) -> bool:
    """Whether the values are the same in any order."""
    left = list(found)
    for value in gold:
        match = next((other for other in left if same(other, value)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _plain_name(name: str) -> str:
    if match := bracketed(name):
        name = match[1] if "," in match[1] else name
    return re.sub(r"[\s{}]|\\text", "", name).rstrip(":")


def _says(first: str, last: str, a: float | None, b: float | None) -> bool:
    if a is not None and b is not None:
        return abs(a - b) <= 1e-9 * max(1.0, abs(b))
    return (a is None) == (b is None) and engine.equal(first, last)
