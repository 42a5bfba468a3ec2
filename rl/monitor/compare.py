"""Compares two runs, checkpoints or ranges of training steps on the questions that both were asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rl.monitor.filters import EpisodeQuery
from rl.monitor.index import EpisodeIndex
from rl.monitor.runs import Run, Runs

KINDS = ("solved", "lost", "both", "neither")
"""Of b against a: at least half right where less than half was; the other way round; both; neither."""

_RANGE = re.compile(r"(.+):(\d+)(?:-(\d+))?", re.DOTALL)

# One side's episodes per question. Unjudged episodes count as wrong, as in an evaluation.
_SIDE = """
SELECT question, count(*) AS episodes, count(*) FILTER (correct >= 0.5) AS right, count(correct) AS graded,
    avg(tokens) AS tokens, count(*) FILTER (correct >= 0.5) / count(*) AS share, any_value(run) AS run,
    any_value(source) AS source, max(step) AS step, arg_max("group", step) AS "group", any_value(answer) AS answer
FROM episodes WHERE {where} GROUP BY question
"""
_SUMMARY = """
SELECT count(*) AS questions, coalesce(sum(episodes), 0)::BIGINT AS episodes,
    coalesce(sum(graded), 0)::BIGINT AS graded, avg(share) AS accuracy, avg(tokens) AS tokens
FROM side
"""
_PAIRS = """
WITH a AS ({a}), b AS ({b}), paired AS (
    SELECT question, a, b, b.share - a.share AS change, CASE
        WHEN b.share >= 0.5 THEN if(a.share >= 0.5, 'both', 'solved')
        ELSE if(a.share >= 0.5, 'lost', 'neither') END AS kind
    FROM a JOIN b USING (question)
)
"""
_DIFFERENCE = """
SELECT count(*) AS shared, avg(change) AS mean, stddev_samp(change) AS std, histogram(kind) AS counts,
    avg(a.share) AS a_accuracy, avg(a.tokens) AS a_tokens, avg(b.share) AS b_accuracy, avg(b.tokens) AS b_tokens
FROM paired
"""
_PAGE = """
SELECT question, b.answer AS answer, a, b, kind FROM paired WHERE ? IN ('all', kind)
ORDER BY abs(change) DESC, question LIMIT ? OFFSET ?
"""
_CELL = ("right", "graded", "episodes", "tokens", "run", "source", "step", "group")


@dataclass(frozen=True)
class _Side:
    run: Run
    source: str
    steps: range
    label: str
    sql: str
    values: list[Any]
    summary: dict[str, Any]


def compare(
    index: EpisodeIndex, runs: Runs, a: str, b: str, kind: str = "all", limit: int = 50, offset: int = 0
) -> dict[str, Any]:
    """Answers `/api/compare`; the rows with the largest change come first.

    Args:
        a, b: `run:source` or `run:source:from-to`, as `demo:train:0-9`.
        kind: one of `KINDS`, or "all".

    Raises:
        ValueError: a side or the kind is invalid.
        NotThere: the run does not exist.
    """
    if kind not in ("all", *KINDS):
        raise ValueError(f"kind is {kind!r}; it may be all, {', '.join(KINDS)}")
    sides = [_side(index, runs, spec) for spec in (a, b)]
    pairs, values = _PAIRS.format(a=sides[0].sql, b=sides[1].sql), sides[0].values + sides[1].values
    [found] = index.query(pairs + _DIFFERENCE, values)
    shared, judged = found["shared"], all(side.summary["graded"] for side in sides)
    counts = dict.fromkeys(KINDS, 0) | (found["counts"] or {} if judged else {})
    rows = index.query(pairs + _PAGE, [*values, kind, limit, offset]) if judged else []
    for row in rows:
        row |= {side: {name: row[side][name] for name in _CELL} for side in ("a", "b")}
    progress = [index.progress(run) for run in {side.run.id: side.run for side in sides}.values()]
    answer = {
        "shared": shared,
        "difference": paired_interval(found["mean"], found["std"], shared if judged else 0),
        "counts": counts,
        "rows": index.name_questions(rows),
        "total": sum(counts.values()) if kind == "all" else counts[kind],
        "note": _note(sides, shared),
        "indexing": {name: sum(one[name] for one in progress) for name in ("files", "of")},
    }
    for name, side in zip("ab", sides, strict=True):  # of the shared questions, if any
        figures = {key: found[f"{name}_{key}"] for key in ("accuracy", "tokens")} if shared else {}
        answer[name] = {"label": side.label} | side.summary | figures
        if not side.summary["graded"]:
            answer[name]["accuracy"] = None
    return answer


def paired_interval(mean: float | None, std: float | None, count: int) -> dict[str, float | None]:
    """Returns the questions' mean difference and its 95% interval, normal over questions as in an evaluation."""
    if not count or mean is None:
        return {"mean": None, "low": None, "high": None}
    half = 2.0 if std is None else 1.96 * std / count**0.5
    return {"mean": mean, "low": max(-1.0, mean - half), "high": min(1.0, mean + half)}


def _side(index: EpisodeIndex, runs: Runs, spec: str) -> _Side:
    id, _, rest = spec.partition(":")
    match = _RANGE.fullmatch(rest)
    source, low, high = (match[1], int(match[2]), int(match[3] or match[2])) if match else (rest, None, None)
    if not id or not source:
        raise ValueError(f"{spec!r} is not a valid side: write run:source or run:source:from-to")
    run = runs.get(id)
    index.load(run)
    where, values = EpisodeQuery(source=source, step_from=low, step_to=high).where(run.id)
    sql = _SIDE.format(where=where)
    [summary] = index.query(f"WITH side AS ({sql}) {_SUMMARY}", values)
    steps = "" if low is None else f", step {low}" if low == high else f", steps {low} to {high}"
    asked = range(low, high + 1) if match else range(2**31)
    return _Side(run, source, asked, f"{run.id} {source}{steps}", sql, values, summary)


def _note(sides: list[_Side], shared: int) -> str | None:
    """Returns caveats about the numbers."""
    notes = []
    for side in sides:
        episodes, unjudged = side.summary["episodes"], side.summary["episodes"] - side.summary["graded"]
        if not episodes:
            notes.append(f"{side.label}: no episodes")
        elif unjudged == episodes:
            notes.append(f"{side.label}: its files have no verdicts, so nothing can be compared")
        elif unjudged:
            notes.append(f"{side.label}: {unjudged} episodes could not be judged and count as wrong")
    a, b = sides
    both = range(max(a.steps.start, b.steps.start), min(a.steps.stop, b.steps.stop))
    if a.run is b.run and a.source == b.source and len(both) and (a.summary["episodes"] or b.summary["episodes"]):
        notes.append("both sides contain the same episodes where their steps overlap")
    if not notes and not shared:
        notes.append("the two sides have no question in common")
    return "; ".join(notes) or None
