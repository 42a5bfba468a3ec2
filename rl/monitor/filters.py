"""Filter and order of episodes: the query of a link, as SQL with parameters."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, Field

Sort = Literal[
    "step", "-step", "tokens", "-tokens", "rounds", "-rounds", "reward", "-reward", "advantage", "-advantage"
]  # fmt: skip
SORTS = get_args(Sort)
"""Orders of a table of episodes; `-`: the largest first."""

_VERDICTS = {"right": "correct >= 0.5", "wrong": "correct < 0.5", "unknown": "correct IS NULL"}
_BOUNDS = ("step_from", "step_to", "rounds_min", "rounds_max", "tokens_min", "tokens_max")


class EpisodeQuery(BaseModel, extra="forbid"):
    """The query of an episode table. Every filter narrows it, unless it is None or an empty string."""

    source: str | None = None  # "train", "eval", "eval/<stage>_<dataset>"
    step_from: int | None = None
    step_to: int | None = None
    question: str | None = None  # substring of its text, case-insensitive
    qid: str | None = None
    group: str | None = None
    correct: Literal["right", "wrong", "unknown"] | None = None
    stop: str | None = None  # stop reasons, separated by commas
    rounds_min: int | None = None
    rounds_max: int | None = None
    tokens_min: int | None = None
    tokens_max: int | None = None
    text: str | None = Field(None, max_length=1000)  # substring of any round's output, case-insensitive
    sort: Sort = "-step"
    limit: int = Field(50, ge=1, le=1000)
    offset: int = Field(0, ge=0, lt=2**62)
    after: str | None = None  # token at which a search of the outputs resumes

    def where(self, run: str) -> tuple[str, list[Any]]:
        """Returns a condition on the table `episodes` and its parameters. Raises ValueError for an invalid qid."""
        terms: list[tuple[str, list[Any]]] = [("run = ?", [run])]
        if self.source:
            terms.append(("source = ?", [self.source]))
        for name in _BOUNDS:
            if (bound := getattr(self, name)) is not None:
                column, end = name.split("_")
                terms.append((f"{column} {'>=' if end in ('from', 'min') else '<='} ?", [bound]))
        if self.question:
            found = "SELECT id FROM questions WHERE contains(folded, ?)"
            terms.append((f"question IN ({found})", [self.question.casefold()]))
        if self.qid:
            terms.append(("question = ?", [question_number(self.qid)]))
        if self.group:
            terms.append(('"group" = ?', [self.group]))
        if self.correct:
            terms.append((_VERDICTS[self.correct], []))
        if self.stop:
            terms.append(("list_contains(string_split(?, ','), stop_reason)", [self.stop]))
        return " AND ".join(sql for sql, _ in terms), [value for _, values in terms for value in values]

    def order(self) -> str:
        """Returns ORDER BY terms: episodes without the value come last, and ties have a fixed order."""
        name, down = self.sort.removeprefix("-"), self.sort.startswith("-")
        ties = "source, episode, file, row" if name == "step" else "step DESC, source, episode, file, row"
        return f"{name} {'DESC' if down else 'ASC'} NULLS LAST, {ties}"


def question_id(number: int) -> str:
    """Returns a question's id in links."""
    return f"{number:016x}"


def question_number(id: str) -> int:
    """Inverts `question_id`. Raises ValueError for an invalid id."""
    try:
        number = int(id, 16)
    except ValueError:
        number = -1
    if not 0 <= number < 2**64:
        raise ValueError(f"qid is {id!r}, which is not the id of a question")
    return number
