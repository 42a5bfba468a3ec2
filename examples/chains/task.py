"""A verifiable task that needs several rounds: chains of arithmetic modulo 10.

    question   k=3 l+4 m*7 n-1 ?        start at 3, add 4, multiply by 7, subtract 1; the answer is 8
    thinking   l:+4=7                   one line per step: name, operation, new value
               m:*7=9
               n:-1=8
               o:end                    there is no step o
    conclusion \\boxed{8}

Names run through the alphabet from a random letter, so a chain longer than any in training has no new names.
A question that hashes to 0 modulo 8 is held out: it is never a trace or an RL question.
"""

from __future__ import annotations

import hashlib
import random
import re
import string
from collections.abc import Iterator
from typing import Any

OPERATIONS = [*(f"+{digit}" for digit in range(1, 6)), *(f"-{digit}" for digit in range(1, 5)), "*3", "*7", "*9"]
"""Each is invertible modulo 10, so an early mistake never cancels out."""


def _apply(value: int, operation: str) -> int:
    operand = int(operation[1:])
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operation[0]] % 10


def _is_held_out(question: str) -> bool:
    return hashlib.sha256(question.encode()).digest()[0] % 8 == 0


def _chains(count: int, seed: int, steps: list[int], held_out: bool) -> Iterator[tuple[str, str, str]]:
    """Yields `count` different (question, thinking, answer)."""
    rng = random.Random(f"{seed}/{steps}/{held_out}")
    seen: set[str] = set()
    while len(seen) < count:
        length = rng.randint(*steps)
        first = rng.randrange(26)
        names = [string.ascii_lowercase[(first + index) % 26] for index in range(length + 2)]
        operations = rng.choices(OPERATIONS, k=length)
        value = rng.randrange(10)
        question = (
            f"{names[0]}={value} " + "".join(f"{n}{o} " for n, o in zip(names[1:], operations, strict=False)) + "?"
        )
        if question in seen or _is_held_out(question) != held_out:
            continue
        seen.add(question)
        lines = []
        for name, operation in zip(names[1:], operations, strict=False):
            after = _apply(value, operation)
            lines.append(f"{name}:{operation}={after}\n")
            value = after
        yield question, "".join(lines) + f"{names[-1]}:end\n", str(value)


def traces(count: int = 10000, seed: int = 0, steps: list[int] = (6, 16)) -> list[dict[str, Any]]:
    """Returns long chains of thought in the open format `<think>…</think>` + conclusion."""
    return [
        {"question": question, "answer": answer, "trace": f"<think>\n{thinking}</think>\n\\boxed{{{answer}}}"}
        for question, thinking, answer in _chains(count, seed, list(steps), held_out=False)
    ]


def questions(
    count: int = 4000, seed: int = 1, steps: list[int] = (6, 16), held_out: bool = False
) -> list[dict[str, Any]]:
    """Returns questions with their answers; `held_out` ones are never trained on."""
    return [
        {"question": question, "answer": answer, "steps": question.count(" ") - 1}
        for question, _, answer in _chains(count, seed, list(steps), held_out)
    ]


def summarize(question: str, previous: str | None, segment: str) -> str:
    """State after the segment, as `name=value`: all that the next round needs beside the question."""
    name, value = re.findall(r"(\w):.*=(\d)", segment)[-1]
    return f"{name}={value}"
