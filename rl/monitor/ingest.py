"""Takes files of episodes into the index's tables, in the background, newest first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic

import duckdb
import pyarrow as pa

from rl.monitor.episode_files import EpisodeFile, list_files
from rl.monitor.tables import TABLES, Rows, read_file
from rl.monitor.texts import plain_question

_MOST_FAULTS = 20  # that an answer names
_FIRST, _BATCH = 4, 16  # files that are taken in at once: few at first, so that there is soon something to see


@dataclass
class _Files:
    """What is known of one run's files."""

    listed: dict[str, EpisodeFile] = field(default_factory=dict)
    held: dict[str, tuple[int, EpisodeFile]] = field(default_factory=dict)  # name -> number in the table, file
    faults: dict[str, tuple[EpisodeFile, str]] = field(default_factory=dict)  # name -> file, reason
    busy: dict[str, EpisodeFile] = field(default_factory=dict)  # those that are being read
    queue: list[EpisodeFile] = field(default_factory=list)  # the others that wait, newest last
    gone: list[str] = field(default_factory=list)  # deleted, and not yet dropped
    trouble: str | None = None  # why the folder can't be listed
    looked: float = -1e9

    def compare(self, listed: dict[str, EpisodeFile]) -> None:
        """Works out what a new listing asks for."""
        self.listed = listed
        for name, file in listed.items():
            if file.fault:
                self.faults[name] = (file, file.fault)
        waiting = [file for name, file in listed.items() if file.stamp not in self._stamps(name)]
        self.queue = sorted(waiting, key=lambda file: file.newest)
        self.gone = [name for name in {**self.held, **self.faults} if name not in listed]

    def _stamps(self, name: str) -> set[tuple[int, ...]]:
        """Of a file's versions that need not be read (again)."""
        known = (self.busy.get(name), self.held.get(name, (0, None))[1], self.faults.get(name, (None, ""))[0])
        return {file.stamp for file in known if file}

    def is_done(self) -> bool:
        return not (self.queue or self.busy or self.gone)


@dataclass(frozen=True)
class _Batch:
    """Files that are being read, and names of files to drop."""

    files: _Files
    gone: list[str]
    chosen: list[tuple[int, EpisodeFile]]
    results: Iterator[Rows | str]  # in the order of `chosen`


