"""Verified answers: math-verify in processes that can be killed.

math-verify's own time limit is a signal: it works on the main thread only and does not stop sympy in the middle of a
huge power. Here answers go in batches to children that have a limit on the CPU time of each answer (set by the kernel,
so a loaded machine does not turn right answers wrong) and on their memory; a child that dies is replaced, and only the
answer that it died on is lost.
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
    """Does the final output `prediction` answer with `gold`?

    Only what follows the last `</think>` counts. Boxed answers that differ from one another are a hedge: incorrect.

    Args:
        timeout: CPU seconds that the comparison may take.
    """
    return verify_many([(prediction, gold)], timeout)[0]


def verify_many(pairs: Iterable[tuple[str, str]], timeout: float = 5.0, workers: int | None = None) -> list[Verdict]:
    """Verdicts of (prediction, gold) pairs, in order. Works from any thread, and under asyncio (it blocks).

    Args:
        timeout: CPU seconds for each answer, in the child's own work.
        workers: children at once; None: one for each core this process may use, 8 at most.
    """
    pairs = [(answer_part(str(prediction)), _gold_text(gold)) for prediction, gold in pairs]
    verdicts = [_plain_number(prediction, gold) for prediction, gold in pairs]
    hard = [index for index, verdict in enumerate(verdicts) if verdict is None]
    for index, verdict in zip(hard, ask_children([pairs[i] for i in hard], timeout, workers), strict=True):
        verdicts[index] = verdict
    return verdicts


def _gold_text(gold: Any) -> str:
    """A gold answer as text; of a dict or a list, which a Parquet column may hold, its JSON."""
    if isinstance(gold, dict | list):
        return json.dumps(gold, default=str)
    return "" if gold is None else str(gold)


def answer_part(prediction: str) -> str:
    """The final output after the thinking; a thought that never ends is none of it."""
    return prediction.rpartition("</think>")[2].partition("<think>")[0]


def boxed_answers(text: str) -> list[str]:
    r"""Contents of each `\boxed{…}`, with nested braces; an unclosed one is left out, as is a box inside another."""
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
    """The verdict when both are one boxed whole number: no need for sympy."""
    if not gold.strip():
        return Verdict.UNPARSABLE_GOLD
    boxes = set(boxed_answers(prediction)) if "<answer" not in prediction else set()
    if len(boxes) == 1 and _NUMBER.fullmatch(gold.strip()):
        box = boxes.pop()
        if _NUMBER.fullmatch(box):
            return Verdict.CORRECT if int(box) == int(gold) else Verdict.INCORRECT
    return None
