"""Which episodes, and in which order: what stands in a link, as SQL with parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_VERDICTS = {"right": "correct >= 0.5", "wrong": "correct < 0.5", "unknown": "correct IS NULL"}
_ORDER = ("step", "tokens", "rounds", "reward", "advantage")
SORTS = tuple(sign + name for name in _ORDER for sign in ("", "-"))
"""Orders of a table of episodes; `-`: the largest first."""

_MOST = 2**31 - 1


@dataclass(frozen=True)
class Filters:
    """Every field narrows; None or an empty text does not."""

    source: str | None = None  # "train", "eval", "eval/<stage>_<dataset>"
    step_from: int | None = None
    step_to: int | None = None
    question: str | None = None  # part of its text, whatever the case
    qid: str | None = None
    group: str | None = None
    correct: str | None = None  # "right", "wrong", "unknown"
    stop: str | None = None  # stop reasons, separated by commas
    rounds_min: int | None = None
    rounds_max: int | None = None
    tokens_min: int | None = None
    tokens_max: int | None = None

    def where(self, run: str) -> tuple[str, list[Any]]:
        """A condition on the table `episodes`, and its parameters.

        Raises:
            ValueError: a value that is none.
        """
        terms, values = ["run = ?"], [run]

        def term(sql: str, *value: Any) -> None:
            terms.append(sql)
            values.extend(value)

        if self.source:
            term("source = ?", self.source)
        bounds = ("step", self.step_from, self.step_to), ("rounds", self.rounds_min, self.rounds_max)
        for column, low, high in (*bounds, ("tokens", self.tokens_min, self.tokens_max)):
            if low is not None:
                term(f"{column} >= ?", max(-_MOST, min(low, _MOST)))
            if high is not None:
                term(f"{column} <= ?", max(-_MOST, min(high, _MOST)))
        if self.question:
            found = "SELECT id FROM questions WHERE contains(coalesce(folded, text), ?)"
            term(f"question IN ({found})", self.question.casefold())
        if self.qid:
            term("question = ?", question_number(self.qid))
        if self.group:
            term("grp = ?", self.group)
        if self.correct:
            if self.correct not in _VERDICTS:
                raise ValueError(f"correct is {self.correct!r}; it may be {', '.join(_VERDICTS)}")
            term(_VERDICTS[self.correct])
        if self.stop:
            term("list_contains(?::VARCHAR[], stop)", [part.strip() for part in self.stop.split(",") if part.strip()])
        return " AND ".join(terms), values


def order(sort: str) -> str:
    """ORDER BY of a table of episodes. Episodes without the value come last; ties are always in one order.

    Raises:
        ValueError: there is no such order.
    """
    if sort not in SORTS:
        raise ValueError(f"sort is {sort!r}; it may be {', '.join(SORTS)}")
    name = sort.removeprefix("-")
    ties = "source, episode, file, row" if name == "step" else "step DESC, source, episode, file, row"
    return f"{name} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, {ties}"


def question_id(number: int) -> str:
    """How a question is named in links."""
    return f"{number:016x}"


def question_number(id: str) -> int:
    """Raises ValueError for what is no id of a question."""
    try:
        number = int(id, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 2**64:
        raise ValueError(f"qid is {id!r}; it is no id of a question")
    return number
