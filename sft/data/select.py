"""Selects the traces of a source: readable, verified, no question twice, none of an evaluation set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.answer import verify_many
from rewards.types import Verdict
from rollout.types import Question
from sft.data.contamination import Contamination
from sft.data.duplicates import Duplicates
from sft.data.formats import Generation, SourceRow, read_row, recognize
from sft.data.settings import DataSettings
from sft.data.sources import BadRow
from sft.data.thinking import Unreadable
from sft.data.transforms import drop_repeats, round_up, with_budget

_EXCERPT = 300  # characters of a dropped trace, for the report


@dataclass(frozen=True)
class Trace:
    """One long chain of thought that becomes rounds."""

    number: int  # index of its row in the source
    generation: int  # index among the row's readable generations
    id: str
    question: Question
    answer: str | None  # the gold answer
    reasoning: str
    conclusion: str
    budget: int | None = None  # tokens that the question asks for, if any
    verified: bool = False  # the verifier found its answer right

    @property
    def key(self) -> str:
        """Identifies the trace by its content: seeds derive from it, so they don't depend on the source's order."""
        return hashlib.sha256(json.dumps([self.question, self.reasoning]).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Dropped:
    """A trace, or a whole row, that is not used."""

    number: int
    generation: int | None  # None: the whole row, or a generation that can't be read
    id: str
    reason: str  # to be counted
    excerpt: str  # start or end of the dropped text


class Selector:
    """Selects rows in the order of the source, a batch at a time.

    Args:
        settings: the fields under "which traces".
        count_tokens: by the target model's tokenizer, for the shortest generation and for budgets.
    """

    def __init__(
        self,
        settings: DataSettings,
        columns: dict[str, str],
        count_tokens: Callable[[str], int],
        duplicates: Duplicates | None,
        contamination: Contamination | None,
    ):
        self.settings, self.columns, self.count_tokens = settings, columns, count_tokens
        self.duplicates, self.contamination = duplicates, contamination
        self.form = ""  # of the first row that could be read

    def select(self, rows: Sequence[tuple[int, dict[str, Any] | BadRow]]) -> list[Trace | Dropped]:
        """Returns the outcome of every generation of `rows`, which are pairs of number and row, in order."""
        outcomes: list[Trace | Dropped] = []
        read: list[tuple[int, SourceRow]] = []
        for number, row in rows:
            found = self._read(number, row)
            if isinstance(found, Dropped):
                outcomes.append(found)
            else:
                read.append((number, found))
        reasons, verified = self._verdicts([row for _, row in read])
        for place, (number, row) in enumerate(read):
            right = {j for i, j in verified if i == place}
            outcomes += self._choose(number, row, reasons[place], right)
        return sorted(outcomes, key=lambda o: (o.number, -1 if o.generation is None else o.generation))

    def _read(self, number: int, row: dict[str, Any] | BadRow) -> SourceRow | Dropped:
        if isinstance(row, BadRow):
            return Dropped(number, None, str(number), f"unreadable: {row.reason}", row.where)
        try:
            read = read_row(row, self.columns)
            self.form = self.form or ("the columns that you named" if self.columns else recognize(row))
            return read
        except Unreadable as error:
            excerpt = json.dumps(row, ensure_ascii=True, default=str)[:_EXCERPT]
            return Dropped(number, None, str(number), f"unreadable: {error}", excerpt)
        except ValueError as error:  # the column map names a missing column: in the first row, the map is wrong
            if number == 0:
                raise
            return Dropped(number, None, str(number), "unreadable: a named column is missing", str(error)[:_EXCERPT])

    def _verdicts(self, rows: list[SourceRow]) -> tuple[list[list[str | None]], set[tuple[int, int]]]:
        """Returns why each generation of each row is wrong (None: it is right, or there is no evidence against it).

        Also returns the indices (row, generation) of those that the verifier found right.
        """
        mode = self.settings.verify
        reasons = [[_flagged(generation, row, mode) for generation in row.generations] for row in rows]
        if mode == "never":
            return reasons, set()
        asked = [(i, j) for i, row in enumerate(rows) if row.answer is not None for j in range(len(row.generations))]
        pairs = [(rows[i].generations[j].conclusion, rows[i].answer) for i, j in asked]
        verified: set[tuple[int, int]] = set()
        for (i, j), verdict in zip(asked, verify_many(pairs), strict=True):
            if verdict is Verdict.CORRECT:
                verified.add((i, j))
            elif verdict is Verdict.INCORRECT:
                reasons[i][j] = "answer does not verify"
            elif rows[i].generations[j].correct is not True:  # the dataset's own flag, if we have no verdict
                reasons[i][j] = f"answer can't be judged: {verdict}"
        return reasons, verified

    def _choose(
        self, number: int, row: SourceRow, reasons: list[str | None], verified: set[int]
    ) -> list[Trace | Dropped]:
        name = row.id or str(number)
        text = _text(row.question)

        def drop(place: int | None, reason: str, what: str) -> Dropped:
            return Dropped(number, place, name, reason, what[-_EXCERPT:])

        outcomes: list[Trace | Dropped] = [drop(None, f"unreadable: {problem}", text) for problem in row.problems]
        right = [place for place, reason in enumerate(reasons) if reason is None]
        outcomes += [drop(i, why, row.generations[i].conclusion) for i, why in enumerate(reasons) if why is not None]
        if not right:
            return outcomes
        overlap = self.contamination.find(text) if self.contamination else None
        again = f"question of {overlap}" if overlap else self._seen(number, text)
        if again:
            return outcomes + [drop(place, again, text) for place in right]
        traces = {place: self._trace(number, place, name, row, place in verified) for place in right}
        chosen = set(right)
        if self.settings.generations == "first":
            chosen = {right[0]}
        elif self.settings.generations == "shortest":
            chosen = {min(right, key=lambda place: self.count_tokens(traces[place].reasoning))}
        for place in right:
            outcomes.append(traces[place] if place in chosen else drop(place, "another generation was chosen", text))
        return outcomes

    def _seen(self, number: int, question: str) -> str | None:
        if self.duplicates is None:
            return None
        again = self.duplicates.find(number, question)
        if again is None:
            self.duplicates.add(number, question)
        return again

    def _trace(self, number: int, place: int, name: str, row: SourceRow, verified: bool) -> Trace:
        generation = row.generations[place]
        reasoning = drop_repeats(generation.reasoning) if self.settings.drop_repeats else generation.reasoning
        question, tokens, budget = row.question, None, self.settings.budget
        if budget is not None:
            tokens = round_up(self.count_tokens(reasoning) + self.count_tokens(generation.conclusion), budget)
            question = with_budget(question, tokens, budget)
        return Trace(number, place, name, question, row.answer, reasoning, generation.conclusion, tokens, verified)


def _flagged(generation: Generation, row: SourceRow, mode: str) -> str | None:
    """Returns the dataset's own objection to a generation, if there is no gold answer to verify it against."""
    if mode == "never" or row.answer is not None:
        return None
    if generation.correct is False:
        return "wrong by the data set's own flag"
    if mode == "always" and generation.correct is None:
        return "no gold answer to verify it against"
    return None


def _text(question: Question) -> str:
    """Returns the user's text, for the duplicate search."""
    if isinstance(question, str):
        return question
    return "\n".join(str(message["content"]) for message in question if message["role"] == "user")
