"""Sets of real numbers: intervals, unions, inequalities joined by "or", set-builder notation, excluded numbers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from rewards.verifying import engine
from rewards.verifying.pieces import relations, split

_VARIABLE = re.compile(r"[a-zA-Z](?:_\{?\w\}?)?|\\(?:theta|alpha|beta|lambda|mu|phi|omega)\s?|[a-z]\s*\([a-z]\)")
_BUILDER = re.compile(r"\\\{\s*([^|:]+?)\s*(?:\||:)\s*(.+?)\s*\\\}")
_MEMBER = re.compile(r"^([A-Za-z](?:_\{?\w\}?)?|\\[a-z]+\s?)\s*(?:\\in|=)\s*(?=[\[\](\\])")
_OR = re.compile(r"\\text\s*\{\s*,?\s*or\s*\}|(?<![A-Za-z\\])or(?![A-Za-z])|或|または|\\cup(?![A-Za-z])")
_AND = re.compile(r"\\text\s*\{\s*,?\s*and\s*\}|(?<![A-Za-z\\])and(?![A-Za-z])|且|かつ|\\cap(?![A-Za-z])")
_COMMA = re.compile(r",")
_ABSOLUTE = re.compile(r"\|\s*([^|]+?)\s*\|")
_DOMAIN = re.compile(r",?\s*[a-zA-Z]\s*\\in\s*\\mathbb\{R\}\s*,?|\\in\s*\\mathbb\{R\}")
_SETS = re.compile(
    r"\\cup|\\infty|\\emptyset|\\mathbb\{R\}|\\setminus|[<>]|\\leq|\\geq|\\neq|\\in(?![a-z])|\\\{|^[\[\]]|[\[\]]$|^\(.*,.*\)$|\\notin"
)


@dataclass(frozen=True)
class Span:
    """An interval, or a single number if both ends are equal."""

    low: float
    high: float
    low_in: bool
    high_in: bool


Spans = tuple[Span, ...]
_ALL = (Span(-math.inf, math.inf, False, False),)


def may_be(text: str) -> bool:
    """Whether the text may be a set, so that parsing is worthwhile."""
    return bool(_SETS.search(text)) and len(text) < 1000


def read(text: str) -> tuple[Spans, str | None] | None:
    """Parses a normalized text into sorted, disjoint spans and its variable; None if it is not such a set."""
    if not may_be(text):
        return None
    text = re.sub(r"\\text\{\s*(where|for|such that|with)\s*\}", " ", text).strip(" ,")
    variable = None
    if match := _BUILDER.fullmatch(text):
        left = re.sub(r"\\in\s*\\mathbb\{R\}", "", match[1]).strip()
        if not _VARIABLE.fullmatch(left):
            return None
        variable, text = left, match[2]
    if (match := _MEMBER.match(text)) and not re.match(r"\\(?:frac|sqrt|pi)", text[match.end() :]):
        variable, text = match[1].strip(), text[match.end() :]
    if _DOMAIN.search(text) and re.search(r"[<>]|\\[lgn]eq", text):
        text = _DOMAIN.sub(lambda m: ", " if m[0].startswith(",") and m[0].endswith(",") else "", text).strip(" ,")
    spans, names = _any(text, set(filter(None, [variable])))
    if spans is None or len(names) > 1:
        return None
    return spans, next(iter(names), None)


def same(found: tuple[Spans, str | None], gold: tuple[Spans, str | None]) -> bool:
    """Whether the numbers are the same and, if both name a variable, the names too."""
    if found[1] and gold[1] and found[1].strip() != gold[1].strip():
        return False
    a, b = found[0], gold[0]
    return len(a) == len(b) and all(
        x.low_in == y.low_in and x.high_in == y.high_in and _close(x.low, y.low) and _close(x.high, y.high)
        for x, y in zip(a, b, strict=True)
    )


def _close(a: float, b: float) -> bool:
    return a == b or (
        math.isfinite(a) and math.isfinite(b) and abs(a - b) <= 5e-7 and abs(a - b) <= max(abs(a), abs(b)) / 5000
    )


def _any(text: str, names: set[str]) -> tuple[Spans | None, set[str]]:
    """Returns the union of the parts joined by "or" and `\\cup`."""
    parts = _outside(text, _OR)
    spans: list[Span] = []
    for part in parts:
        found, names = _all(part, names)
        if found is None:
            return None, names
        spans += found
    return _joined(spans), names


def _all(text: str, names: set[str]) -> tuple[Spans | None, set[str]]:
    """Returns the intersection of the parts joined by "and"; `\\setminus` subtracts."""
    if "\\setminus" in text or re.search(r"(?<=[\])}])\s*-\s*\\\{", text):
        sides = re.split(r"\\setminus|-(?=\s*\\\{)", text, maxsplit=1)
        whole, names = _all(sides[0], names)
        less, names = _all(sides[1], names)
        return (None, names) if whole is None or less is None else (_common(whole, _outer(less)), names)
    single = _one(text.strip(), names)
    if single is not None:
        return single
    parts, comma = _outside(text, _AND), False
    if len(parts) < 2:  # (1,2), (3,4) are points
        parts, comma = _outside(text, _COMMA), True
    spans, either = _ALL, []
    if len(parts) < 2:
        return None, names
    for part in parts:
        found = _one(part.strip(), names)
        if (
            found is None
            or found[0] is None
            or (not re.search(r"[<>]|\\[lgn]eq|\\notin|\\in", part) and (comma or not re.match(r"[\[(\]]", part)))
        ):
            return None, names
        spans, names, either = _common(spans, found[0]), found[1], [*either, *found[0]]
    if not spans and "\\cap" not in text:  # x < 1, x > 2: no number is both, so it means "or"
        return _joined(either), names
    return spans, names


def _one(text: str, names: set[str]) -> tuple[Spans, set[str]] | None:
    if re.fullmatch(r"\\emptyset\s*", text):
        return (), names
    if re.fullmatch(r"\\mathbb\{R\}", text):
        return _ALL, names
    if (match := _MEMBER.match(text)) and "\\in" in match[0]:
        return _one(text[match.end() :].strip(), names | {match[1].strip()})
    if len(text) > 2 and text[0] in "([]" and text[-1] in ")][":
        parts = split(text[1:-1])
        if len(parts) == 2 and not re.search(r"[<>=]", text):
            low, high = _end(parts[0]), _end(parts[1])
            if low is None or high is None or low > high or (low == high and text[0] + text[-1] != "[]"):
                return None  # a point
            low_in, high_in = text[0] == "[" and math.isfinite(low), text[-1] == "]" and math.isfinite(high)
            return (Span(low, high, low_in, high_in),), names
        if text[0] == "(" and len(parts) == 1:
            spans, inner = _any(text[1:-1], names)
            return (spans, inner) if spans is not None else None
        return None
    if text.startswith(r"\{") and text.endswith(r"\}"):
        ends = [_end(part) for part in split(text[2:-2])]
        return (_joined([Span(e, e, True, True) for e in ends]), names) if None not in ends else None
    sides, signs = relations(text)
    if not signs or not all(sign in ("<", ">", r"\leq", r"\geq", r"\neq", "=") for sign in signs):
        return None
    ends = [_end(side) for side in sides]
    unknown = [index for index, end in enumerate(ends) if end is None]
    if len(unknown) == 1 and (match := _ABSOLUTE.fullmatch(sides[unknown[0]])) and _VARIABLE.fullmatch(match[1]):
        text = text.replace(match[0], match[1])
        plain = _one(text, names)
        right = _common(plain[0], (Span(0.0, math.inf, True, False),)) if plain else None
        return right and (
            _joined([*right, *(Span(-s.high, -s.low, s.high_in, s.low_in) for s in right)]),
            plain[1],
        )
    if len(unknown) != 1 or not _VARIABLE.fullmatch(sides[unknown[0]].strip()):
        return _left_out(sides, signs, names)
    at, spans = unknown[0], _ALL
    for index, sign in enumerate(signs):
        if index not in (at - 1, at):
            return None
        other, flip = (ends[index], True) if index == at - 1 else (ends[index + 1], False)
        spans = _common(
            spans,
            _half(other, {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}.get(sign, sign) if flip else sign),
        )
    return spans, names | {sides[at].strip()}


def _left_out(sides: list[str], signs: list[str], names: set[str]) -> tuple[Spans, set[str]] | None:
    """Handles `x \\neq \\pm 1`; `x \\neq 1, 2` arrives as separate parts."""
    if (
        signs == [r"\neq"]
        and (match := re.fullmatch(r"\\pm\s*(.+)", sides[1]))
        and _VARIABLE.fullmatch(sides[0].strip())
    ):
        end = _end(match[1])
        if end is not None:
            return _outer(_joined([Span(e, e, True, True) for e in (-end, end)])), names | {sides[0].strip()}
    return None


def _half(end: float, sign: str) -> Spans:
    if sign == "=":
        return (Span(end, end, True, True),)
    if sign == r"\neq":
        return _outer((Span(end, end, True, True),))
    closed = "eq" in sign
    if sign in (">", r"\geq"):
        return (Span(end, math.inf, closed and math.isfinite(end), False),)
    return (Span(-math.inf, end, False, closed and math.isfinite(end)),)


def _end(text: str) -> float | None:
    text = text.strip()
    if match := re.fullmatch(r"([-+]?)\s*\\infty\s*", text):
        return -math.inf if match[1] == "-" else math.inf
    if re.search(
        r"[A-DF-Za-df-hj-z]", re.sub(r"\\(?:frac|sqrt|pi|ln|log|cdot|times|sin|cos|tan|arc\w+)(?![A-Za-z])|e", "", text)
    ):
        return None
    return engine.value(text)


def _joined(spans: list[Span]) -> Spans:
    """Sorts spans and merges those that touch or overlap."""
    result: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.low, not s.low_in)):
        if span.low > span.high or (span.low == span.high and not (span.low_in and span.high_in)):
            continue
        last = result[-1] if result else None
        if last and (span.low < last.high or (span.low == last.high and (span.low_in or last.high_in))):
            if span.high > last.high or (span.high == last.high and span.high_in):
                result[-1] = Span(last.low, span.high, last.low_in, span.high_in)
        else:
            result.append(span)
    return tuple(result)


def _common(a: Spans, b: Spans) -> Spans:
    found = []
    for x in a:
        for y in b:
            low, low_in = max((x.low, not x.low_in), (y.low, not y.low_in))
            high, high_in = min((x.high, x.high_in), (y.high, y.high_in))
            found.append(Span(low, high, not low_in, high_in))
    return _joined(found)


def _outer(spans: Spans) -> Spans:
    """Returns the complement."""
    result, low, low_in = [], -math.inf, False
    for span in spans:
        result.append(Span(low, span.low, low_in, not span.low_in and math.isfinite(span.low)))
        low, low_in = span.high, not span.high_in and math.isfinite(span.high)
    result.append(Span(low, math.inf, low_in, False))
    return _joined(result)


def _outside(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Splits at matches outside brackets. A reversed bracket, as in `]0,1]`, counts by its meaning."""
    depth, starts = 0, []
    for _index, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        starts.append(depth)
    level = 0
    parts, start = [], 0
    for match in pattern.finditer(text):
        before = starts[match.start() - 1] if match.start() else 0
        balanced = re.sub(r"[^\[\](){}]", "", text[start : match.start()])
        if before == level or (len(balanced) % 2 == 0 and re.fullmatch(r"(?:[\[\](]{1}[\[\])]{1})+", balanced)):
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    return parts
