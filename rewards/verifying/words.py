"""Answers that are a multiple-choice letter or words: compared as text, never as a product of letters."""

from __future__ import annotations

import re
import unicodedata

from rewards.verifying import spelled
from rewards.verifying.normal import plain_text

_LETTER = re.compile(r"\(?\s*([A-J])\s*\)?[.:]?")
_LABEL = re.compile(
    r"(?:the\s+)?(?:correct\s+|final\s+|right\s+)*(?:option|choice|answer|ans)(?:\s+is)?\s*[:=]?\s*(?=\S)|答案[是为]?\s*:?\s*|选项?\s*|答え\s*[:は]?\s*",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\(\s*([A-Ja-j])\s*\)(?![\w(])\s*\.?:?|([A-J])(?=\s*[.):]\s|\s*[.):]$|\s+[-–—]\s|$|[):]|\.(?=[^\d.])|\s*\\text\{\s*[.:)])|\[([A-J])\]"
)
_REST_LETTER = re.compile(r"(?<![A-Za-z\\])\(?([A-J])\)(?![A-Za-z])|\b(?:or|and|,|/|&)\s*\(?([A-J])\)?(?![A-Za-z(])")
_MATH = re.compile(r"[=<>^_+*/|]|\\(?!text|%|\$|&|angle|triangle|mathbb)[A-Za-z]+|\d")
_PRODUCT = re.compile(r"(?!.*(.).*\1)[abcxyz]{2,}|[a-z]{2}|[A-Z][a-z]|[a-z][A-Z]")
_SHORT = (
    "no on of or an na in is it to at am ma as so os us up go do me my we be by he hi if ox "
    "ad pa ay ya cab km cm mm kg mg ml"
)
_SHORT_WORDS = set(_SHORT.split())

_MEANINGS = [
    {"yes", "true", "correct", "right", "是", "对", "正确", "はい", "正しい", "ja", "oui"},
    {"no", "false", "incorrect", "wrong", "否", "不是", "错", "错误", "いいえ"},
]
_REALS = {
    "all real numbers",
    "all reals",
    "all real number",
    "the set of all real numbers",
    "any real number",
    "real numbers",
    "the real numbers",
    "every real number",
    "all x",
    "reals",
}
_EMPTY = {
    "no solution",
    "no solutions",
    "empty set",
    "the empty set",
    "no real solution",
    "no real solutions",
    "there is no solution",
    "there are no solutions",
    "无解",
    "空集",
    "解なし",
}


def letter(gold: str) -> str | None:
    """Returns the letter of a multiple-choice gold answer: `A`, `(A)`, `A.`, or `(A) 5`, `A) text`."""
    text = plain_text(gold)
    if match := _LETTER.fullmatch(text):
        return match[1]
    match = re.match(r"\(([A-J])\)\s*\S|([A-J])[.)]\s*\S", text)
    return next(filter(None, match.groups())) if match else None


def chosen(text: str) -> str | None:
    """Returns the letter chosen by an answer: `A`, `(A) 5`, `A. 5`, `E - text`, `Option A`; None if none or several."""
    text = plain_text(text)
    text = _LABEL.sub("", text, count=1).strip() if _LABEL.match(text) else text
    text = re.sub(r"^\((\(.*\))\)$", r"\1", text.strip("*$ "))
    if re.fullmatch(r"[a-d]", text):
        return text.upper()
    match = _CHOSEN.match(text)
    if not match:
        return None
    found = next(filter(None, match.groups())).upper()
    rest = text[match.end() :]
    if re.match(r"\s*(?:[+*/^=<>!']|-\d|\\(?:neq|pm|mp|times|cdot|to|cup|cap|leq|geq|in)(?![a-z]))", rest):
        return None
    others = {a or b for a, b in _REST_LETTER.findall(rest)} - {found}
    if re.match(r"\s*[,/&+]\s*\(?[A-J]\)?(?![a-z])|\s*(?:or|and|not|is (?:not|wrong|false|incorrect))\b", rest):
        return None
    return None if others else found


