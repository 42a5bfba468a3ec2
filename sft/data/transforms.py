"""Changes a trace before its partition: drops repeated passages, and puts a token budget into the question."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from typing import Any

from rollout.types import Question

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LEAST_WORDS = 8  # a shorter passage ("Wait, no.") may legitimately occur twice
_BUDGET_PROMPT = "Use at most {budget} tokens for this problem.\n\n"


def drop_repeats(text: str) -> str:
    """Removes paragraphs of 8 words or more that occurred earlier in the text, ignoring spacing."""
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
    """Returns the budget that a trace of this length exemplifies: rounded up to a multiple of `round_to` (100)."""
    step = budget.get("round_to") or 100
    return -(-tokens // step) * step


def with_budget(question: Question, tokens: int, budget: dict[str, Any]) -> Question:
    """Prepends the budget to the question (L1, arXiv 2503.04697, also puts one into the prompt)."""
    prompt = budget.get("prompt", _BUDGET_PROMPT).replace("{budget}", str(tokens))
    if isinstance(question, str):
        return prompt + question
    first = next(index for index, message in enumerate(question) if message["role"] == "user")
    changed = {**question[first], "content": prompt + question[first]["content"]}
    return [*question[:first], changed, *question[first + 1 :]]


def budget_rows(rows: Iterable[dict[str, Any]], budget: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Returns rows for RL and evaluation: each question with a budget, and the column `budget` that `l1_*` read.

    A row's own `budget` is kept; the others are drawn from `choices`.
    """
    changed = []
    for index, row in enumerate(rows):
        tokens = row.get("budget")
        if tokens is None:
            tokens = random.Random(f"{seed}/budget/{index}").choice(budget["choices"])
        changed.append({**row, "budget": tokens, "question": with_budget(row["question"], tokens, budget)})
    return changed
