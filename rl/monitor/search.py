"""Text in what episodes wrote: reads the texts of the rounds and nothing else, file by file, until its time is up."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from time import monotonic

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rl.monitor.episode_files import EpisodeFile, Unreadable, opened, row_group_starts, stamp_of, text_column

_MOST_BYTES = 8_000_000  # of texts that are looked at between two looks at the clock
_AROUND = 80  # characters of a snippet on either side of what was found


@dataclass(frozen=True)
class Candidates:
    """Rows of a file that may hold the text."""

    number: int  # of the file in the index
    file: EpisodeFile
    rows: np.ndarray  # ascending


@dataclass(frozen=True)
class Hit:
    number: int  # of the file
    row: int
    snippet: str


@dataclass
class Found:
    """What a search came to in its time."""

    hits: list[Hit] = field(default_factory=list)
    stopped: tuple[Candidates, int] | None = None  # the last file and row that were searched; None: all were
    faults: list[dict[str, str]] = field(default_factory=list)


def search(
    files: Sequence[Candidates], text: str, limit: int, deadline: float, pool: ThreadPoolExecutor, ahead: int = 4
) -> Found:
    """Looks for `text`, whatever its case, in the order of `files`.

    Args:
        limit: hits (episodes) to stop at.
        deadline: a time of `monotonic` to stop at; some rows are searched in any case, so that a search gets on.
        ahead: files that the pool has at a time.
    """
    found, enough = Found(), threading.Event()
    waiting = iter(files)

    def start(candidates: Candidates) -> tuple[Candidates, object]:
        return candidates, pool.submit(_search_file, candidates, text, limit, deadline, enough)

    running = deque(start(candidates) for candidates in islice(waiting, ahead))
    try:
        while running:
            candidates, future = running.popleft()
            hits, last, fault = future.result()
            taken = hits[: limit - len(found.hits)]
            found.hits += taken
            if fault:
                found.faults.append({"file": candidates.file.name, "reason": fault})
            if len(found.hits) == limit:
                last = taken[-1].row if taken else last
            if last < candidates.rows[-1] or ((len(found.hits) == limit or monotonic() > deadline) and running):
                found.stopped = (candidates, last)
                return found
            running.extend(start(following) for following in islice(waiting, 1))
    finally:
        enough.set()
        for _, future in running:
            future.cancel()
    return found


def _search_file(
    candidates: Candidates, text: str, limit: int, deadline: float, enough: threading.Event
) -> tuple[list[Hit], int, str | None]:
    """Hits, the last row that was searched, and why the file could not be read."""
    hits: list[Hit] = []
    last, rows = -1, candidates.rows
    try:
        with opened(candidates.file.path) as file:
            if stamp_of(os.stat(candidates.file.path)) != candidates.file.stamp:
                raise Unreadable("has changed since it was indexed; search again")
            leaf = text_column(file)
            for groups, numbers in _batches(file, leaf, rows) if leaf else ():
                if last >= 0 and (enough.is_set() or monotonic() > deadline or len(hits) >= limit):
                    return hits, last, None
                column = file.read_row_groups(groups, columns=[leaf], use_threads=False).column(0)
                hits += _matches(candidates, column, numbers, text, limit - len(hits))
                last = int(numbers[-1])
    except Unreadable as error:
        return [], int(rows[-1]), str(error)
    return hits, int(rows[-1]) if len(hits) < limit else max(last, hits[-1].row), None


def _batches(file: pq.ParquetFile, leaf: str, rows: np.ndarray) -> list[tuple[list[int], np.ndarray]]:
    """Row groups with candidates, as many as are read at once, and the numbers of all their rows."""
    place = next(i for i in range(len(file.schema)) if file.schema.column(i).path == leaf)
    starts = row_group_starts(file)
    held = np.diff(np.searchsorted(rows, starts))
    batches: list[tuple[list[int], list[np.ndarray]]] = []
    size = _MOST_BYTES
    for group in np.flatnonzero(held).tolist():
        size += file.metadata.row_group(group).column(place).total_uncompressed_size
        if size > _MOST_BYTES:
            batches.append(([], []))
            size = file.metadata.row_group(group).column(place).total_uncompressed_size
        batches[-1][0].append(group)
        batches[-1][1].append(np.arange(starts[group], starts[group + 1]))
    return [(groups, np.concatenate(numbers)) for groups, numbers in batches]


def _matches(candidates: Candidates, column: pa.ChunkedArray, numbers: np.ndarray, text: str, limit: int) -> list[Hit]:
    """Hits in a column of lists of rounds, whose rows have these numbers; one an episode."""
    hits: list[Hit] = []
    done = 0
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        texts = pc.struct_field(chunk.flatten(), [0])
        places = pc.indices_nonzero(pc.match_substring(texts, text, ignore_case=True)).to_numpy()
        owners = np.searchsorted(offsets - offsets[0], places, side="right") - 1
        owners, first = np.unique(owners, return_index=True)
        for row, place in zip(numbers[done + owners].tolist(), places[first].tolist(), strict=True):
            if _holds(candidates.rows, row):
                hits.append(Hit(candidates.number, row, snippet(texts[place].as_py(), text)))
                if len(hits) == limit:
                    return hits
        done += len(chunk)
    return hits


def _holds(rows: np.ndarray, row: int) -> bool:
    place = np.searchsorted(rows, row)
    return place < len(rows) and rows[place] == row


def snippet(text: str, wanted: str) -> str:
    """What stands around the first place of `wanted`, in one line."""
    match = re.search(re.escape(wanted), text, re.IGNORECASE)
    start, end = match.span() if match else (0, 0)
    before, after = max(0, start - _AROUND), end + _AROUND
    inner = " ".join(text[before:after].split())
    return f"{'… ' if before else ''}{inner}{' …' if after < len(text) else ''}"
