"""reasoning-gym's chain_sum with its steps written down, so that SFT can show them.

question   State the final answer to the following arithmetic problem: 4 - 7 + 6 + 1 =
thinking   4 - 7 = -3
           -3 + 6 = 3
summary    3 + 1                    the remaining expression, which is all that the next round needs
thinking   3 + 1 = 4
conclusion \\boxed{4}
"""

from __future__ import annotations

import re
from typing import Any

from sft.data.sources import load_rows

_EXPRESSION = re.compile(r"-?\d+(?: [+-] -?\d+)*(?= =)")
_TERM = re.compile(r" ([+-]) (-?\d+)")


def traces(**settings: Any) -> list[dict[str, Any]]:
    """Returns questions of `reasoning_gym:chain_sum` with traces in the open format `<think>…</think>` + conclusion.

    Args:
        settings: the task's own: size, seed, min_terms, max_terms, min_digits, max_digits.
    """
    rows = load_rows("reasoning_gym:chain_sum", **settings)
    return [row | {"trace": f"<think>\n{steps(row['question'])}\n</think>\n\\boxed{{{row['answer']}}}"} for row in rows]


def steps(question: str) -> str:
    """Returns one line per term after the first: the total so far, the term, the new total."""
    expression = _EXPRESSION.search(question)[0]
    first = re.match(r"-?\d+", expression)[0]
    total, lines = int(first), []
    for sign, term in _TERM.findall(expression):
        after = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total} {sign} {term} = {after}")
        total = after
    return "\n".join(lines)


def summarize(question: str, previous: str | None, segment: str) -> str:
    """The expression that is left after the segment: its last total, and the terms of the question after it."""
    expression = previous or _EXPRESSION.search(question)[0]
    done = len(segment.strip().splitlines())
    rest = _TERM.findall(expression)[done:]
    total = segment.strip().rpartition("= ")[2]
    return total + "".join(f" {sign} {term}" for sign, term in rest)
