"""Files of episodes as a monitor meets them: which a run has, and their columns without the rounds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.store import STEP_FILE

_WHOLE, _REAL, _TEXT = pa.int32(), pa.float64(), pa.string()
SCALARS = {
    "step": _WHOLE, "episode": _WHOLE, "group": _TEXT, "question": _TEXT, "answer": _TEXT, "stop_reason": _TEXT,
    "error": _TEXT, "num_rounds": _WHOLE, "num_tokens": _WHOLE, "peak_context": _WHOLE, "seconds": _REAL,
    "reward": _REAL, "advantage": _REAL, "correct": _REAL,
}  # fmt: skip
"""What is read of every episode at once, by the names of `rollout/store.py`."""

MOST_ROWS = 1 << 20
"""Episodes of one file; a step has fewer."""
MOST_TEXT = 1 << 30
"""Bytes of a file's questions and answers, unpacked: a text that is written once can stand for a million."""

_NEEDED = ("step", "episode", "group", "question", "num_rounds", "num_tokens")


class Unreadable(ValueError):
    """Why a file gives no episodes, in one line."""


@dataclass(frozen=True)
class EpisodeFile:
    """A file as a folder's listing shows it."""

    name: str  # below the run's folder
    path: Path
    source: str | None  # None: its name is none that a run gives
    newest: tuple[int, ...]  # the larger, the sooner it is read
    stamp: tuple[int, ...]  # size, last change, who may read it: when it is another, the file is read anew
    fault: str | None = None  # why it is not read


def list_files(folder: Path) -> dict[str, EpisodeFile]:
    """A run's files of episodes by name.

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
            except OSError:  # deleted, or a link to nothing
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
                fault = "is no regular file"
            elif source is None:
                fault = "is named neither train_<number> nor eval_<number>"
            found[name] = EpisodeFile(name, path, source, newest, stamp_of(status), fault)
    return found


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_mode, status.st_uid


@contextmanager
def opened(path: Path, packed: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """A parquet file; whatever goes wrong while it is read becomes `Unreadable`. `packed`: columns of texts that are
    read as a dictionary, each text once.

    Not mapped into memory: a file that shrinks while it is copied would end the process.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would wait for ever
            raise Unreadable("is no regular file")
        columns = pq.read_metadata(path).schema if packed else ()
        texts = [column.path for column in columns if column.logical_type.type == "STRING" and column.path in packed]
        with pq.ParquetFile(path, pre_buffer=False, read_dictionary=texts) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise Unreadable(f"has {file.metadata.num_rows} rows, more than the {MOST_ROWS} that are read")
            yield file
    except FileNotFoundError:
        raise Unreadable("is gone") from None
    except PermissionError:
        raise Unreadable("may not be read by this user") from None
    except UnicodeEncodeError:  # Arrow takes no other names
        raise Unreadable("lies at a path whose name is not UTF-8: rename it") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise Unreadable(f"is half-written, damaged or no parquet file ({reason:.120})") from None


def read_scalars(path: Path) -> pa.Table:
    """The columns of `SCALARS`, null where an old file lacks one."""
    with opened(path, packed=[name for name, kind in SCALARS.items() if kind == _TEXT]) as file:
        names = set(file.schema_arrow.names)
        missing = [name for name in (*_NEEDED, "rounds") if name not in names]
        if missing:
            raise Unreadable(f"is no file of episodes: it has no column {missing[0]!r}")
        table = file.read(columns=[name for name in SCALARS if name in names], use_threads=False)
        texts = sum(map(_unpacked, table.columns))
        if texts > MOST_TEXT:
            raise Unreadable(f"holds {texts} bytes of questions and answers, more than the {MOST_TEXT} that are read")
        columns = []
        for name, wanted in SCALARS.items():
            column = table.column(name) if name in names else pa.nulls(len(table), wanted)
            try:
                column = column if column.type == wanted else column.cast(wanted)
                column.validate(full=True)
            except pa.ArrowException:
                raise Unreadable(f"is no file of episodes: column {name!r} holds {column.type}") from None
            if name in _NEEDED and column.null_count:
                raise Unreadable(f"is no file of episodes: column {name!r} has empty places")
            columns.append(column)
        return pa.table(columns, names=list(SCALARS))


def _unpacked(column: pa.ChunkedArray) -> int:
    """Bytes that a column of texts has when each is written out."""
    packed = [chunk for chunk in column.chunks if pa.types.is_dictionary(chunk.type)]
    lengths = (pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() for chunk in packed)
    return sum(length or 0 for length in lengths)


def text_column(file: pq.ParquetFile) -> str | None:
    """Path of the rounds' texts among a file's leaves; None where no episode has a round."""
    paths = (file.schema.column(place).path for place in range(len(file.schema)))
    return next((path for path in paths if path.startswith("rounds.") and path.endswith(".text")), None)


def row_group_starts(file: pq.ParquetFile) -> list[int]:
    """Row that each row group starts with, and the number of all rows."""
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return starts
