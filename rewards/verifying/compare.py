"""Judges an output: extracts its answer, reads the gold answer, and compares them.

Runs only in the child, because a comparison may hang. The reading rules are in docs/verifier.md.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

from rewards.answer import boxed_answers
from rewards.readers import NOTHING, read_json
from rewards.types import Verdict
from rewards.verifying import outputs, units, words
from rewards.verifying.normal import normal, plain_text
from rewards.verifying.same import same

_MOST_BOX = 20_000  # characters
_SPACE = re.compile(r"\s{2,}")
_DELIMITED = re.compile(r"(?<!\\)\$.*(?<!\\)\$|\\\(|\\\[", re.DOTALL)
_DOUBLED = re.compile(r"\\\\(?=boxed|fbox)")
_WORD = re.compile(r"[A-Za-z]{2,}")
_COMMAND = re.compile(r"\\(?:begin|end)\{\w+\*?\}|\\[A-Za-z]+|\\.")
_LOST_BACKSLASH = re.compile(r"(?<![\\A-Za-z])(frac|dfrac|tfrac|sqrt|sum|prod|binom|text|boxed)(?=\s*[{_^])")
_ASIDE = re.compile(r"\\(?:text|mbox|textrm|mathrm)\{[^{}]*(?:\d|\bor\b)[^{}]*\}")
_OR = re.compile(r"[\d)}\]$]\s*,?\s*\bor\b\s*(?:[A-Za-z]\s*=\s*)?[-\d({\\$]")
_SEVERAL = re.compile(r"[,;或、]|または|\b(?:or|and)\b|\\pm|\\mp|\\cup|\\\{|\\begin")
_NOT = re.compile(r"(?:not|n't|neither|never)\b", re.IGNORECASE)
_WARM = [("\\boxed{1/2}", "0.5"), ("\\sqrt{3}", "\\sqrt{2}"), ("$x+1$", "$x$"), ("$(1,2]$", "$[1,2]$"), ("7", "$x<7$")]


def warm() -> None:
    """Triggers everything that sympy and antlr load on first use."""
    for prediction, gold in _WARM:
        judge(prediction, gold)


def judge(prediction: str, gold: str) -> Verdict:
    """Returns the verdict on the answer part of an output.

    Several boxed answers are right if each equals `gold`, or if none does but together they do (a gold answer of
    several parts). A right one among wrong ones is a hedge: incorrect.
    """
    expected = gold_answer(gold)
    if expected is None:
        return Verdict.UNPARSABLE_GOLD
    prediction = _DOUBLED.sub(r"\\", prediction)
    prediction = _LOST_BACKSLASH.sub(r"\\\1", _SPACE.sub(lambda m: "\n" if "\n" in m[0] else " ", prediction))
    if tags := outputs.tagged(prediction):
        outside = boxed_answers(outputs.untagged(prediction))
        right = [
            _judge_part(part, expected) for part in dict.fromkeys([*tags, *(f"\\boxed{{{box}}}" for box in outside)])
        ]
    else:
        right = [_judge_part(prediction, expected)]
    return Verdict.CORRECT if all(right) else Verdict.INCORRECT


def _judge_part(text: str, gold: str) -> bool:
    boxes = [box[:_MOST_BOX] for box in outputs.boxes_of(text)]
    if not boxes:
        return _without_box(outputs.tail(text), gold)
    if len(boxes[0]) == _MOST_BOX:
        return False
    right = [not _hedges(box, gold) and same(normal(box), gold) for box in boxes]
    if any(right) or len(boxes) == 1:
        return all(right)
    if not _close_together(text[-_MOST_BOX:]):
        return False
    return same(normal(", ".join(boxes)), gold)


def _without_box(text: str, gold: str) -> bool:
    """Tries the whole output if it is short; text after "the answer is"; the last `$…$`; the last number."""
    whole = normal(text) if len(text) < 400 else ""
    if whole and not _DELIMITED.search(whole) and same(whole, gold):
        return True
    if _OR.search(text) and not _SEVERAL.search(gold):
        return False
    for part in outputs.said(text):
        if _NOT.match(part):
            return False
        math = outputs.in_math(part)
        candidate = outputs.without_ending(part) if outputs.is_east_asian(part) else part
        if not math and same(normal(candidate), gold):
            return True
        if not math and not outputs.is_east_asian(part) and not _WORD.search(_COMMAND.sub(" ", part)):
            return False  # a single expression, different from the gold answer
    if (math := outputs.in_math(text)) is not None:
        return same(normal(math), gold)
    if words.says_yes(gold) is not None and words.says_yes(text) is not None:
        return words.says_yes(text) == words.says_yes(gold)
    if (not _WORD.search(_COMMAND.sub(" ", text)) and not outputs.is_east_asian(text)) or "\\begin{" in text:
        return False  # a single expression, different from the gold answer
    if outputs.is_east_asian(text):
        number = outputs.from_chinese_or_japanese(text)
        return number is not None and same(normal(number), gold)
    return _last_number(text.replace("\\$", ""), gold)


def _last_number(text: str, gold: str) -> bool:
    """Compares the last number of a sentence: only plain numbers count, not LaTeX from its middle."""
    from math_verify import ExprExtractionConfig, parse

    found = parse(text, [ExprExtractionConfig()], parsing_timeout=None)
    if not found:
        return False
    number = str(found[-1])
    unit = re.search(rf"(?<![\d.]){re.escape(number)}\s+([A-Za-z]+)(?![A-Za-z])", text)
    if unit and units.known(unit[1]) and units.known(re.sub(r"^.*[\d\s}}{{]", "", plain_text(gold).strip(" ."))):
        number += f" {unit[1]}"  # 5 m is not 5 cm
    return same(normal(number), gold)


@lru_cache(maxsize=4096)  # all episodes of a group have the same gold answer
def gold_answer(gold: str) -> str | None:
    """Returns the gold answer in normalized notation; None if it is missing or corrupted."""
    if any(ord(character) < 32 and character not in "\n\r" for character in gold):
        return None  # a tab from "\text", a form feed from "\frac": the original is unknown
    gold = _from_json(gold.strip())
    if tags := outputs.tagged(gold):
        gold = tags[-1]
    gold = _DOUBLED.sub(r"\\", gold)
    if boxes := outputs.boxes_of(outputs.last_boxes(gold)):
        gold = ", ".join(boxes)
    elif _DELIMITED.search(gold):
        outside = _COMMAND.sub(" ", re.sub(r"\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)", " ", gold, flags=re.DOTALL))
        if len(_WORD.findall(outside)) > 4 and (math := outputs.in_math(gold)):
            gold = math
        else:
            gold = re.sub(r"(?<!\\)\$|\\[\[\]()]", " ", gold)
    return normal(gold) or None


def _from_json(gold: str) -> str:
    """Unwraps `{"ground_truth": "5"}` as in verl's rows, or a JSON list with one item."""
    if not gold.startswith(('{"', '["')):
        return gold
    value = read_json(gold)
    for _ in range(3):  # a verl row may contain a list with one item
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        elif isinstance(value, dict):
            value = next(
                (value[key] for key in ("ground_truth", "answer", "target", "solution") if key in value), NOTHING
            )
    return str(value) if isinstance(value, str | int | float) else gold


def _hedges(box: str, gold: str) -> bool:
    r"""Whether a box contains more than one answer, one of which could match: `5 \text{ (or 6)}`."""
    if _SEVERAL.search(gold):
        return False
    beside = _ASIDE.sub("", box)
    return (
        beside != box
        and not re.search(r"\d|\bor\b", re.sub(r"[^{}]*", "", gold))
        and bool(re.search(r"\w", _COMMAND.sub("", beside)) and re.search(r"\bor\b", box))
    )


def _close_together(text: str) -> bool:
    """Whether boxes are close enough to belong to one answer: short text between them, without "no", "wait" etc."""
    spots = [match.start() for match in re.finditer(r"\\(?:boxed|fbox)", text)]
    between = [text[a:b] for a, b in itertools.pairwise(spots)]
    return all(len(part) < 400 for part in between) and not any(
        re.search(r"\b(?:no|not|wait|wrong)\b", part) for part in between
    )
