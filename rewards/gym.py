"""reasoning-gym's own `score_answer` as a verifier.

Some tasks parse an answer with sympy, which evaluates it. So answers are scored like math-verify's: in child processes
with limits on CPU time and memory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rewards.answer import answer_part, boxed_answers
from rewards.types import Verdict
from rewards.verifying.pool import ask_children
from rollout.gym import COLUMN, entry_of
from rollout.quiet import no_syntax_warnings
from rollout.types import Episode, StopReason

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_VALUES = {Verdict.CORRECT: 1.0, Verdict.INCORRECT: 0.0}


def reasoning_gym(
    episodes: Sequence[Episode],
    seconds: float = 5.0,
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    r"""Returns 1 if the task's own `score_answer` gives the answer in the final output the full score, else 0.

    The answer is the contents of `\boxed{…}` or `<answer>…</answer>`, else the whole output after the thinking. With
    several answers, all must be right. None if the question is not from reasoning-gym (its row has no column
    `reasoning_gym`), or if scoring failed or timed out: counted in `reasoning_gym/error` and `/timeout`.

    Args:
        seconds: CPU time allowed for scoring one answer.
    """
    asked = [
        i for i, e in enumerate(episodes) if e.stop_reason == StopReason.ANSWERED and e.columns.get(COLUMN) is not None
    ]
    pairs = [(answer_part(episodes[i].final_text), episodes[i].columns[COLUMN]) for i in asked]
    found = dict(zip(asked, ask_children(pairs, seconds, judge=f"{__name__}:judge"), strict=True))
    if log_metric is not None:
        counts = Counter(found.values())
        for verdict in (Verdict.TIMEOUT, Verdict.ERROR):
            log_metric(f"reasoning_gym/{verdict}", counts[verdict])
    return [
        _VALUES.get(found[i]) if i in found else 0.0 if e.stop_reason != StopReason.ANSWERED else None
        for i, e in enumerate(episodes)
    ]


def warm() -> None:
    """Imports reasoning-gym, which takes a second."""
    with no_syntax_warnings():
        import reasoning_gym  # noqa: F401


def judge(prediction: str, name: str) -> Verdict:
    """Returns the verdict on one output for the entry named in a row's column. Runs in the child."""
    dataset, entry = entry_of(name)
    answers = boxed_answers(prediction) or _TAGGED.findall(prediction) or [prediction]
    right = all(_score(dataset, entry, answer.strip()) >= 1.0 for answer in answers)
    return Verdict.CORRECT if right else Verdict.INCORRECT


def _score(dataset: Any, entry: dict[str, Any], answer: str) -> float:
    """Returns the task's score. Some tasks raise on an answer in another format: 0, if the entry can be scored."""
    try:
        return dataset.score_answer(answer, entry)
    except MemoryError:
        raise
    except Exception:  # whatever the task's own parsing raises
        dataset.score_answer(entry["answer"], entry)
        return 0.0
