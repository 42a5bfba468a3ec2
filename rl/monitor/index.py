"""All episodes of the requested runs as one table in memory, so that a filter over a million episodes is fast."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import count
from time import monotonic
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from rl.monitor.episode_files import EpisodeFile, EpisodeReader, Unreadable, list_files
from rl.monitor.filters import question_id
from rl.monitor.runs import Run
from rl.monitor.texts import plain_question

_TABLES = """
CREATE TABLE episodes (
    run VARCHAR, source VARCHAR, file INTEGER, row INTEGER, step INTEGER, episode INTEGER, "group" VARCHAR,
    question UBIGINT, answer VARCHAR, stop_reason VARCHAR, error VARCHAR, rounds INTEGER, tokens INTEGER, peak INTEGER,
    seconds DOUBLE, reward DOUBLE, advantage DOUBLE, correct DOUBLE
);
CREATE TABLE questions (id UBIGINT, plain VARCHAR, folded VARCHAR);
"""
_FINITE = ", ".join(f"if(isfinite({n}), {n}, NULL) AS {n}" for n in ("seconds", "reward", "advantage", "correct"))
_TAKE = f"""
INSERT INTO episodes BY NAME
SELECT run, source, file, file_row_number AS row, step, episode, "group", texts.id AS question, answer,
    coalesce(stop_reason, 'unknown') AS stop_reason, error, num_rounds AS rounds, num_tokens AS tokens,
    peak_context AS peak, {_FINITE}
FROM part JOIN files USING (filename) JOIN texts USING (question)
"""
_ANSWER = 0.5  # seconds of a request that may be spent on indexing files
_LOOK_EVERY = 1.0  # seconds between two listings of a run's folder
_FIRST, _BATCH = 4, 64  # files indexed at once: few at first, so that results appear soon
_MOST_FAULTS = 20  # listed in a response
_MOST_SHOWN = 200  # characters of a question in a table


@dataclass
class _Files:
    """State of one run's files. Its dicts are replaced, never mutated: other threads read them meanwhile."""

    listed: dict[str, EpisodeFile] = field(default_factory=dict)
    held: dict[str, tuple[int, EpisodeFile]] = field(default_factory=dict)  # name -> number in the table, file
    faults: dict[str, tuple[EpisodeFile, str]] = field(default_factory=dict)  # name -> file, reason
    trouble: str | None = None  # why the folder can't be listed
    looked: float = -1e9

    def waiting(self) -> list[EpisodeFile]:
        """Returns new and changed files, newest first."""
        known = {name: file.stamp for name, (_, file) in self.held.items()}
        known |= {name: file.stamp for name, (file, _) in self.faults.items()}
        new = [file for name, file in self.listed.items() if known.get(name) != file.stamp]
        return sorted(new, key=lambda file: file.newest, reverse=True)


