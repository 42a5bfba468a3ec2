"""Reward functions for configs that compare the final output with the gold answer `episode.answer`.

Only a concluded episode can be right, and only the text after its thinking counts. In that text, every `\\boxed{…}`
must be right (so two different ones, a hedge, are wrong); without a box, the whole text is the answer. Each function
returns 1 or 0, or None if the gold answer can't be read.
"""

from __future__ import annotations

import ast
import logging
import math
import os
import re
import string
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.answer import answer_part, boxed_answers
from rewards.gym import reasoning_gym
from rewards.readers import NOTHING, WRAPPED, fenced_block, read_json, read_number, same_json
from rewards.sandbox.run import Status, run_python
from rewards.task import answer
from rollout.types import Episode, StopReason

_logger = logging.getLogger(__name__)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact(episodes: Sequence[Episode], **_: Any) -> list[float | None]:
    """Compares strings, ignoring surrounding whitespace."""
    return _compare(episodes, lambda text: text.strip() or NOTHING)


def normalized(episodes: Sequence[Episode], **_: Any) -> list[float | None]:
    """Compares strings, ignoring case, ASCII punctuation, the articles a, an, the, and whitespace.

    Source: `normalize_answer` of SQuAD's evaluate-v1.1.py (Rajpurkar et al. 2016, arXiv 1606.05250), with casefold.
    """

    def read(text: str) -> Any:
        kept = text.casefold().translate(str.maketrans("", "", string.punctuation))
        return " ".join(_ARTICLES.sub(" ", kept).split()) or NOTHING

    return _compare(episodes, read)


def choice(episodes: Sequence[Episode], letters: str = "ABCDEFGHIJ", **_: Any) -> list[float | None]:
    r"""Compares letters: `B`, `(B)`, `B.`, `B) text`, `\text{B}`, or in a longer text "the answer is B" or one "(B)".

    Different letters in one answer are wrong.
    """
    one = f"[{re.escape(letters)}]"
    alone = re.compile(rf"\W{{0,4}}({one})\W{{0,4}}", re.IGNORECASE)
    labeled = re.compile(rf"\(?({one})[.):](?!\S).*", re.DOTALL)
    also = rf"(?:\s?(?:,|/|&|or|and)\s?\W{{0,3}}({one})\b)?"
    said = re.compile(rf"(?i:answer|option|choice)\W{{0,4}}(?i:is)?\W{{0,6}}({one})\b\W?{also}")
    marked = re.compile(rf"\(({one})\)|\*\*({one})[.):]?\*\*")

    def read(text: str) -> Any:
        text = WRAPPED.sub(r"\1", text).strip()
        if match := alone.fullmatch(text):
            return match[1].upper()
        stated = {letter for groups in said.findall(text) for letter in groups if letter}
        first = labeled.fullmatch(text)
        in_marks = {letter for groups in marked.findall(text) for letter in groups if letter}
        starts = {match[1] for line in text.splitlines() if (match := labeled.fullmatch(line.strip()))}
        found = stated or ({first[1]} if first else set()) | in_marks | starts
        return found.pop() if len(found) == 1 else NOTHING

    return _compare(episodes, read)


def numeric(episodes: Sequence[Episode], abs_tol: float = 0.0, rel_tol: float = 1e-6, **_: Any) -> list[float | None]:
    r"""Compares numbers; reads thousands commas, `1e3`, `a/b`, `\frac{a}{b}`, a Unicode minus and a percent sign.

    A percent sign on one side only may be a unit or a hundredth: 50% equals both 50 and 0.5. nan and inf are rejected.

    Args:
        abs_tol, rel_tol: as for `math.isclose`; the tolerance is the larger of the two.
    """

    def same(found: tuple[float, bool], gold: tuple[float, bool]) -> bool:
        pairs = [(found[0], gold[0])]
        if found[1] != gold[1]:
            pairs.append((found[0] / 100, gold[0]) if found[1] else (found[0], gold[0] / 100))
        return any(math.isclose(a, b, rel_tol=rel_tol, abs_tol=abs_tol) for a, b in pairs)

    return _compare(episodes, read_number, same)


def json_equal(episodes: Sequence[Episode], **_: Any) -> list[float | None]:
    """Compares JSON values; the gold answer is JSON text or a Python object.

    Reads the last fenced json block; without one, the boxed answer or the whole text. The order of keys does not
    matter; 1 equals 1.0 but not true; duplicate keys, NaN and infinity are not JSON.
    """
    return _compare(episodes, read_json, same_json, fence="json")


def python_tests(
    episodes: Sequence[Episode],
    tests: Sequence[Any] | None = None,
    cpu_seconds: float = 5.0,
    memory_mb: int = 512,
    **_: Any,
) -> list[float | None]:
    """Returns 1 if the last fenced python block of the final output passes the tests in the sandbox, else 0.

    None if there are no tests, they are not Python or need something that the judge can't transfer, or the sandbox
    could not start (docs/rewards.md).

    Args:
        tests: the dataset column of that name: asserts, as text or as a list of lines; if it is missing or empty, the
            gold answer.
        cpu_seconds, memory_mb: limits for one program, and for its tests, memory in MiB (see `rewards.sandbox.run`).
    """
    columns = tests if tests is not None else [None] * len(episodes)

    def value(episode: Episode, column: Any) -> float | None:
        if episode.stop_reason != StopReason.ANSWERED:
            return 0.0
        asserts = column or episode.answer or ""
        asserts = asserts if isinstance(asserts, str) else "\n".join(map(str, asserts))
        if not _is_code(asserts):
            return None
        program = fenced_block(answer_part(episode.final_text), ("python", "py", "python3"))
        if program is None:
            return 0.0
        result = run_python(program, asserts, cpu_seconds=cpu_seconds, memory_bytes=memory_mb << 20)
        if result.status in (Status.ERROR, Status.REFUSED):
            _logger.warning("python_tests: %s", result.detail)
            return None
        return float(result.status == Status.PASSED)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="sandbox") as threads:
        return list(threads.map(value, episodes, columns))


def _compare(
    episodes: Sequence[Episode],
    read: Callable[[Any], Any],
    same: Callable[[Any, Any], bool] = lambda found, gold: found == gold,
    fence: str = "",
) -> list[float | None]:
    values: list[float | None] = []
    for episode in episodes:
        if episode.stop_reason != StopReason.ANSWERED:
            values.append(0.0)
            continue
        plain = isinstance(episode.answer, str) or bool(fence)
        gold = NOTHING if episode.answer is None else read(episode.answer if plain else str(episode.answer))
        if gold is NOTHING:
            values.append(None)
            continue
        text = answer_part(episode.final_text)
        block = fenced_block(text, (fence,)) if fence else None
        found = [read(part) for part in ([block] if block is not None else boxed_answers(text) or [text])]
        values.append(float(all(part is not NOTHING and same(part, gold) for part in found)))
    return values


def _is_code(asserts: str) -> bool:
    try:
        return bool(ast.parse(asserts).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


VERIFIERS: dict[str, Callable[..., list[float | None]]] = {
    function.__name__: function
    for function in (answer, exact, normalized, choice, numeric, json_equal, python_tests, reasoning_gym)
}
