"""Numbers in words: `twenty-one`, `two thirds`, `minus three`, `two and a half`, `one million`."""

from __future__ import annotations

from fractions import Fraction

_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
SMALL = _COUNTED.split()
_VALUES = {name: number for number, name in enumerate(SMALL)}
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES |= dict(zip(_TENS, range(20, 100, 10), strict=True))
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = ["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"]
_BELOW = {"half": 2, "quarter": 4} | {name: number for number, name in enumerate(_ORDINALS, 3)}
_LONGEST = 12  # words


def read(text: str) -> Fraction | None:
    """Parses words as a number; None if they are not one. `third` alone is an ordinal."""
    words = text.casefold().replace("-", " ").split()
    if not words or len(words) > _LONGEST:
        return None
    if words[0] in ("minus", "negative"):
        value = read(" ".join(words[1:]))
        return None if value is None or value < 0 else -value
    if words == ["half"] or words == ["hundred"]:
        words = ["one", *words]
    if "point" in words:
        return _with_point(words)
    parts = words[-1]
    below = _BELOW.get(parts) or _BELOW.get(parts.replace("halves", "half").removesuffix("s"))
    if below is None:
        return _whole(words)
    above, whole = words[:-1], 0
    if "and" in above:
        at = len(above) - 1 - above[::-1].index("and")
        whole, above = _whole(above[:at]), above[at + 1 :]
    number = _whole(above)
    if not number or whole is None or (number == 1) != (parts in _BELOW):  # the twenty-third is not a fraction
        return None
    return whole + number / below


def _whole(words: list[str]) -> Fraction | None:
    """Parses a whole number; each word must fit its position: `five seven` is not a number."""
    total, group, last = 0, 0, 0
    for index, word in enumerate(words):
        if word in ("a", "an") and index == 0:
            word = "one"
        if word == "and":
            if index in (0, len(words) - 1) or words[index - 1] not in ("hundred", *_LARGE):
                return None
        elif word in _VALUES:
            value = _VALUES[word]
            if index and last not in (100, 1000) and not (last >= 20 and 0 < value < 10):
                return None
            group, last = group + value, value
        elif word == "hundred" and 0 < group < 100:
            group, last = group * 100, 100
        elif word in _LARGE and group:
            total, group, last = total + group * _LARGE[word], 0, 1000
        else:
            return None
    return Fraction(total + group) if words else None


def _with_point(words: list[str]) -> Fraction | None:
    at = words.index("point")
    whole = _whole(words[:at])
    digits = [_VALUES.get(word, 10) for word in words[at + 1 :]]
    if whole is None or not digits or max(digits) > 9:
        return None
    return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))
