"""A number with a unit: `5\\text{ cm}`, `\\$18`, `2 hours 15 minutes`, `3 million`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rewards.verifying import engine, numbers, units
from rewards.verifying.normal import plain_text

_AMOUNT = r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+|\s+\d+/\d+)?"
_PART = re.compile(rf"\s*(?:and\s+|,\s*)?({_AMOUNT}|[-+]?\d*\s*\\frac\{{\d+\}}\{{\d+\}})\s*([A-Za-z.]+)(?=\s|$|,|\d)")
_CURRENCY = re.compile(
    r"^([-+]?)\s*(?:\\?(US\$|[$€£¥₹₽₩])|\(?(USD|EUR|GBP|RMB|CNY|JPY|INR|Rs)\b\.?\)?:?)\s*(?=[-+\d.\\(])", re.IGNORECASE
)
_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{((?:[^{}\d]|\\text\{[^{}]*\})+)\}\s*\{((?:[^{}]|\\text\{[^{}]*\}|\^\{\d\})+)\}\s*$"
)
_TAIL = re.compile(
    r"((?:\\text\{[^{}]*\}|\^\\circ\s*[CFK]?(?![A-Za-z])|(?<=[\d\s}).])[A-Za-z¢€£¥₹$\u3040-\u30ff\u3400-\u9fff][A-Za-z.\u3040-\u30ff\u3400-\u9fff]*+|(?<=[/*-])[A-Za-z]++|\^\s*\{?\s*-?\d\s*\}?(?=\s*(?:$|/|\\text|\\cdot|[A-Za-z]))|[\s/*.-]|\\cdot|\\%|%)+)$"
)


@dataclass(frozen=True)
class Quantity:
    """The amount in front of the unit, and the unit; for several parts (`4 h 30 min`), the sum in the base unit."""

    amount: str
    unit: units.Unit
    parts: int = 1
    joined: bool = False  # the unit is a letter right after the number: `5m` may be a product

    @property
    def scale(self) -> Fraction:
        return self.unit[0]


def read(text: str) -> Quantity | None:
    """Parses a normalized text as a quantity; None if it has no unit."""
    if len(text) > 400 or not re.search(r"\d|\\pi|\\sqrt|\\frac|\\text", text):
        return None
    text = re.sub(r"(?<=[\d\s])\\Omega\s*$", "\\\\text{ohm}", text)
    if currency := _CURRENCY.match(
        text.replace("\\text{", "").replace("}", "", 1) if text.startswith("\\text{") else text
    ):
        stripped = text.replace("\\text{", "").replace("}", "", 1) if text.startswith("\\text{") else text
        name = units.CURRENCIES[(currency[2] or currency[3]).lower()]
        rest = currency[1] + stripped[currency.end() :]
        inner = read(rest)
        unit = units.read(name)
        if inner is None:
            return Quantity(rest, unit)
        same_name = inner.unit[1] in ((), unit[1])
        return Quantity(inner.amount, (inner.unit[0], unit[1]) if same_name else inner.unit)
    if compound := _compound(plain_text(text).replace("\\", "")):
        return compound
    if match := _UNIT_FRACTION.search(text):
        above, below = map(plain_text, match.groups())
        unit = units.read(f"{above}/{below}", strict=True)
        amount = text[: match.start()].strip()
        return Quantity(amount, unit) if unit and amount and re.search(r"[\d)}]$", amount) else None
    match = _TAIL.search(text)
    if not match or not match[1].strip() or match.start() == 0:
        return None
    amount, tail = text[: match.start()].strip(), match[1]
    if power := re.match(r"\s*\^\s*\{?\s*-?\d+\s*\}?", tail):  # 3 \times 10^8 m/s
        amount, tail = amount + power[0], tail[power.end() :]
    if (
        amount.endswith(("\\", "^", "_", "{"))
        or not amount
        or (re.search(r"\\[A-Za-z]*$", amount) and not re.search(r"\\pi$", amount))
    ):
        return None
    if re.search(r"_\s*\{?\w+\}?$", amount):  # H_2O
        return None
    wrapped = "\\text" in tail or "\\circ" in tail
    words = plain_text(tail).strip(" .-*")
    spaced = tail[:1].isspace()
    if not words or "%" in words:
        return None
    joined = False
    if not wrapped:
        if len(words) == 1 and words.isascii() and words.isalpha():
            if not units.known(words):
                return None
            joined = True
        east_asian = not words.isascii() and words.isalpha()
        strict = not (spaced or east_asian) or any(len(w) < 3 for w in re.findall(r"[A-Za-z]+", words))
        unit = units.read(words, strict=strict)
        if unit is not None and not any(c in "$€£¥₹¢" for c in words) and re.search(r"[=<>]", amount):
            return None
    elif len(words) == 1 and words.isalpha() and not units.known(words):  # 5\text{e}
        return None
    else:
        unit = units.read(words)
    if unit is None or re.search(r"\b(?:or|and)\b", words):
        return None
    return Quantity(amount, unit, joined=joined)


def _compound(text: str) -> Quantity | None:
    where, total, base, count = 0, Fraction(0), None, 0
    feet = re.fullmatch(r"(\d+)\s*'\s*(\d+)\s*(?:\"|'')", text)
    text = f"{feet[1]} ft {feet[2]} in" if feet else text
    while match := _PART.match(text, where):
        number = numbers.read(match[1])
        unit = units.read(match[2], strict=True)
        if number is None or unit is None or (base is not None and unit[1] != base):
            return None
        total, base, where, count = total + number.value * unit[0], unit[1], match.end(), count + 1
    if count < 2 or text[where:].strip(" ."):
        return None
    return Quantity(f"\\frac{{{total.numerator}}}{{{total.denominator}}}", (Fraction(1), base), parts=count)


def same(found: str, gold: str) -> bool | None:
    """Compares two answers if at least one has a unit; returns None if neither does.

    The unit may be omitted unless there are several (`4 h 30 min`); a different unit must give the same quantity.
    """
    a, b = read(found), read(gold)
    if b is not None and b.joined and not (a is not None and not a.joined):
        b = None  # gold `5m` is a product, unless the answer has a unit that is not joined to its number
    if a is not None and a.joined and b is None and not re.search(r"\s[A-Za-z]\.?$", found):
        a = None
    if a is None and b is None:
        return None
    if a is None:
        number = numbers.read(found)
        if b.parts > 1 or (number and number.percent):
            return False
        return _equal(found, _worth(b)) or (None if _is_angle(b) else False)
    if b is None:
        number = numbers.read(gold)
        if a.parts > 1 or (number and number.percent):
            return False
        return _equal(_worth(a), gold) or (None if _is_angle(a) else False)
    if a.unit[1] == b.unit[1]:
        return _equal(_scaled(a), _scaled(b))
    if not a.unit[1] or not b.unit[1]:  # "square units", "million": not a unit of its own
        return _equal(_worth(a), _worth(b))
    if _is_angle(a) and _is_angle(b):
        return engine.equal(_angle(a), _angle(b))
    return False


def _is_angle(quantity: Quantity) -> bool:
    return quantity.unit[1] in ((("angle", 1),), (("radian", 1),))


def _worth(quantity: Quantity) -> str:
    """Returns the number alone, multiplied by a scale word such as "million"."""
    if quantity.unit[1] and quantity.parts == 1:
        return quantity.amount if not _has_scale(quantity) else _scaled(quantity)
    return _scaled(quantity)


def _has_scale(quantity: Quantity) -> bool:
    return (
        quantity.unit[0] in (10**3, 10**6, 10**9, 10**12)
        and dict(quantity.unit[1]).keys() <= {"dollar", "euro", "sterling", "yuan", "rupee"}
    ) or any(name.startswith("word:") for name, _ in quantity.unit[1])


def _scaled(quantity: Quantity) -> str:
    if quantity.scale == 1:
        return quantity.amount
    number = numbers.read(quantity.amount)
    if number is not None:
        value = number.value * quantity.scale
        return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return f"\\frac{{{quantity.scale.numerator}}}{{{quantity.scale.denominator}}} \\cdot ({quantity.amount})"


def _angle(quantity: Quantity) -> str:
    return f"{quantity.amount}^\\circ " if dict(quantity.unit[1]).get("angle") else quantity.amount


def _equal(found: str, gold: str) -> bool:
    a, b = numbers.read(found), numbers.read(gold)
    return numbers.same(a, b) if a and b else engine.equal(found, gold)
