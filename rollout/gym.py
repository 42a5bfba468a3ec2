"""Tasks of reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760) as rows of questions: `reasoning_gym:chain_sum`.

A row names its entry by task, settings and index, from which reasoning-gym generates the same entry again. So an
entry's metadata need not be stored, and the task's own `score_answer` can judge an answer in another process.

reasoning-gym generates entry i of seed s from seed s + i, so the seeds of two sets must differ by more than their
sizes, or they share questions.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from rollout.errors import InputError
from rollout.quiet import no_syntax_warnings

PREFIX = "reasoning_gym:"
COLUMN = "reasoning_gym"
"""Column of a row that names its entry, as JSON: {task, settings, index, digest}."""

ANY_ANSWER = "(whatever reasoning-gym's score_answer takes)"
"""Placeholder for the gold answer of tasks without a single right one."""


def open_task(task: str, settings: dict[str, Any]) -> Any:
    """Opens the task's dataset, a `reasoning_gym.dataset.ProceduralDataset`.

    Args:
        settings: fields of the task's own config; `seed` defaults to 0.

    Raises:
        InputError: reasoning-gym is not installed, the task does not exist, or it does not accept these settings.
    """
    try:
        with no_syntax_warnings():
            from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise InputError(
            f"{PREFIX}{task} needs the package reasoning-gym ({error}): pip install -r requirements/gym.lock --no-deps"
        ) from error
    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=1)
        raise InputError(f"reasoning-gym has no task {task!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    known = [field.name for field in dataclasses.fields(DATASETS[task][1])]
    for key in settings:
        if key not in known:
            raise InputError(f"{PREFIX}{task} has no setting {key!r}; known: {', '.join(known)}")
    try:
        return create_dataset(task, **({"seed": 0} | settings))
    except (AssertionError, TypeError, ValueError) as error:  # its configs validate themselves with assert
        raise InputError(f"{PREFIX}{task} rejects {settings}: {error or type(error).__name__}") from error


def task_rows(task: str, settings: dict[str, Any], start: int = 0) -> Iterator[dict[str, Any]]:
    """Yields rows from index `start`: question, answer, and the column that `entry_of` reads."""
    dataset = open_task(task, settings)
    for index in range(start, len(dataset)):
        entry = dataset[index]
        answer = ANY_ANSWER if entry["answer"] is None else str(entry["answer"])
        name = {"task": task, "settings": settings, "index": index, "digest": _digest(entry["question"])}
        yield {"question": entry["question"], "answer": answer, COLUMN: json.dumps(name)}


@lru_cache(maxsize=4096)
def entry_of(name: str) -> tuple[Any, dict[str, Any]]:
    """Returns the dataset and entry that a row's column names.

    Raises:
        InputError: this reasoning-gym generates a different question (another version, or the task uses today's date).
    """
    read = json.loads(name)
    dataset = _opened(read["task"], json.dumps(read["settings"]))
    entry = dataset[read["index"]]
    if _digest(entry["question"]) != read["digest"]:
        raise InputError(f"{PREFIX}{read['task']}: question {read['index']} has changed since the row was made")
    return dataset, entry


@lru_cache(maxsize=16)
def _opened(task: str, settings: str) -> Any:
    return open_task(task, json.loads(settings))


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:12]