class EpisodeIndex:
    """Episodes of runs, kept up to date with their files. Thread-safe.

    Each request first indexes files for a short time (`load`), newest first.

    Args:
        memory: limit of the table and the queries over it.
        most: limit of indexed episodes, the newest of each run first. A million take about 100 MB.
        threads: for reading files and searching, and for the database.
        seconds: time limit of one text search.
    """

    def __init__(self, memory: str = "1GB", most: int = 5_000_000, threads: int = 2, seconds: float = 0.7):
        settings = {"memory_limit": memory, "threads": threads, "temp_directory": ""}
        extensions = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        self._db = duckdb.connect(":memory:", config=settings | extensions)
        self._db.execute("SET enable_external_access = false")  # no query can reach a file or a URL
        self._db.execute(_TABLES)
        self._reader = EpisodeReader(memory, threads)
        self.pool, self.seconds = ThreadPoolExecutor(threads, "episode search"), seconds
        self._most, self._size = most, 0
        self._runs: dict[str, _Files] = {}
        self._numbers = count()
        self._writing = threading.Lock()

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        with self._writing:
            self._reader.close()
            self._db.close()

    def __enter__(self) -> EpisodeIndex:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def load(self, run: Run, seconds: float = _ANSWER, every: float = _LOOK_EVERY) -> None:
        """Indexes new files of a run, newest first, and drops those that are gone.

        Args:
            seconds: after which no further files are started; also the timeout for another thread that is indexing.
            every: seconds for which a listing of the folder stays valid.
        """
        until = monotonic() + seconds
        if not self._writing.acquire(timeout=seconds):
            return
        try:
            files = self._runs.setdefault(run.id, _Files())
            if monotonic() - files.looked >= every:
                self._look(run, files)
            size = _BATCH if files.held else _FIRST
            while waiting := files.waiting():
                self._take(run, files, waiting[:size])
                if monotonic() >= until:
                    break
                size = _BATCH
        finally:
            self._writing.release()

    def _look(self, run: Run, files: _Files) -> None:
        files.looked = monotonic()
        try:
            files.listed, files.trouble = list_files(run.folder), None
        except FileNotFoundError:
            return  # the whole run is gone: its indexed episodes stay
        except OSError as error:
            files.trouble = f"can't be listed: {error.strerror or error}"
            return
        gone = {name for name in {**files.held, **files.faults} if name not in files.listed}
        if gone:
            self._write(run, files, [file for name, (_, file) in files.held.items() if name in gone], None)
            files.faults = {name: fault for name, fault in files.faults.items() if name not in gone}

    def _take(self, run: Run, files: _Files, new: list[EpisodeFile]) -> None:
        """Adds the rows of these files to the table. Unreadable files are recorded as faults, the others are added."""
        whole = [file for file in new if not file.fault]
        faults = {file.name: (file, file.fault) for file in new if file.fault}
        try:
            if whole and self._size >= self._most:
                raise Unreadable(f"is not indexed: the index is full ({self._size} episodes)")
            part = self._reader.scalars([file.path for file in whole]) if whole else None
            self._write(run, files, new, part)
        except (Unreadable, duckdb.Error) as error:
            if len(new) > 1:
                for half in (new[: len(new) // 2], new[len(new) // 2 :]):
                    self._take(run, files, half)
                return
            self._write(run, files, new, None)
            reason = str(error) if isinstance(error, Unreadable) else f"can't be indexed: {error}"
            faults = {new[0].name: (new[0], f"{' '.join(reason.split()):.200}")}
        files.faults = {n: fault for n, fault in files.faults.items() if n not in {f.name for f in new}} | faults

    def _write(self, run: Run, files: _Files, old: list[EpisodeFile], part: pa.Table | None) -> None:
        """Drops rows of old versions and adds the new ones in one transaction: no reader sees half a file.

        Args:
            old: files whose rows are dropped.
            part: result of `EpisodeReader.scalars` for some of them; None: nothing is added.
        """
        names = {file.name for file in old}
        numbers = [number for name, (number, _) in files.held.items() if name in names]
        added = {}
        with self._db.cursor() as db:
            db.begin()
            deleted = "DELETE FROM episodes WHERE list_contains(?::INTEGER[], file)"
            dropped = db.execute(deleted, [numbers]).fetchone()[0] if numbers else 0
            if part is not None:
                added = {file.name: (next(self._numbers), file) for file in old if not file.fault}
                self._insert(db, run, part, added)
            db.commit()
        self._size += (len(part) if part is not None else 0) - dropped
        files.held = {name: held for name, held in files.held.items() if name not in names} | added

    def _insert(
        self, db: duckdb.DuckDBPyConnection, run: Run, part: pa.Table, added: dict[str, tuple[int, EpisodeFile]]
    ) -> None:
        held = added.values()
        texts = pc.unique(part.column("question")).to_pylist()
        plain = [plain_question(text) for text in texts]
        tables = {
            "part": part,
            "files": {
                "filename": [str(file.path) for _, file in held], "source": [file.source for _, file in held],
                "file": [number for number, _ in held], "run": [run.id] * len(added),
            },
            "texts": {
                "question": texts, "id": pa.array(map(text_id, texts), pa.uint64()), "plain": plain,
                "folded": [text.casefold() for text in plain],
            },
        }  # fmt: skip
        for name, columns in tables.items():
            db.register(name, columns if name == "part" else pa.table(columns))
        db.execute("INSERT INTO questions BY NAME SELECT id, plain, folded FROM texts ANTI JOIN questions USING (id)")
        db.execute(_TAKE)

    def progress(self, run: Run) -> dict[str, int]:
        """Returns `{"files", "of"}`: files that were indexed or found faulty, out of all."""
        files = self._runs.get(run.id, _Files())
        return {"files": len(files.listed) - len(files.waiting()), "of": len(files.listed)}

    def faults(self, run: Run) -> list[dict[str, str]]:
        """Returns `{"file", "reason"}` of each file that yields no episodes, newest first."""
        files = self._runs.get(run.id, _Files())
        found = sorted(files.faults.items(), key=lambda item: item[1][0].newest, reverse=True)
        known = [{"file": name, "reason": reason} for name, (_, reason) in found[:_MOST_FAULTS]]
        if len(found) > len(known):
            known.append({"file": f"{len(found) - len(known)} more files", "reason": "older than those above"})
        return [{"file": "episodes", "reason": files.trouble}, *known] if files.trouble else known

    def files(self, run: Run) -> dict[int, EpisodeFile]:
        """Returns the files in the table by file number."""
        return dict(self._runs.get(run.id, _Files()).held.values())

    def read(self, file: EpisodeFile, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns complete rows of a file. Raises Unreadable."""
        return self._reader.rows(file.path, rows)

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields a separate connection. Raises ValueError for a value that no episode could have."""
        try:
            with self._db.cursor() as cursor:
                yield cursor
        except (duckdb.ConversionException, duckdb.InvalidInputException, OverflowError) as error:
            raise ValueError(f"no episode could have that value ({' '.join(str(error).split()):.120})") from None
        except duckdb.OutOfMemoryException:
            raise ValueError("the episodes of all these runs need more memory than the index's limit") from None

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Returns the rows of a query over the tables `episodes` and `questions`, keyed by column name."""
        with self.cursor() as cursor:
            return dicts(cursor.execute(sql, values))

    def plain(self, questions: Sequence[int]) -> dict[int, str]:
        """Returns the plain texts of questions by id."""
        found = self.query("SELECT id, plain FROM questions WHERE list_contains(?::UBIGINT[], id)", [list(questions)])
        return {row["id"]: row["plain"] for row in found}

    def name_questions(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replaces each row's question number with `qid` and the start of the question's text."""
        texts = self.plain([row["question"] for row in rows])
        for row in rows:
            number = row["question"]
            row |= {"qid": question_id(number), "question": " ".join(texts[number].split())[:_MOST_SHOWN]}
        return rows


def text_id(text: str) -> int:
    """Returns a number for a text that is the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def dicts(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Returns the rows of a result, keyed by column name."""
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
