"""Times of day and dates: `3:30 pm` is not a ratio and `2020-03-05` is not a subtraction."""

from __future__ import annotations

import math
import re

from rewards.verifying.normal import plain_text

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WEEKDAY = re.compile(
    r"^(?:on\s+)?(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\s*,?\s+(?=.)", re.IGNORECASE
)
_TIME = re.compile(
    r"(?:at\s+)?(\d{1,2})(?:\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?)?\s*(?:o'?clock)?\s*([ap])\.?\s*m\.?(?:\s+in the .*)?"
    r"|(\d{1,2})\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?(?:\s*(?:h|hrs?|hours|o'?clock))?"
    r"|(noon|midnight)|(\d{1,2})\s*o'?clock",
    re.IGNORECASE,
)
_DATES = [
    (re.compile(rf"{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(\d{{4}}))?", re.IGNORECASE), "mdy"),
    (
        re.compile(
            rf"(?:the\s+)?(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}(?:\s*,?\s*(\d{{4}}))?", re.IGNORECASE
        ),
        "dmy",
    ),
    (re.compile(rf"{_MONTH}\s*,?\s*(\d{{4}})", re.IGNORECASE), "my"),
    (re.compile(r"(\d{4})\s*([-/.])\s*(\d{1,2})\s*\2\s*(\d{1,2})"), "iso"),
    (re.compile(r"(\d{4})年(\d{1,2})月(?:(\d{1,2})日)?"), "cjk"),
    (re.compile(r"(\d{1,2})\s*([-/.])\s*(\d{1,2})\s*\2\s*(\d{4}|\d{2})"), "numeric"),
]

Date = tuple[int | None, int | str, int | str | None]


def date(text: str) -> Date | None:
    """Returns a date's (year, month, day), None for missing parts. For `3/4/2020` the parts keep their order."""
    text = _WEEKDAY.sub("", plain_text(text).strip(" .$"))
    for pattern, order in _DATES:
        if match := pattern.fullmatch(text):
            parts = match.groups()
            if order == "mdy":
                return _int(parts[2]), _month(parts[0]), int(parts[1])
            if order == "dmy":
                return _int(parts[2]), _month(parts[1]), int(parts[0])
            if order == "my":
                return int(parts[1]), _month(parts[0]), None
            if order == "iso":
                return int(parts[0]), int(parts[2]), int(parts[3])
            if order == "cjk":
                return int(parts[0]), int(parts[1]), _int(parts[2])
            return int(parts[3]), f"{int(parts[0])}/", str(int(parts[2]))
    return None


def same_weekday(found: str, gold: str) -> bool:
    """Returns False if the two dates name different weekdays."""
    one, other = (_WEEKDAY.match(plain_text(text).strip(" .$")) for text in (found, gold))
    return not (one and other) or _day(one[0]) == _day(other[0])


def _day(text: str) -> str:
    return text.casefold().strip().removeprefix("on ").strip()[:3]


def same_date(found: Date, gold: Date) -> bool:
    """Compares two dates; the year may be omitted in `found`."""
    (year_a, *rest_a), (year_b, *rest_b) = found, gold
    if isinstance(rest_a[0], str) != isinstance(rest_b[0], str):  # 3/4/2020 against March 4: only if 3 > 12 tells which
        return _readings(found) == _readings(gold) and len(_readings(found)) == 1
    return rest_a == rest_b and (year_a == year_b or year_a is None)


def time(text: str) -> tuple[int, int, int, str] | None:
    """Returns (hour, minute, second, "a", "p" or "") for a time of day written with am/pm, a colon or a word."""
    text = plain_text(text).strip(" $")
    match = _TIME.fullmatch(text.replace("\\", ""))
    if not match:
        return None
    if match[8]:
        return (12, 0, 0, "p" if match[8].lower() == "noon" else "a")
    if match[9]:
        return (int(match[9]), 0, 0, "") if int(match[9]) <= 24 else None
    hour, minute, second = (int(part or 0) for part in (match.groups()[:3] if match[1] else match.groups()[4:7]))
    half = (match[4] or "").lower()
    if minute > 59 or second > 59 or hour > (12 if half else 24):
        return None
    return hour, minute, second, half


def is_no_ratio(time: tuple[int, int, int, str]) -> bool:
    """Whether a time like `10:30` can't be a ratio, because a ratio would have been reduced."""
    return not time[3] and math.gcd(time[0], time[1]) > 1


def same_time(found: tuple[int, int, int, str], gold: tuple[int, int, int, str]) -> bool:
    """Compares two times; am/pm may be omitted, but must not differ."""
    if (found[3] and gold[3]) or (not found[3] and not gold[3]):
        return found == gold
    with_half, without = (found, gold) if found[3] else (gold, found)
    if with_half[1:3] != without[1:3]:
        return False
    late = with_half[0] % 12 + (12 if with_half[3] == "p" else 0)
    return without[0] in (with_half[0], late) and not (without[0] == 0 and late != 0)


def _month(name: str) -> int:
    return _MONTHS.index(name[:3].lower()) + 1


def _int(text: str | None) -> int | None:
    return int(text) if text else None


def _readings(date: Date) -> set[tuple[int | None, int, int]]:
    year, month, day = date
    if not isinstance(month, str):
        return {(year, month, day)}
    a, b = int(month[:-1]), int(day)
    return {(year, m, d) for m, d in ((a, b), (b, a)) if m <= 12 and d <= 31}
