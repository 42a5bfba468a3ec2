"""The questions of an evaluation: standard sets by name, local files, any Hub data set, a function.

source row -> question (with the prompt around it), gold answer, difficulty
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl.evaluation.names import unique_names
from rl.settings.schema import ConfigError
from rollout.plugins import is_function_spec
from rollout.types import Question
from sft.data.contamination import EVAL_SETS
from sft.data.sources import load_rows

BOXED = "{question}\n\nThink step by step and put the final answer in \\boxed{}."
LETTER = "{question}\n\nThink step by step and put the letter of the one right choice in \\boxed{}."
_LEVELS = ("difficulty", "level")
_CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


@dataclass(frozen=True)
class DataSet:
    """Questions with gold answers."""

    name: str  # in tables and file names
    rows: list[dict[str, Any]]  # question, answer, and any columns; `difficulty` if it is known
    source: str  # as given
    verifier: str | None = None  # None: the run's, or `answer`


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """How a set's rows are read; their source is in `sft.data.contamination.EVAL_SETS`."""

    question: str = "problem"
    answer: str = "answer"
    difficulty: str | None = None
    prompt: str = BOXED
    verifier: str | None = None
    read: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    """Makes question and answer of a row and its number, where two columns are not enough."""


def _after_marks(row: dict[str, Any], _: int) -> dict[str, Any]:
    """Reads GSM8K, whose answers follow `####`, with commas for thousands."""
    return {"question": row["question"], "answer": row["answer"].rpartition("####")[2].strip().replace(",", "")}


def _choices(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Shuffles GPQA's right choice among its three wrong ones, seeded by the row's number; gold is its letter."""
    order = random.Random(f"gpqa/{number}").sample(_CHOICES, len(_CHOICES))
    lines = [f"{letter}) {str(row[column]).strip()}" for letter, column in zip("ABCD", order, strict=True)]
    question = "\n".join([str(row["Question"]).strip(), "", *lines])
    return {"question": question, "answer": "ABCD"[order.index(_CHOICES[0])]}


NAMED = {
    "MATH-500": NamedSet(difficulty="level"),
    "AIME24": NamedSet(),
    "AIME25": NamedSet(),
    "AMC23": NamedSet(question="question"),
    "GPQA-diamond": NamedSet(
        question="Question", prompt=LETTER, verifier="choice", difficulty="Writer's Difficulty Estimate", read=_choices
    ),
    "GSM8K": NamedSet(question="question", read=_after_marks),
}


def load_sets(
    specs: Sequence[tuple[str | None, str | dict[str, Any]]], prompt: str | None = None, limit: int | None = None
) -> list[DataSet]:
    """Loads data sets from (name, spec), with unique names; the arguments are those of `load_set`."""
    sets = [load_set(spec, name, prompt, limit) for name, spec in specs]
    return [replace(one, name=name) for one, name in zip(sets, unique_names([s.name for s in sets]), strict=True)]


def load_set(
    spec: str | dict[str, Any], name: str | None = None, prompt: str | None = None, limit: int | None = None
) -> DataSet:
    """Loads questions from a set's name (in any case), a file, a Hub id, `path.py:function`, or a mapping of settings.

    Args:
        spec: a mapping has `source` and optionally `label` (its name in tables), `prompt`, `verifier`,
            `difficulty` (the column) and arguments of `sft.data.sources.load_rows`: columns, split, name, limit, or a
            function's own arguments.
        name: in tables; None: the mapping's label, or the source's.
        prompt: contains `{question}`; overrides the set's own.
        limit: first questions only.

    Raises:
        InputError: there is no such source, or a row has no question or no answer.
    """
    settings = {"source": spec} if isinstance(spec, str) else dict(spec)
    source = settings.pop("source", None)
    if not source:
        raise ConfigError(f"data {spec!r} has no source: write {{source: …}}")
    named = _named(source)
    label, own_prompt = settings.pop("label", None), settings.pop("prompt", None)
    template = prompt or own_prompt or (NAMED[named].prompt if named else "{question}")
    verifier = settings.pop("verifier", NAMED[named].verifier if named else None)
    own_difficulty = settings.pop("difficulty", None)
    difficulty = own_difficulty or (NAMED[named].difficulty if named else None)
    if limit is not None and not is_function_spec(source):
        settings["limit"] = min(limit, settings.get("limit") or limit)
    rows = _read_named(named, settings, difficulty) if named else _read(source, settings)
    rows = rows[:limit]
    if own_difficulty and not any(own_difficulty in row for row in rows):
        raise ConfigError(f"data {source!r} has no column {own_difficulty!r}: correct `difficulty`")
    for row in rows:
        level = next((row[c] for c in ([difficulty] if difficulty else _LEVELS) if row.get(c) is not None), None)
        if level is not None:
            row["difficulty"] = level
    name = name or label or named or _short(source)
    return DataSet(name, [{**row, "question": ask(row["question"], template)} for row in rows], source, verifier)


def ask(question: Question, template: str) -> Question:
    """Puts the question into the prompt template; for chat messages, the last user message.

    Raises:
        InputError: the template has no `{question}`, or there is no user message.
    """
    if "{question}" not in template:
        raise ConfigError(f"prompt is {template!r}; it must contain {{question}}")
    if isinstance(question, str):
        return template.replace("{question}", question)
    place = max((number for number, message in enumerate(question) if message["role"] == "user"), default=None)
    if place is None:
        raise ConfigError(f"a question in chat messages has no user message: {question!r:.200}")
    changed = {**question[place], "content": template.replace("{question}", question[place]["content"])}
    return [*question[:place], changed, *question[place + 1 :]]


def _named(source: str) -> str | None:
    return next((name for name in NAMED if name.casefold() == source.casefold()), None)


def _short(source: str) -> str:
    """Returns a name for tables and files from a path, a Hub id or a function."""
    if is_function_spec(source):
        return source.rpartition(":")[2]
    return Path(source).name.partition(".")[0]


def _read_named(name: str, settings: dict[str, Any], difficulty: str | None) -> list[dict[str, Any]]:
    place, how = EVAL_SETS[name], NAMED[name]
    rows = load_rows(place.hub_id, **{"name": place.config, "split": place.split} | settings)
    made = []
    for number, row in enumerate(rows):
        missing = [c for c in ((how.question, how.answer) if not how.read else (how.question,)) if c not in row]
        if missing:
            raise ConfigError(f"{place.hub_id} no longer has a column {missing[0]!r}; it has {', '.join(row)}")
        read = how.read(row, number) if how.read else {"question": row[how.question], "answer": _plain(row[how.answer])}
        kept = {difficulty: row[difficulty]} if difficulty in row else {}
        made.append(kept | read)
    return made


def _read(source: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
    rows = load_rows(source, **settings)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("question", ""), str | list):
            raise ConfigError(
                f"data {source!r}, row {number}: question is {row['question']!r}; it must be text or messages"
            )
        for column in ("question", "answer"):
            if row.get(column) is None:
                raise ConfigError(
                    f"data {source!r}, row {number}: no {column}; name its column, as in "
                    f"{{source: …, columns: {{{column}: …}}}}"
                )
    return [dict(row) for row in rows]


def _plain(answer: Any) -> str:
    """Returns a gold answer as text. A whole number stored as 27.0 becomes 27."""
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)
