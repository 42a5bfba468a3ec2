"""math-verify, with its known faults mended in front of it where that is sound. Runs in the child only: it may hang.

The faults, each with its thread, are in docs/verifier.md.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from rewards.answer import Verdict, boxed_answers

_MOST_BOX = 20_000  # characters
_MOST_TEXT = 2_000  # of an output without a box: its answer stands at the end
_SPACE = re.compile(r"\s{2,}")
_DELIMITED = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")
_WORD = re.compile(r"[A-Za-z]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+|\\.")
_LOST_BACKSLASH = re.compile(r"(?<![\\A-Za-z])(frac|dfrac|tfrac|sqrt|sum|prod|binom|text|boxed)(?=\s*[{_^])")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?: |\\,|\\ |~)\d{3})+(?!\d)")
_MIXED = re.compile(r"\s*([+-]?)(\d+) (\d+)/(\d+)\s*\Z")
_SAID = re.compile(r"answer\s*(?:is|:|=)\s*(.+?)\.?\s*\Z", re.IGNORECASE)
_BASE = re.compile(r"\$*\s*(?:\\text\{)?([0-9A-Z]+)\}?_\{?(\d+)\}?\s*\$*\Z")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_RELATION = re.compile(r"[<>]|\\(?:[lg](?:e|t|eq|eqslant)|neq?|not|to|rightarrow|mapsto)(?![A-Za-z])")
_ASIDE = re.compile(r"\\(?:text|mbox|textrm|mathrm)\{[^{}]*(?:\d|\bor\b)[^{}]*\}")
_OR = re.compile(r"[\d)}\]$]\s*,?\s*\bor\b\s*[-\d({\\$]")
_SEVERAL = re.compile(r"[,;]|\b(?:or|and)\b|\\pm|\\mp|\\cup|\\\{")
_SET = re.compile(r"[\[(|]|\\infty|\\cup|\\in\b")
_WARM = [("\\boxed{1/2}", "0.5"), ("\\sqrt{3}", "\\sqrt{2}"), ("$x+1$", "$x$"), ("$(1,2]$", "$[1,2]$"), ("7", "$x<7$")]


def warm() -> None:
    """Loads what sympy and antlr load on first use."""
    for prediction, gold in _WARM:
        judge(prediction, gold)


def judge(prediction: str, gold: str) -> Verdict:
    """Verdict on the answer part of an output.

    Several boxed answers are right when all of them equal `gold`, or when none does and together they do (a gold of
    several parts). One right among others is a hedge: incorrect.
    """
    expected = _parsed_gold(gold)
    if not expected:
        return Verdict.UNPARSABLE_GOLD
    prediction = _LOST_BACKSLASH.sub(r"\\\1", _SPACE.sub(lambda m: "\n" if "\n" in m[0] else " ", prediction))
    boxes = [box[:_MOST_BOX] for box in dict.fromkeys(boxed_answers(prediction))]
    if boxes:
        right = [not _hedges(b, gold) and _same(b, f"$\\boxed{{{_plain(b)}}}$", gold, expected) for b in boxes]
        if any(right) or len(boxes) == 1:
            return Verdict.CORRECT if all(right) else Verdict.INCORRECT
        prediction = prediction[-_MOST_BOX:]
    else:
        prediction = _tail(prediction)
        if _OR.search(prediction) and not _SEVERAL.search(gold):
            return Verdict.INCORRECT
    return Verdict.CORRECT if _same(prediction, prediction, gold, expected) else Verdict.INCORRECT


def _hedges(box: str, gold: str) -> bool:
    """More than one answer in a box, of which math-verify would take one: `5 (or 6)`, `5=6`, `\geq 5` for 5."""
    if _SEVERAL.search(gold):
        return False
    beside = _ASIDE.sub("", box)
    if beside != box and not _ASIDE.search(gold) and re.search(r"\w", _COMMAND.sub("", beside)):
        return True
    sides = {float(side) for side in map(str.strip, box.split("=")) if _NUMBER.fullmatch(side)}
    if len(sides) > 1 and gold.count("=") < box.count("="):
        return True
    return bool(_RELATION.search(box)) and not _RELATION.search(gold) and not _SET.search(gold)


def _tail(text: str) -> str:
    """The end of a long output without a box, from a place where no `$…$` is open."""
    if len(text) <= _MOST_TEXT:
        return text
    text = text[-_MOST_TEXT:]
    marks = [match.start() for match in re.finditer(r"(?<!\\)\$", text)]
    return text[marks[0] + 1 :] if len(marks) % 2 else text


def _same(answer: str, text: str, gold: str, expected: list[Any]) -> bool:
    """Does `text`, whose answer as it stands is `answer`, equal the gold answer?"""
    from math_verify import verify

    if answer.strip() == gold.strip():
        return True
    bases = _BASE.match(answer.strip()), _BASE.match(gold.strip())
    if all(bases):  # 12_3 and 12_5 are different numbers: math-verify drops the base
        return bases[0].groups() == bases[1].groups()
    return verify(expected, _parsed(text), timeout_seconds=None, allow_set_relation_comp=True)


@lru_cache(maxsize=4096)  # all episodes of a group ask for the same one
def _parsed_gold(gold: str) -> list[Any]:
    from math_verify import parse

    if any(ord(character) < 32 and character not in "\n\r" for character in gold):
        return []  # a tab out of "\text", a form feed out of "\frac": nobody knows what it was
    delimited = gold if _DELIMITED.search(gold) else f"${_plain(gold)}$"
    return parse(delimited, parsing_timeout=None) or parse(gold, parsing_timeout=None)


def _parsed(text: str) -> list[Any]:
    """What math-verify reads in an output.

    Without any delimiter it would take LaTeX out of the middle of a sentence, and read a bare expression as the last
    number in it. So a text without words is one expression, as is what follows "the answer is"; in other sentences
    only plain numbers count.
    """
    from math_verify import ExprExtractionConfig, parse

    if _DELIMITED.search(text):
        return parse(text, parsing_timeout=None)
    text = text.replace("\\$", "")  # a currency, which the patterns for plain numbers don't know
    said = _SAID.search(text)
    if said and not _WORD.search(_COMMAND.sub(" ", said[1])):
        text = said[1].strip("*_ ")  # Markdown
    if not _WORD.search(_COMMAND.sub(" ", text)):
        return parse(f"${_plain(text)}$", parsing_timeout=None)
    if "\\begin{" in text:
        return parse(text, parsing_timeout=None)
    return parse(text, [ExprExtractionConfig()], parsing_timeout=None)


def _plain(text: str) -> str:
    """An expression with the two notations that LaTeX has not: `1 000` and `1 1/4`."""
    mixed = _MIXED.match(text)
    if mixed and 0 < int(mixed[3]) < int(mixed[4]):
        sign, whole, above, below = mixed.groups()
        return f"{sign}({whole}+\\frac{{{above}}}{{{below}}})"
    return _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
