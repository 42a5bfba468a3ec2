"""Episode queries of the page: a run's sources, a page of the table, a text search, a question over training."""

from __future__ import annotations

from time import monotonic
from typing import Any

from rl.monitor.filters import EpisodeQuery, question_number
from rl.monitor.index import EpisodeIndex, dicts
from rl.monitor.runs import NotThere, Run
from rl.monitor.search import search
from rl.monitor.texts import render

_SHOWN = (
    'run, source, step, episode, "group", question, answer, stop_reason, error, rounds, tokens, peak, reward, '
    "advantage, correct, seconds"
)
_SOURCES = """
SELECT source, count(DISTINCT file) AS files, count(*) AS episodes, [min(step), max(step)] AS steps,
    max(rounds) AS rounds_max, max(tokens) AS tokens_max, count(correct) AS graded, histogram(stop_reason) AS stops
FROM episodes WHERE run = ? GROUP BY source ORDER BY starts_with(source, 'eval'), source
"""
_HITS = f"""
WITH hits AS (SELECT unnest(?::INTEGER[]) AS file, unnest(?::INTEGER[]) AS row, unnest(?::VARCHAR[]) AS snippet,
    unnest(range(?)) AS place)
SELECT {_SHOWN}, snippet FROM hits JOIN episodes USING (file, row) ORDER BY place
"""
_STORY = """
SELECT source, step, "group", count(*) AS episodes, count(*) FILTER (correct >= 0.5) AS right,
    count(correct) AS graded, avg(tokens) AS tokens_mean, avg(rounds) AS rounds_mean, avg(reward) AS reward_mean,
    any_value(answer) AS answer
FROM episodes WHERE run = ? AND question = ? GROUP BY source, step, "group"
ORDER BY starts_with(source, 'eval/'), step, source, "group"
"""


def sources(index: EpisodeIndex, run: Run) -> dict[str, Any]:
    """Answers `/api/sources`."""
    index.load(run)
    found = index.query(_SOURCES, [run.id])
    for row in found:
        row["stops"] = dict(sorted(row["stops"].items(), key=lambda item: -item[1]))
    return {"sources": found, "indexing": index.progress(run), "faults": index.faults(run)}


def episodes(index: EpisodeIndex, run: Run, **asked: Any) -> dict[str, Any]:
    """Answers `/api/episodes`. A text search is always sorted by step; the response's `sort` is the order used.

    Args:
        asked: fields of `EpisodeQuery`.

    Raises:
        ValueError: a field is unknown, or its value is not allowed.
    """
    started, query = monotonic(), EpisodeQuery(**asked)
    where, values = query.where(run.id)
    index.load(run)
    answer = {"indexing": index.progress(run), "faults": index.faults(run), "search": None, "sort": query.sort}
    if query.text:
        answer |= _search(index, run, query, where, values)
    else:
        page = f"SELECT {_SHOWN}, NULL AS snippet FROM episodes WHERE {where} ORDER BY {query.order()} LIMIT ? OFFSET ?"
        with index.cursor() as cursor:
            cursor.begin()  # count and page come from one snapshot
            [(total,)] = cursor.execute(f"SELECT count(*) FROM episodes WHERE {where}", values).fetchall()
            rows = dicts(cursor.execute(page, [*values, query.limit, query.offset]))
            cursor.commit()
        answer |= {"rows": index.name_questions(rows), "total": total}
    return answer | {"ms": round(1000 * (monotonic() - started))}


def _search(index: EpisodeIndex, run: Run, query: EpisodeQuery, where: str, values: list[Any]) -> dict[str, Any]:
    deadline, files = monotonic() + index.seconds, index.files(run)
    with index.cursor() as cursor:  # after `files`: a file replaced in between is omitted
        table = cursor.execute(f"SELECT file, row, step FROM episodes WHERE {where}", values).fetchnumpy()
    found = search(files, table, query, deadline, index.pool)
    columns = [list(column) for column in zip(*found.hits, strict=True)] or [[], [], []]
    rows = index.query(_HITS, [*columns, len(found.hits)])
    if found.faults:
        index.load(run, every=0.0)
    return {
        "rows": index.name_questions(rows),
        "total": found.total,
        "search": found.progress,
        "sort": "step" if query.sort == "step" else "-step",
        "faults": index.faults(run) + found.faults,
    }


def question(index: EpisodeIndex, run: Run, qid: str) -> dict[str, Any]:
    """Answers `/api/question`: one question over the training, step by step, oldest first.

    Raises:
        NotThere: the run has no episode of this question.
    """
    number = question_number(qid)
    index.load(run)
    steps = index.query(_STORY, [run.id, number])
    if not steps:
        raise NotThere(f"{run.id} has no question {qid}")
    answers = [step.pop("answer") for step in steps]
    return {"question": render(index.plain([number])[number]), "answer": answers[-1], "steps": steps}
