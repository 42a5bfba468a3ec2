"""Questions for a check: of a data set, of the folder's run, or a few built-in ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.types import Question

if TYPE_CHECKING:
    from rl.app.run_config import RunConfig

BUILT_IN = [
    "What is 17 + 25?",
    "A train leaves at 9:40 and arrives at 13:05. How many minutes does it take?",
    "Find the sum of all positive divisors of 36.",
    "How many three-digit numbers are divisible by 7?",
    "If x + 1/x = 3, what is x^2 + 1/x^2?",
    "What is the remainder when 2^100 is divided by 7?",
    "A square has the same area as a circle of radius 2. What is the square's side?",
    "How many ways are there to put 5 books on a shelf?",
]


def question_sets(data: str | None, run: RunConfig | None, count: int) -> dict[str, list[Question]]:
    """Return name -> at most `count` questions: of `data`, else of the run's evaluation sets, else built in.

    Args:
        data: as `sawtooth eval --data` takes it.

    Raises:
        InputError: the source can't be read.
    """
    from rl.evaluation.sets import load_sets

    if data is not None:
        found = load_sets([(None, data)], None, count)
    elif run is not None and run.data.eval:
        found = load_sets(list(run.data.eval.items()), run.eval.prompt, count)
    else:
        return {"built-in questions": BUILT_IN[:count]}
    return {one.name: [row["question"] for row in one.rows] for one in found}
