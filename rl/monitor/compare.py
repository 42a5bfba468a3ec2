"""Two runs, checkpoints or stretches of training on the questions that both were asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rl.monitor.filters import Filters, question_id
from rl.monitor.index import EpisodeIndex
from rl.monitor.runs import Run, Runs
from rl.monitor.texts import plain_question

KINDS = ("solved", "lost", "both", "neither")
"""Of b against a: at least half right where less than half was; the other way round; both; neither."""

_RANGE = re.compile(r"(.+):(\d+)(?:-(\d+))?", re.DOTALL)
_SHOWN = 200  # characters of a question in a table


@dataclass(frozen=True)
class _Asked:
    """One side's episodes of one question."""

    episodes: int
    right: int
    graded: int
    tokens: float
    source: str
    step: int
    group: str
    answer: int | None

    @property
    def share(self) -> float:
        """Of right ones. What could not be judged counts as wrong, as in an evaluation."""
        return self.right / self.episodes


@dataclass(frozen=True)
class _Side:
    run: Run
    source: str
    steps: range
    label: str
    questions: dict[int, _Asked]

    def summary(self, shared: set[int]) -> dict[str, Any]:
        """Accuracy and tokens are those of the shared questions, where there are any: so is the difference."""
        asked = self.questions.values()
        same = [self.questions[question] for question in shared] or list(asked)
        return {
            "label": self.label,
            "questions": len(asked),
            "episodes": sum(one.episodes for one in asked),
            "accuracy": fmean(one.share for one in same) if any(one.graded for one in asked) else None,
            "tokens": fmean(one.tokens for one in same) if same else None,
        }

    def cell(self, question: int) -> dict[str, Any]:
        one = self.questions[question]
        counts = {"right": one.right, "graded": one.graded, "episodes": one.episodes, "tokens": one.tokens}
        return counts | {"run": self.run.id, "source": one.source, "step": one.step, "group": one.group}


def compare(
    index: EpisodeIndex, runs: Runs, a: str, b: str, kind: str = "all", limit: int = 50, offset: int = 0
) -> dict[str, Any]:
    """`/api/compare`. Rows come widest change first.

    Args:
        a, b: `run:source` or `run:source:from-to`, as `demo:train:0-9`.
        kind: one of `KINDS`, or "all".

    Raises:
        ValueError: a side, or the kind, is none.
        NotThere: there is no such run.
    """
    if kind not in ("all", *KINDS):
        raise ValueError(f"kind is {kind!r}; it may be all, {', '.join(KINDS)}")
    sides = [_side(index, runs, spec) for spec in (a, b)]
    judged = all(any(one.graded for one in side.questions.values()) for side in sides)
    before, after = (side.questions for side in sides)
    shared = sorted(before.keys() & after.keys()) if judged else []
    changes = {question: after[question].share - before[question].share for question in shared}
    kinds = {question: _kind(before[question].share, after[question].share) for question in shared}
    chosen = [question for question in shared if kind in ("all", kinds[question])]
    page = sorted(chosen, key=lambda question: (-abs(changes[question]), question))[offset : offset + limit]
    texts = index.texts("questions", page)
    answers = index.texts("texts", [after[question].answer for question in page])
    progress = [index.progress(run) for run in {side.run.id: side.run for side in sides}.values()]
    return {
        "a": sides[0].summary(before.keys() & after.keys()),
        "b": sides[1].summary(before.keys() & after.keys()),
        "shared": len(before.keys() & after.keys()),
        "difference": paired_interval(list(changes.values())),
        "counts": {name: sum(found == name for found in kinds.values()) for name in KINDS},
        "rows": [
            {
                "qid": question_id(question),
                "question": " ".join(plain_question(texts[question]).split())[:_SHOWN],
                "answer": answers.get(after[question].answer),
                "a": sides[0].cell(question),
                "b": sides[1].cell(question),
                "kind": kinds[question],
            }
            for question in page
        ],
        "total": len(chosen),
        "note": _note(sides),
        "indexing": {name: sum(one[name] for one in progress) for name in ("files", "of")},
    }


def paired_interval(differences: list[float], z: float = 1.96) -> dict[str, float | None]:
    """Mean of the questions' differences and its 95% interval, normal over questions as that of an evaluation."""
    if not differences:
        return {"mean": None, "low": None, "high": None}
    mean = fmean(differences)
    if len(differences) < 2:
        return {"mean": mean, "low": -1.0, "high": 1.0}
    half = z * stdev(differences) / len(differences) ** 0.5
    return {"mean": mean, "low": max(-1.0, mean - half), "high": min(1.0, mean + half)}


def _kind(before: float, after: float) -> str:
    was, now = before >= 0.5, after >= 0.5
    return ("both" if was else "solved") if now else ("lost" if was else "neither")


def _side(index: EpisodeIndex, runs: Runs, spec: str) -> _Side:
    id, _, rest = spec.partition(":")
    match = _RANGE.fullmatch(rest)
    source, low, high = (match[1], int(match[2]), int(match[3] or match[2])) if match else (rest, None, None)
    if not id or not source:
        raise ValueError(f"{spec!r} is nothing to compare: write run:source or run:source:from-to")
    run = runs.get(id)
    index.prepare(run)
    where, values = Filters(source=source, step_from=low, step_to=high).where(run.id)
    rows = index.query(
        "SELECT question, count(*), count(*) FILTER (correct >= 0.5), count(correct), avg(tokens), "
        "any_value(source), max(step), arg_max(grp, step), any_value(answer) "
        f"FROM episodes WHERE {where} GROUP BY question",
        values,
    )
    steps = "" if low is None else f", step {low}" if low == high else f", steps {low} to {high}"
    asked = range(low, high + 1) if match else range(2**31)
    return _Side(
        run, source, asked, f"{run.id} {source}{steps}", {question: _Asked(*facts) for question, *facts in rows}
    )


def _note(sides: list[_Side]) -> str | None:
    """What the reader must know of the numbers."""
    notes = []
    for side in sides:
        asked = side.questions.values()
        unjudged = sum(one.episodes - one.graded for one in asked)
        if not asked:
            notes.append(f"{side.label}: no episodes")
        elif unjudged == sum(one.episodes for one in asked):
            notes.append(f"{side.label}: its files hold no verdicts, so nothing can be compared")
        elif unjudged:
            notes.append(f"{side.label}: {unjudged} episodes could not be judged and count as wrong")
    a, b = sides
    both = range(max(a.steps.start, b.steps.start), min(a.steps.stop, b.steps.stop))
    if a.run is b.run and a.source == b.source and len(both) and (a.questions or b.questions):
        notes.append("the two hold the same episodes, as far as their steps overlap")
    if not notes and not (sides[0].questions.keys() & sides[1].questions.keys()):
        notes.append("the two were never asked the same question")
    return "; ".join(notes) or None