def several(text: str) -> str | None:
    """Reads several choices: `ABD` and `A, B, D` as ABD."""
    letters = re.fullmatch(r"\(?([A-J])\)?(?:\s*(?:,|and|&|\s)?\s*\(?([A-J])\)?)+", plain_text(text))
    return "".join(re.findall(r"[A-J]", plain_text(text))) if letters else None


def is_words(text: str) -> bool:
    """Whether the answer is text. Letters that are commonly multiplied (`xy`, `abc`, `kT`) count as mathematics."""
    inner = plain_text(text)
    if not re.search(r"[^\W\d_]", inner) or _MATH.search(inner):
        return False
    inner = re.sub(r"\\mathbb\{[A-Z]\}", "", inner)
    if re.search(r"[^\x00-\x7f]", inner):
        return True
    runs = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", inner))
    if any(len(run) > 1 and (run in _SHORT_WORDS or not _PRODUCT.fullmatch(run)) for run in runs):
        return True
    return len(text) != len(inner) and any(len(run) > 1 for run in runs)


def same(found: str, gold: str) -> bool:
    """Compares words: ignores case and spacing for ordinary words, exact for names in capitals (`HTH`, `NaCl`)."""
    a, b = _folded(found), _folded(gold)
    if a == b:
        return _same_case(found, gold)
    for meaning in _MEANINGS:
        if (
            a in meaning
            and b in meaning
            and {a, b} & {"是", "对", "正确", "否", "不是", "错", "错误", "はい", "いいえ"}
        ):
            return True
    if a in _REALS | {r"\mathbb{r}"} and b in _REALS | {r"\mathbb{r}"}:
        return True
    if a in _EMPTY | {r"\emptyset"} and b in _EMPTY | {r"\emptyset"}:
        return True
    return _of_angle(a, b)


def as_set(text: str) -> str:
    """Converts words for the empty set and for all real numbers to LaTeX."""
    folded = _folded(text)
    if folded in _REALS:
        return r"\mathbb{R}"
    return r"\emptyset" if folded in _EMPTY else text


def as_number(text: str) -> str | None:
    """Converts `five` to digits."""
    value = spelled.read(_folded(text, articles=False))
    return None if value is None else str(value)


def _folded(text: str, articles: bool = True) -> str:
    text = plain_text(text)
    text = _LABEL.sub("", text, count=1) if _LABEL.match(text) else text
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[-_\s]+", " ", text)
    text = text.strip(" .,;:!?\"'*()$")
    return re.sub(r"^(?:the|a|an)\s+(?=\w)", "", text).strip() if articles else text


def says_yes(text: str) -> bool | None:
    """Reads `Yes, it is.` and `No.`; None if the text starts with neither, or contains both."""
    said = re.findall(r"\b(yes|no)\b", plain_text(text).casefold())
    if not re.match(r"\W*(?:yes|no)\b\W*(?:[,.!]|$)", plain_text(text), re.IGNORECASE) or len(set(said)) > 1:
        return None
    return said[0] == "yes"


def _same_case(found: str, gold: str) -> bool:
    """Whether the case agrees: capitals are names (`AB` is not `ab`), but `yes`, `Yes` and `YES` are one word."""
    a, b = (
        re.sub(r"[\W_]+", "", _LABEL.sub("", plain_text(t), count=1) if _LABEL.match(plain_text(t)) else plain_text(t))
        for t in (found, gold)
    )
    if a == b or len(b) > 4:
        return True
    if len(b) == 2 and b.isupper() and b.casefold() not in _SHORT_WORDS:  # IR, AB: letters of mathematics
        return False
    return all(t.islower() or t.isupper() or t.istitle() for t in (a, b)) and b.casefold() not in ("ph",)


def _of_angle(a: str, b: str) -> bool:
    """Compares angles and triangles: angle ABC equals angle CBA; a triangle's vertices may be in any order."""
    pattern = re.compile(r"\\(angle|triangle)\s*([a-z])\s*([a-z])\s*([a-z])")
    one, two = pattern.fullmatch(a), pattern.fullmatch(b)
    if not one or not two or one[1] != two[1]:
        return False
    if one[1] == "angle":
        return one.groups()[1:] == two.groups()[:0:-1]
    return sorted(one.groups()[1:]) == sorted(two.groups()[1:])