class Ingest:
    """One thread that writes the tables, with a few that read files. Methods may be called from any thread."""

    def __init__(self, db: duckdb.DuckDBPyConnection, readers: int, most: int):
        self._db = db.cursor()
        self._most, self._size = most, 0  # episodes
        self._db.execute(TABLES)
        self._readers = readers
        self._runs: dict[str, _Files] = {}
        self._numbers = count()
        self._known: dict[str, set[int]] = {"questions": set(), "texts": set()}
        self._change = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def look(self, run: str, folder: Path, every: float = 0.0) -> None:
        """Lists a run's files, unless that was done `every` seconds ago. What is new is taken in soon after."""
        with self._change:
            files = self._runs.setdefault(run, _Files())
            now = monotonic()
            if now - files.looked < every:
                return
            files.looked = now
        try:
            listed, trouble = list_files(folder), None
        except FileNotFoundError:
            return  # the whole run is gone: what was read of it stays
        except OSError as error:
            listed, trouble = None, f"can't be listed: {error.strerror or error}"
        with self._change:
            files.trouble = trouble
            if listed is not None:
                files.compare(listed)
            if not self._stopped and not files.is_done():
                self._start()
                self._change.notify_all()

    def progress(self, run: str) -> dict[str, int]:
        """Files that were taken in or found faulty, of all."""
        with self._change:
            files = self._runs.get(run, _Files())
            waiting = {*files.busy, *(file.name for file in files.queue)}
            return {"files": len(files.listed) - len(waiting & files.listed.keys()), "of": len(files.listed)}

    def faults(self, run: str) -> list[dict[str, str]]:
        """Files that give no episodes, or folders that can't be listed, and why."""
        with self._change:
            files = self._runs.get(run, _Files())
            names = sorted(files.faults, key=lambda name: files.faults[name][0].newest, reverse=True)
            known = [{"file": name, "reason": files.faults[name][1]} for name in names[:_MOST_FAULTS]]
            if len(names) > len(known):
                known.append({"file": f"{len(names) - len(known)} more files", "reason": "older than those above"})
            return [{"file": "episodes", "reason": files.trouble}, *known] if files.trouble else known

    def files(self, run: str) -> dict[int, EpisodeFile]:
        """The files in the table by their numbers there."""
        with self._change:
            return dict(self._runs.get(run, _Files()).held.values())

    def wait(self, run: str, seconds: float, for_all: bool = True) -> bool:
        """Waits until all files of a run are taken in, or else any. Returns whether they are."""

        def enough() -> bool:
            files = self._runs.get(run, _Files())
            return self._stopped or (bool(files.held) and not for_all) or files.is_done()

        with self._change:
            return self._change.wait_for(enough, seconds)

    def stop(self) -> None:
        with self._change:
            self._stopped = True
            self._change.notify_all()
        if self._thread:
            self._thread.join()
        self._db.close()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="episode index", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        reading: _Batch | None = None
        with ThreadPoolExecutor(self._readers, "episode reader") as pool:
            while True:
                with self._change:
                    self._change.wait_for(lambda busy=reading: self._stopped or busy or self._next())
                    if self._stopped:
                        return
                    following = self._claim(pool)
                if reading:  # while its rows are written, the next files are read
                    self._take(reading)
                reading = following

    def _claim(self, pool: ThreadPoolExecutor) -> _Batch | None:
        """Starts to read the next files."""
        run = self._next()
        if run is None:
            return None
        files = self._runs[run]
        gone, files.gone = files.gone, []
        size = min(_BATCH if files.held else _FIRST, len(files.queue))
        chosen = [(next(self._numbers), files.queue.pop()) for _ in range(size)]
        files.busy |= {file.name: file for _, file in chosen}
        if self._size >= self._most:
            results = iter([f"is left out: the index is full, at {self._size} episodes"] * size)
        else:
            results = pool.map(lambda one: read_file(run, *one), chosen)
        return _Batch(files, gone, chosen, results)

    def _next(self) -> str | None:
        """The run that was looked at last, of those with work."""
        waiting = [(files.looked, run) for run, files in self._runs.items() if files.queue or files.gone]
        return max(waiting, default=(0.0, None))[1]

    def _take(self, batch: _Batch) -> None:
        """Writes what was read of a batch."""
        read = [(*one, result) for one, result in zip(batch.chosen, batch.results, strict=True)]
        files, gone = batch.files, batch.gone
        try:
            self._write(files, gone, read)
        except Exception:  # one of the files is to blame: the others go in without it
            for names, one in (gone, []), *(([], [one]) for one in read):
                try:
                    self._write(files, names, one)
                except Exception as error:
                    reason = f"can't be indexed: {' '.join(str(error).split()):.120}"
                    with self._change:
                        files.faults |= {file.name: (file, reason) for _, file, _ in one}
        with self._change:
            for _, file in batch.chosen:
                if files.busy.get(file.name) is file:
                    del files.busy[file.name]
            self._change.notify_all()

    def _write(self, files: _Files, gone: list[str], read: list[tuple[int, EpisodeFile, Rows | str]]) -> None:
        """Drops and adds in one transaction: no reader sees a file twice, or half of it."""
        names = [*gone, *(file.name for _, file, _ in read)]
        old = [files.held[name][0] for name in names if name in files.held]
        self._db.begin()
        try:
            size = self._size
            if old:
                sql = "DELETE FROM episodes WHERE file IN (SELECT unnest(?::INTEGER[]))"
                size -= self._db.execute(sql, [old]).fetchone()[0]
            good = [rows for _, _, rows in read if not isinstance(rows, str)]
            new = self._insert(good)
            self._db.commit()
        except Exception:
            self._db.rollback()
            raise
        self._size = size + sum(len(rows) for rows, _ in good)
        for name, ids in new.items():
            self._known[name] |= ids
        with self._change:
            for name in gone:
                files.held.pop(name, None)
                files.faults.pop(name, None)
            for number, file, result in read:
                if isinstance(result, str):
                    files.faults[file.name] = (file, result)
                    files.held.pop(file.name, None)
                else:
                    files.faults.pop(file.name, None)
                    files.held[file.name] = (number, file)

    def _insert(self, read: list[Rows]) -> dict[str, set[int]]:
        """Returns the ids of the texts that were not there."""
        added = {}
        for name, known in self._known.items():
            new = {id: text for _, texts in read for id, text in texts[name].items() if id not in known}
            columns = {"id": pa.array(list(new), pa.uint64()), "text": pa.array(list(new.values()), pa.string())}
            if name == "questions":
                folded = [None if (plain := plain_question(t).casefold()) == t else plain for t in new.values()]
                columns["folded"] = pa.array(folded, pa.string())
            self._append(name, pa.table(columns))
            added[name] = set(new)
        if read:
            self._append("episodes", pa.concat_tables([rows for rows, _ in read]))
        return added

    def _append(self, name: str, table: pa.Table) -> None:
        if len(table):
            self._db.register("batch", table)
            self._db.execute(f"INSERT INTO {name} SELECT * FROM batch")
            self._db.unregister("batch")
