"""Checks summaries; a failure is one short reason under which it is counted."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

from rewards.answer import boxed_answers, verify_many
from rewards.detectors import ngram_overlap, words_of
from rewards.types import Verdict

_MARKS = r"(?:[\s*]|\\?\$|\\[(\[])*+"  # between "answer" and its value; possessive, else it takes cubic time
_STATED = re.compile(
    rf"\b(?:final\s+answer|answer)\b{_MARKS}(?:is\b|:|=)?{_MARKS}:?{_MARKS}(?=(.{{1,200}}))", re.IGNORECASE
)
_ENDED = re.compile(
    r"(?<=.)[.;](?:\s|$)|, (?:so|which|but|and|because|since)\b|(?<=[^\s\\])\$|\\[)\]]"  # the last two end a formula
)
_COPY_WORDS, _COPY_SHARE = 8, 0.8
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_COMMAND = re.compile(r"\\[A-Za-z]+|`[^`]*`|\$[^$]*\$")
_WIDE = re.compile(r"[\u3040-\u9fff]")  # worth several letters
_LEAST_LETTERS, _SURE = 100, 0.95  # below these, the language of a text is uncertain
_MOST_READ = 1000  # characters
_VARIANTS = {"wuu", "yue", "pcm"}  # of Chinese and English: with these included, the identifier is never sure
_NO_LANGUAGE = "zxx"  # code and similar


def problem_of(
    summary: str, tokens: int, summary_tokens: int, segment: str, segment_tokens: int, checks: Collection[str]
) -> str:
    """Returns the first problem of a summary of `segment`; "" without one.

    Args:
        tokens: tokens of the summary; `summary_tokens` is their maximum.
        checks: from `sft.data.settings.CHECKS`; `stated_answers` and `is_answer` do "answer".
    """
    if not summary:
        return "empty"
    if "<summary>" in summary or "</summary>" in summary or "<history>" in summary or "</history>" in summary:
        return "holds the protocol's own tags"
    if tokens > summary_tokens:
        return "over its limit"
    if "shorter" in checks and tokens >= segment_tokens:
        return "not shorter than its segment"
    if "copy" in checks and _is_copy(summary, segment):
        return "copied from its segment"
    if "language" in checks and _other_language(summary, segment):
        return "in another language"
    return ""


def stated_answers(summary: str) -> list[str]:
    r"""Returns the texts that a summary states as the final answer: in `\boxed{…}`, or after "the answer is".

    An intermediate value that happens to equal the answer is not a leak: only a stated answer counts.
    """
    stated = boxed_answers(summary) + [_sentence(match[1]) for match in _STATED.finditer(summary)]
    return [text for text in dict.fromkeys(stated) if text][-8:]


def is_answer(stated: list[str], answer: str) -> bool:
    """Returns whether one of them verifies against the gold answer."""
    return Verdict.CORRECT in verify_many([(f"\\boxed{{{text}}}", answer) for text in stated])


def _sentence(text: str) -> str:
    """Returns the first sentence, without marks around it."""
    return _ENDED.split(text, maxsplit=1)[0].strip("*_$ ").rstrip(".,")


def _is_copy(summary: str, segment: str) -> bool:
    words = words_of(summary)
    if len(words) < 2 * _COPY_WORDS:  # few words also occur in the segment: only a full copy counts
        return 2 * len(summary) > len(segment) and words == words_of(segment)
    return ngram_overlap(words, words_of(segment), _COPY_WORDS) >= _COPY_SHARE


def _other_language(summary: str, segment: str) -> bool:
    mine = _language(summary)
    return mine is not None and _language(segment) not in (None, mine)


def _language(text: str) -> str | None:
    """Returns the ISO 639-1 code of the prose; None if there is too little to be sure."""
    prose = " ".join(_LETTERS.findall(_COMMAND.sub(" ", text[:_MOST_READ])))
    if len(prose) + 4 * len(_WIDE.findall(prose)) < _LEAST_LETTERS:
        return None
    language, probability = _identifier().classify(prose)
    return language if probability >= _SURE and language != _NO_LANGUAGE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(set(identifier.nb_classes) - _VARIANTS)
    return identifier
