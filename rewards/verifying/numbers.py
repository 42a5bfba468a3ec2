"""Reads and compares numbers exactly, without sympy and without rounding tiny numbers to 0."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 400  # characters
_MOST_EXPONENT = 1000

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)"
_GROUPED = re.compile(  # 1.234.567,5; 1'234'567; 12,34,567; 1_234_567; 1 234 567,5
    r"\d{1,3}(?:(?:\.\d{3}){2,}(?:,\d+)?|\.\d{3},\d+|(?:'\d{3})+(?:\.\d+)?|(?:\\?_\d{3})+|(?: \d{3})+,\d+)"
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?"
)
_DECIMAL = re.compile(
    rf"({_DIGITS})?(?:\.(\d*))?(?:\s?[eE]\s?([-+]?\d{{1,4}})|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{{?\s*([-+]?\d{{1,4}})\s*\}}?)?"
)
_POWER = re.compile(r"10\s*\^\s*\{?\s*([-+]?\d{1,4})\s*\}?")
_COMMA = re.compile(r"0,\d+")
_REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\overline\s*\{\s*(\d+)\s*\}|\\bar\s*\{\s*(\d+)\s*\}|\\dot\s*\{(\d)\}(?:(\d*)\\dot\s*\{(\d)\})?|\((\d+)\))(?:\\ldots)?"
)
_GOES_ON = re.compile(r"(\d*)\.(\d+)\s*\\ldots")
_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))")
_MIXED = re.compile(
    r"(\d+)\s*(?:\\frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))|(?<=\s)(\d+)\s?/\s?(\d+)|\s\+\s(\d+)\s?/\s?(\d+))"
)


@dataclass(frozen=True)
class Number:
    """A number as written."""

    value: Fraction
    decimal: bool = False  # written with a decimal point, so it may be rounded
    percent: bool = False


def read(text: str) -> Number | None:
    """Parses a normalized text as a number; None if it is not one."""
    if len(text) > _LONGEST:
        return None
    text = text.strip()
    percent = re.search(r"\s*(?:\\?%|(?:\\text\{)?\s*(?:percent(?:age)?|pct)\s*\}?)\s*$", text)
    if percent:
        text = text[: percent.start()]
    sign = 1
    while text[:1] in ("-", "+"):
        sign, text = (-sign if text[0] == "-" else sign), text[1:].lstrip()
    found = _unsigned(text)
    return found and Number(sign * found.value, found.decimal, bool(percent))


def _unsigned(text: str) -> Number | None:
    if match := _MIXED.fullmatch(text):
        whole, *parts = (part for part in match.groups() if part)
        above, below = map(int, parts)
        return Number(int(whole) + Fraction(above, below)) if 0 < above < below else None
    if match := _FRACTION.fullmatch(text):
        above, below = (read(part) for part in match.groups() if part)
        if above is None or below is None or not below.value or above.percent or below.percent:
            return None
        return Number(above.value / below.value, above.decimal or below.decimal)
    if text.count("/") == 1:
        above, below = (_decimal(part.strip()) for part in text.split("/"))
        return (
            Number(above.value / below.value, above.decimal or below.decimal)
            if above and below and below.value
            else None
        )
    return _decimal(text)


def _decimal(text: str) -> Number | None:
    if _GROUPED.fullmatch(text):
        comma_is_point = re.match(r"\d+[. ]\d{3}", text)
        text = re.sub(r"[. ]", "", text).replace(",", ".") if comma_is_point else re.sub(r"[',_\\]", "", text)
    if match := _POWER.fullmatch(text):
        return _scaled(Fraction(1), match[1], False)
    if _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if match := _REPEATING.fullmatch(text):
        whole, fixed = match[1] or "0", match[2]
        if match[5] is not None and match[7] is None and match[6]:
            return None
        again = match[3] or match[4] or match[8] or (match[5] + ((match[6] or "") + match[7] if match[7] else ""))
        return _repeating(whole, fixed, again)
    if (match := _GOES_ON.fullmatch(text)) and len(match[2]) < 60:
        for size in range(1, len(match[2]) // 2 + 1):
            again = match[2][-size:]
            times = len(re.search(rf"(?:{again})+$", match[2])[0]) // size
            if times >= (3 if size == 1 else 2):
                return _repeating(match[1] or "0", match[2][: -size * times], again)
        return None
    match = _DECIMAL.fullmatch(text)
    if not match or not (match[1] or match[2]):
        return None
    whole = re.sub(r"[, ]", "", match[1] or "0")
    value = Fraction(int(whole + (match[2] or "")), 10 ** len(match[2] or ""))
    return _scaled(value, match[3] or match[4] or "0", bool(match[2]) or bool(match[3]))


def _repeating(whole: str, fixed: str, again: str) -> Number:
    tail = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
    return Number(int(whole) + Fraction(int(fixed or "0"), 10 ** len(fixed)) + tail)


def _scaled(value: Fraction, exponent: str, decimal: bool) -> Number | None:
    power = int(exponent)
    return None if abs(power) > _MOST_EXPONENT else Number(value * Fraction(10) ** power, decimal)


def same(found: Number, gold: Number) -> bool:
    """Compares as math-verify does: a decimal number must match to six places, and a percent sign may be omitted.

    In addition, the first four digits of a tiny number must match: 0.0000001 is not 0.0000002. Only a number written
    with at least six places counts as rounded: 1 is not 0.9999999.
    """
    rounded = found.decimal or gold.decimal
    if close(found.value / (100 if found.percent else 1), gold.value / (100 if gold.percent else 1), rounded):
        return True
    return found.percent != gold.percent and abs(gold.value) >= 1 and close(found.value, gold.value, rounded)


def close(found: Fraction, gold: Fraction, rounded: bool) -> bool:
    """Whether two numbers are equal or, if one may be rounded, equal to six places and to four digits."""
    if found == gold:
        return True
    gap, size = abs(found - gold), max(abs(found), abs(gold))
    if not rounded or gap > size / 5000:
        return False
    if gap <= size / 10**14:  # float precision
        return True
    a, b = _places(found), _places(gold)
    step = Fraction(1, 10 ** min(a, b))
    shorter, longer = (found, gold) if a < b else (gold, found)
    cut = gap < step and abs(shorter) < abs(longer)
    return min(a, b) >= 6 and a != b and (cut or gap <= step / 2)


def _places(value: Fraction) -> int:
    """Returns a number's count of decimal places; for one with infinitely many, a value above all others."""
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else _LONGEST * 10
