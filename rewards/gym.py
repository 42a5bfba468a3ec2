"""reasoning-gym's own `score_answer` as a verifier.

Some tasks parse an answer with sympy, which evaluates it. So answers are scored where math-verify's are: in children
with limits of CPU time and memory.
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
    r"""1 where the task's own `score_answer` gives the final output's answer its full mark, else 0.

    The answer is what `\boxed{…}` or `<answer>…</answer>` holds, else the whole output after the thinking. Several
    that are not all right are wrong. None for a question that is not reasoning-gym's (its row has no column
    `reasoning_gym`), or where scoring failed or ran out of time: counted in `reasoning_gym/error` and `/timeout`.

    Args:
        seconds: CPU time that scoring one answer may take.
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
    """In the child: the verdict on one output for the entry that a row's column names."""
    dataset, entry = entry_of(name)
    answers = boxed_answers(prediction) or _TAGGED.findall(prediction) or [prediction]
    right = all(_score(dataset, entry, answer.strip()) >= 1.0 for answer in answers)
    return Verdict.CORRECT if right else Verdict.INCORRECT


def _score(dataset: Any, entry: dict[str, Any], answer: str) -> float:
    """The task's mark. Some tasks raise on an answer of another form: wrong, if the entry can be scored at all."""
    try:
        return dataset.score_answer(answer, entry)
    except MemoryError:
        raise
    except Exception:  # whatever the task's own parsing raises
        dataset.score_answer(entry["answer"], entry)
        return 0.0
