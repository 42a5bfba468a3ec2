"""Lists a run's episode files and reads their rows without trusting them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rollout.store import STEP_FILE

MOST_ROWS = 1 << 20
"""Episodes of one file; a step has fewer."""
MOST_TEXT = 1 << 30
"""Bytes of questions and answers, unpacked: a text that is stored once can be repeated a million times."""

_TEXTS = ("group", "question", "answer", "stop_reason", "error")
_SCALARS = {
    "step": "INTEGER NOT NULL", "episode": "INTEGER NOT NULL", "group": "VARCHAR NOT NULL",
    "question": "VARCHAR NOT NULL", "answer": "VARCHAR", "stop_reason": "VARCHAR", "error": "VARCHAR",
    "num_rounds": "INTEGER NOT NULL", "num_tokens": "INTEGER NOT NULL", "peak_context": "INTEGER",
    "seconds": "DOUBLE", "reward": "DOUBLE", "advantage": "DOUBLE", "correct": "DOUBLE",
    "filename": "VARCHAR", "file_row_number": "INTEGER",
}  # fmt: skip
"""The columns that are read for all episodes at once, named as in `rollout/store.py`; the last two are DuckDB's."""
_STORED = (
    "read_parquet(getvariable('paths'), union_by_name = true, filename = true, file_row_number = true, "
    "hive_partitioning = false)"
)


class Unreadable(ValueError):
    """The reason why a file yields no episodes, in one line."""


@dataclass(frozen=True)
class EpisodeFile:
    """An episode file, as a folder listing shows it."""

    name: str  # relative to the run's folder
    path: Path
    source: str | None  # "train", "eval", "eval/<stage>_<dataset>"; None: not a name that a run writes
    newest: tuple[int, ...]  # files with larger values are read first
    stamp: tuple[int, ...]  # size, mtime, mode, owner: if these change, the file is read again
    fault: str | None = None  # why it is not read


def list_files(folder: Path) -> dict[str, EpisodeFile]:
    """Returns a run's episode files by name.

    Raises:
        OSError: the run's folder is gone (FileNotFoundError), or a folder can't be listed.
    """
    os.stat(folder)
    root, found = folder.resolve(), {}
    for below in ("episodes", "eval/episodes"):
        try:
            with os.scandir(folder / below) as entries:
                listed = [entry for entry in entries if entry.name.endswith(".parquet")]
        except (FileNotFoundError, NotADirectoryError):  # not there yet
            continue
        for entry in listed:
            try:
                status = entry.stat()
            except OSError:  # deleted, or a dangling link
                continue
            match = STEP_FILE.match(entry.name)
            if below != "episodes":
                source, newest = f"eval/{entry.name.removesuffix('.parquet')}", (0,)
            else:
                source, newest = (match[1], (1, int(match[2]), int(match[3] or 0))) if match else (None, (0,))
            name = f"{below}/{entry.name}"
            path, fault = Path(entry.path), None
            if not path.resolve().is_relative_to(root):
                fault = "is a link that leads out of the run's folder"
            elif not stat.S_ISREG(status.st_mode):
                fault = "is not a regular file"
            elif source is None:
                fault = "is named neither train_<number> nor eval_<number>"
            found[name] = EpisodeFile(name, path, source, newest, stamp_of(status), fault)
    return found


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid


@contextmanager
def reading(paths: Sequence[Path]) -> Iterator[None]:
    """Turns any error while these files are read into `Unreadable`."""
    try:
        for path in paths:
            str(path).encode()
            if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would block
                raise Unreadable("is not a regular file")
        yield
    except FileNotFoundError:
        raise Unreadable("no longer exists") from None
    except PermissionError:
        raise Unreadable("is not readable by this user") from None
    except UnicodeEncodeError:  # the libraries accept only UTF-8 names
        raise Unreadable("has a path that is not UTF-8: rename it") from None
    except (duckdb.ConversionException, duckdb.ConstraintException, duckdb.BinderException) as error:
        raise Unreadable(f"is not a file of episodes ({_first_line(error)})") from None
    except duckdb.OutOfMemoryException:
        raise Unreadable("needs more memory than the reader's limit") from None
    except (duckdb.Error, pa.ArrowException, OSError, UnicodeError) as error:
        raise Unreadable(f"is half-written, damaged or not a parquet file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return f"{' '.join(str(error).partition('LINE ')[0].split()):.120}"


class EpisodeReader:
    """Reads parquet in its own database, so that a damaged file breaks nothing else. Thread-safe."""

    def __init__(self, memory: str = "1GB", threads: int = 2):
        self._config = {"memory_limit": memory, "threads": threads, "temp_directory": ""}
        self._config |= {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
        self._db = duckdb.connect(":memory:", config=self._config)

    @contextmanager
    def _open(self, paths: Sequence[Path]) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yields a cursor whose `_STORED` is the rows of these files."""
        with reading(paths):
            try:
                with self._db.cursor() as cursor:
                    patterns = [re.sub(r"[*?[]", r"[\g<0>]", str(path)) for path in paths]
                    cursor.execute("SET VARIABLE paths = ?", [patterns])
                    counted = "SELECT max(num_rows) FROM parquet_file_metadata(getvariable('paths'))"
                    [(rows,)] = cursor.execute(counted).fetchall()
                    if rows > MOST_ROWS:
                        raise Unreadable(f"has {rows} rows, more than the limit of {MOST_ROWS}")
                    yield cursor
            except (duckdb.InternalException, duckdb.FatalException):  # after these a database is unusable
                self._db = duckdb.connect(":memory:", config=self._config)
                raise

    def scalars(self, paths: Sequence[Path]) -> pa.Table:
        """Returns the columns of `_SCALARS`; null if an old file does not have one.

        Raises:
            Unreadable: one of the files can't be read, or is not an episode file.
        """
        with self._open(paths) as db:
            sizes = db.execute(f"SELECT sum(strlen(COLUMNS(lambda c: c IN {_TEXTS}))) FROM {_STORED}").fetchall()
            size = sum(filter(None, sizes[0]))
            if size > MOST_TEXT:
                raise Unreadable(f"has {size} bytes of questions and answers, more than the limit of {MOST_TEXT}")
            columns = ", ".join(f'"{name}" {kind}' for name, kind in _SCALARS.items())
            db.execute(f"CREATE TEMP TABLE part ({columns})")
            db.execute(f"INSERT INTO part BY NAME SELECT COLUMNS(lambda c: c IN {tuple(_SCALARS)}) FROM {_STORED}")
            return db.sql("FROM part").to_arrow_table()

    def rows(self, path: Path, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns complete rows of a file by row number.

        Raises:
            Unreadable: the file is damaged, or has too few rows.
        """
        with self._open([path]) as db:
            wanted = f"FROM {_STORED} WHERE file_row_number IN ({', '.join(map(str, rows))}) ORDER BY file_row_number"
            found = db.sql(wanted).to_arrow_table().to_pylist()
        if len(found) < len(set(rows)):
            raise Unreadable("has changed since it was indexed; try again")
        for row in found:
            rounds = row.get("rounds")
            row["rounds"] = [item for item in rounds if isinstance(item, dict)] if isinstance(rounds, list) else []
        return found

    def close(self) -> None:
        self._db.close()
