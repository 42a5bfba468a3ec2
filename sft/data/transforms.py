"""Changes of a trace before its partition: passages that it repeats, and a token budget in the question."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

from rollout.types import Question

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LEAST_WORDS = 8  # a shorter passage ("Wait, no.") may well stand twice
_BUDGET_PROMPT = "Use at most {budget} tokens for this problem.\n\n"


def drop_repeats(text: str) -> str:
    """The text without paragraphs of 8 words or more that stood in it before, whatever their spacing."""
    seen: set[str] = set()
    kept, start = [], 0
    for end in [*(match.start() for match in _PARAGRAPH.finditer(text)), len(text)]:
        paragraph = text[start:end]
        words = paragraph.split()
        same = " ".join(words)
        if len(words) < _LEAST_WORDS or same not in seen:
            kept.append(paragraph)
        seen.add(same)
        start = end
    return "".join(kept)


def round_up(tokens: int, budget: dict[str, Any]) -> int:
    """A trace's length as the budget that it is an example of: rounded up to a multiple of `round_to` (100)."""
    step = budget.get("round_to") or 100
    return -(-tokens // step) * step


def with_budget(question: Question, tokens: int, budget: dict[str, Any]) -> Question:
    """The question with the budget before it (L1, arXiv 2503.04697, puts one into the prompt as well)."""
    prompt = budget.get("prompt", _BUDGET_PROMPT).replace("{budget}", str(tokens))
    if isinstance(question, str):
        return prompt + question
    first = next(index for index, message in enumerate(question) if message["role"] == "user")
    changed = {**question[first], "content": prompt + question[first]["content"]}
    return [*question[:first], changed, *question[first + 1 :]]


def budget_rows(rows: Iterable[dict[str, Any]], budget: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Rows for RL and evaluation: each question with a budget, and the column `budget` that `l1_*` read.

    A row's own `budget` stays; the others are drawn from `choices`.
    """
    changed = []
    for index, row in enumerate(rows):
        tokens = row.get("budget")
        if tokens is None:
            tokens = random.Random(f"{seed}/budget/{index}").choice(budget["choices"])
        changed.append({**row, "budget": tokens, "question": with_budget(row["question"], tokens, budget)})
    return changed
