"""Answer verification with math-verify, in child processes that can be killed.

math-verify's own timeout is a signal: it works on the main thread only and does not stop sympy in the middle of a huge
power. Here answers are sent in batches to child processes with limits on memory and on the CPU time of each answer
(enforced by the kernel, so a loaded machine does not turn right answers wrong). A child that dies is replaced, and only
the answer that it died on is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from rewards.types import Verdict
from rewards.verifying.pool import ask_children

_NUMBER = re.compile(r"[+-]?\d{1,15}")
_BRACES = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\.|([{}])", re.DOTALL)
_BRACELESS = re.compile(r"\\boxed\s*([-+]?\d+(?:[.,]\d+)*|[A-Za-z](?![A-Za-z]))")  # \boxed5


def verify(prediction: str, gold: str, timeout: float = 5.0) -> Verdict:
    """Checks whether the answer in the final output `prediction` equals `gold`.

    Only the text after the last `</think>` counts. Boxed answers that differ from one another are a hedge: incorrect.

    Args:
        timeout: CPU seconds allowed for the comparison.
    """
    return verify_many([(prediction, gold)], timeout)[0]


def verify_many(pairs: Iterable[tuple[str, str]], timeout: float = 5.0, workers: int | None = None) -> list[Verdict]:
    """Returns the verdicts on (prediction, gold) pairs, in order. Works in any thread, and under asyncio (it blocks).

    Args:
        timeout: CPU seconds allowed for each answer, measured in the child.
        workers: number of concurrent children; None: one per core that this process may use, at most 8.
    """
    pairs = [(answer_part(str(prediction)), _gold_text(gold)) for prediction, gold in pairs]
    verdicts = [_plain_number(prediction, gold) for prediction, gold in pairs]
    hard = [index for index, verdict in enumerate(verdicts) if verdict is None]
    for index, verdict in zip(hard, ask_children([pairs[i] for i in hard], timeout, workers), strict=True):
        verdicts[index] = verdict
    return verdicts


def _gold_text(gold: Any) -> str:
    """Returns a gold answer as text; a dict or list, which a Parquet column may contain, is converted to JSON."""
    if isinstance(gold, dict | list):
        return json.dumps(gold, default=str)
    return "" if gold is None else str(gold)


def answer_part(prediction: str) -> str:
    """Returns the final output after the thinking; thinking that is never closed is not part of it."""
    return prediction.rpartition("</think>")[2].partition("<think>")[0]


def boxed_answers(text: str) -> list[str]:
    r"""Returns the contents of each `\boxed{…}`, nested braces included; skips unclosed boxes and boxes in boxes."""
    text = _BRACELESS.sub(r"\\boxed{\1}", text)
    spans, opened = [], []
    for match in _BRACES.finditer(text):
        if match[1]:
            opened.append(match.end())
        elif match[2] == "{":
            opened.append(None)
        elif match[2] == "}" and opened:
            start = opened.pop()
            if start is not None:
                spans.append((start, match.start()))
    answers, end = [], -1
    for start, stop in sorted(spans):
        if start > end:
            answers.append(text[start:stop].strip())
            end = stop
    return answers


def _plain_number(prediction: str, gold: str) -> Verdict | None:
    """Returns the verdict if `gold` and the only boxed answer are both whole numbers, which needs no sympy."""
    if not gold.strip():
        return Verdict.UNPARSABLE_GOLD
    boxes = set(boxed_answers(prediction)) if "<answer" not in prediction else set()
    if len(boxes) == 1 and _NUMBER.fullmatch(gold.strip()):
        box = boxes.pop()
        if _NUMBER.fullmatch(box):
            return Verdict.CORRECT if int(box) == int(gold) else Verdict.INCORRECT
    return None
