"""All episodes of all runs as one table in memory, so that any filter over a million of them takes a moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any

import duckdb

from rl.monitor.episode_files import EpisodeFile
from rl.monitor.filters import Filters, order, question_id, question_number
from rl.monitor.ingest import Ingest
from rl.monitor.runs import NotThere, Run
from rl.monitor.search import Hit
from rl.monitor.search_page import search_page
from rl.monitor.texts import plain_question, render

MOST_ROWS = 1000
"""Rows of the longest page."""

MOST_TEXT = 1000
"""Characters of the longest text that is searched for."""

_WATCH_EVERY = 5.0  # seconds between two looks at the runs while nobody asks
_LOOK_EVERY = 1.0  # seconds between two listings of a run's folder
_FIRST_WAIT = 1.0  # seconds that the first answer about a run waits for the first of its episodes
_COLUMNS = (
    "source", "step", "episode", "grp", "question", "answer", "stop", "error", "rounds", "tokens", "peak", "reward",
    "advantage", "correct", "seconds", "file", "row",
)  # fmt: skip
_SHOWN = 200  # characters of a question in a table


class EpisodeIndex:
    """Episodes of runs, as their files have them now. Methods may be called from any thread.

    Files are taken in by a thread in the background, newest first; an answer says how far it is (`indexing`).

    Args:
        memory: most that the table and the queries over it may take.
        most: episodes that are held, the newest of each run first. A million take some 100 MB.
        threads: that read files or search, and those of the database.
        seconds: that one search in texts may take.
    """

    def __init__(self, memory: str = "1GB", most: int = 5_000_000, threads: int = 2, seconds: float = 0.7):
        settings = {"memory_limit": memory, "threads": threads, "temp_directory": ""}
        extensions = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        self._db = duckdb.connect(":memory:", config=settings | extensions)
        self._db.execute("SET enable_external_access = false")  # no file and no address, whatever a query says
        self._ingest = Ingest(self._db, threads, most)
        self._pool = ThreadPoolExecutor(threads, "episode search")
        self._ahead, self._seconds = 2 * threads, seconds
        self._watcher: threading.Thread | None = None
        self._stopped = threading.Event()
        self._asked: set[str] = set()

    def start(self, runs: Callable[[], Iterable[Run]]) -> None:
        """From now on, keeps up with the runs that were asked about, and with the one that logged last.

        Not with all: a folder may hold dozens, and nobody may want their episodes.
        """
        self._watcher = threading.Thread(target=self._watch, args=(runs,), name="run watcher", daemon=True)
        self._watcher.start()

    def _watch(self, runs: Callable[[], Iterable[Run]]) -> None:
        while not self._stopped.wait(_WATCH_EVERY):  # first the page that was opened, then what it may ask for next
            try:
                self._look_at(list(runs()))
            except OSError:  # a file system that is away for a while
                continue

    def _look_at(self, runs: list[Run]) -> None:
        newest = max(runs, key=_logged, default=None)
        for run in runs:
            if run is newest or run.id in self._asked:
                self._ingest.look(run.id, run.folder, _LOOK_EVERY)

    def stop(self) -> None:
        """Ends the threads."""
        self._stopped.set()
        if self._watcher:
            self._watcher.join()
        self._ingest.stop()
        self._pool.shutdown(cancel_futures=True)
        self._db.close()

    def __enter__(self) -> EpisodeIndex:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def refresh(self, run: Run) -> None:
        """Looks what is new, changed or gone in a run's folder. Every answer does so by itself once a second."""
        self._ingest.look(run.id, run.folder)

    def wait(self, run: Run, seconds: float = 600.0) -> bool:
        """Waits until all of a run that was looked at is taken in. Returns whether it is."""
        return self._ingest.wait(run.id, seconds)

    def progress(self, run: Run) -> dict[str, int]:
        """`{"files", "of"}`: files that were taken in, or found faulty, of all."""
        return self._ingest.progress(run.id)

    def faults(self, run: Run) -> list[dict[str, str]]:
        """`{"file", "reason"}` of each file that gives no episodes."""
        return self._ingest.faults(run.id)

    def file(self, run: Run, number: int) -> EpisodeFile | None:
        """The file that rows of the table refer to by this number; None where it is there no more."""
        return self._ingest.files(run.id).get(number)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query over the tables of `TABLES`.

        Raises:
            ValueError: a value that no episode could have, as a number beyond all bounds.
        """
        with self._cursor() as cursor:
            return cursor.execute(sql, values).fetchall()

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        try:
            with self._db.cursor() as cursor:
                yield cursor
        except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
            raise ValueError(f"no episode could have that value ({' '.join(str(error).split()):.120})") from None
        except duckdb.OutOfMemoryException:
            raise ValueError("the episodes of all these runs take more memory than the index may have") from None

    def prepare(self, run: Run) -> None:
        """Has the folder looked at, and something of it taken in, before a first answer."""
        self._asked.add(run.id)
        self._ingest.look(run.id, run.folder, _LOOK_EVERY)
        self._ingest.wait(run.id, _FIRST_WAIT, for_all=False)

    def sources(self, run: Run) -> dict[str, Any]:
        """`/api/sources`."""
        self.prepare(run)
        found = self.query(
            "SELECT source, count(DISTINCT file), count(*), min(step), max(step), max(rounds), max(tokens), "
            "count(correct) FROM episodes WHERE run = ? GROUP BY source "
            "ORDER BY starts_with(source, 'eval'), source",
            [run.id],
        )
        stops: dict[str, dict[str, int]] = {}
        counted = "SELECT source, stop, count(*) FROM episodes WHERE run = ? GROUP BY ALL ORDER BY 3 DESC, stop"
        for source, stop, number in self.query(counted, [run.id]):
            stops.setdefault(source, {})[stop] = number
        names = ("source", "files", "episodes", "first", "last", "rounds_max", "tokens_max", "graded")
        rows = [dict(zip(names, row, strict=True)) for row in found]
        for row in rows:
            row |= {"steps": [row.pop("first"), row.pop("last")], "stops": stops.get(row["source"], {})}
        return {"sources": rows, "indexing": self.progress(run), "faults": self.faults(run)}

    def episodes(
        self,
        run: Run,
        *,
        text: str | None = None,
        sort: str = "-step",
        limit: int = 50,
        offset: int = 0,
        after: str | None = None,
        **filters: Any,
    ) -> dict[str, Any]:
        """`/api/episodes`. A search in texts is by step, whatever else `sort` says; the answer's `sort` is its order.

        Args:
            filters: fields of `Filters`.

        Raises:
            ValueError: a filter, an order, a page or a token that is none.
        """
        started = monotonic()
        if not (1 <= limit <= MOST_ROWS and 0 <= offset < 2**62):
            raise ValueError(f"limit is {limit} and offset {offset}; limit may be 1 to {MOST_ROWS}, offset 0 or more")
        if text and len(text) > MOST_TEXT:
            raise ValueError(f"text has {len(text)} characters; it may have {MOST_TEXT}")
        ordered = order(sort)
        where, values = Filters(**filters).where(run.id)
        self.prepare(run)
        answer = {"indexing": self.progress(run), "faults": self.faults(run), "search": None, "sort": sort}
        if text:
            newest_first, deadline = sort != "step", started + self._seconds
            options = {"newest_first": newest_first, "limit": limit, "after": after, "deadline": deadline}
            answer |= self._search(run, (where, values), text, **options)
            answer["sort"] = "-step" if newest_first else "step"
        else:
            with self._cursor() as cursor:
                cursor.begin()  # count and page are of one moment
                total = cursor.execute(f"SELECT count(*) FROM episodes WHERE {where}", values).fetchone()[0]
                page = f"SELECT {', '.join(_COLUMNS)} FROM episodes WHERE {where} ORDER BY {ordered} LIMIT ? OFFSET ?"
                found = cursor.execute(page, [*values, limit, offset]).fetchall()
                cursor.commit()
            answer |= {"rows": self._rows(run, found), "total": total}
        return answer | {"ms": round(1000 * (monotonic() - started))}

    def _search(self, run: Run, condition: tuple[str, list[Any]], text: str, **options: Any) -> dict[str, Any]:
        where, values = condition
        files = self._ingest.files(run.id)  # before the rows: a file that is replaced meanwhile is left out
        with self._cursor() as cursor:
            table = cursor.execute(f"SELECT file, row, step FROM episodes WHERE {where}", values).fetchnumpy()
        page = search_page(files, table, text, pool=self._pool, ahead=self._ahead, **options)
        if page.faults:
            self.refresh(run)
        return {
            "rows": self._hits(run, page.hits),
            "total": page.total,
            "search": page.progress,
            "faults": self.faults(run) + page.faults,
        }

    def _hits(self, run: Run, hits: list[Hit]) -> list[dict[str, Any]]:
        found = self.query(
            f"SELECT {', '.join(_COLUMNS)} FROM episodes WHERE file IN (SELECT unnest(?::INTEGER[])) "
            "AND row IN (SELECT unnest(?::INTEGER[]))",
            [sorted({hit.number for hit in hits}), sorted({hit.row for hit in hits})],
        )
        by_place = {row[-2:]: row for row in found}
        known = [hit for hit in hits if (hit.number, hit.row) in by_place]
        rows = self._rows(run, [by_place[hit.number, hit.row] for hit in known])
        return [row | {"snippet": hit.snippet} for row, hit in zip(rows, known, strict=True)]

    def _rows(self, run: Run, found: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """Rows of a page, as the API gives them."""
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in found]
        questions = self.texts("questions", [row["question"] for row in rows])
        texts = self.texts("texts", [row[name] for row in rows for name in ("answer", "error")])
        return [
            {
                "run": run.id,
                "source": row["source"],
                "step": row["step"],
                "episode": row["episode"],
                "group": row["grp"],
                "qid": question_id(row["question"]),
                "question": " ".join(plain_question(questions[row["question"]]).split())[:_SHOWN],
                "answer": texts.get(row["answer"]),
                "stop_reason": row["stop"],
                "error": texts.get(row["error"]),
                **{
                    name: row[name]
                    for name in ("rounds", "tokens", "peak", "reward", "advantage", "correct", "seconds")
                },
                "snippet": None,
            }
            for row in rows
        ]

    def texts(self, table: str, ids: Sequence[int | None]) -> dict[int, str]:
        """Texts of `questions` or `texts` by their ids."""
        wanted = sorted({id for id in ids if id is not None})
        return dict(self.query(f"SELECT id, text FROM {table} WHERE id IN (SELECT unnest(?::UBIGINT[]))", [wanted]))

    def question(self, run: Run, qid: str) -> dict[str, Any]:
        """`/api/question`: what became of one question, step by step, oldest first.

        Raises:
            NotThere: the run never asked it.
        """
        number = question_number(qid)
        self.prepare(run)
        names = ("source", "step", "group", "episodes", "right", "graded", "tokens_mean", "rounds_mean", "reward_mean")
        found = self.query(
            "SELECT source, step, grp, count(*), count(*) FILTER (correct >= 0.5), count(correct), avg(tokens), "
            "avg(rounds), avg(reward), any_value(answer) FROM episodes WHERE run = ? AND question = ? "
            "GROUP BY source, step, grp ORDER BY starts_with(source, 'eval/'), step, source, grp",
            [run.id, number],
        )
        if not found:
            raise NotThere(f"{run.id} has no question {qid}")
        text, answer = self.texts("questions", [number])[number], found[-1][-1]
        return {
            "question": render(plain_question(text)),
            "answer": self.texts("texts", [answer]).get(answer),
            "steps": [dict(zip(names, row, strict=False)) for row in found],
        }


def _logged(run: Run) -> float:
    """When a run wrote its last log."""
    try:
        return run.curves.path.stat().st_mtime
    except OSError:
        return 0.0
