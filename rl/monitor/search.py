"""Text search in the outputs of episodes: reads only the texts of the rounds, file by file, until a timeout.

DuckDB would also read token ids and logprobs, many times as much data; pyarrow reads one leaf of a nested column.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rl.monitor.episode_files import EpisodeFile, Unreadable, reading, stamp_of
from rl.monitor.filters import EpisodeQuery

_AT_ONCE = 4  # files between two checks of the deadline
_AROUND = 80  # characters of a snippet on either side of the match

_Key = tuple[int, str, str]
"""Step, source and name of a file: its place in the order of a search. The same after a restart."""
Hit = tuple[int, int, str]
"""Number of the file, row, snippet."""


@dataclass
class Found:
    """One response of a search."""

    hits: list[Hit] = field(default_factory=list)
    total: int | None = None  # hits of this page and earlier ones; None while there is more to search
    progress: dict[str, Any] = field(default_factory=dict)  # episodes `searched`, `of` all, and the token `after`
    faults: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """Rows of a file that may contain the text."""

    key: _Key
    number: int
    file: EpisodeFile
    rows: np.ndarray  # ascending


def search(
    files: dict[int, EpisodeFile],
    table: dict[str, np.ndarray],
    query: EpisodeQuery,
    deadline: float,
    pool: ThreadPoolExecutor,
) -> Found:
    """Searches episodes in step order, and by row within a file.

    Args:
        files: files of the index by number.
        table: `file`, `row` and `step` of the episodes that may contain the text.
        query: `text`, `limit`, `after` (the previous page's token) and the direction of `sort`.
        deadline: `monotonic` time to stop at; some rows are always searched, so that a search makes progress.

    Raises:
        ValueError: the token is invalid.
    """
    places = sorted(_places(files, table), key=lambda place: _rank(place.key, query))
    of, before, token = sum(len(place.rows) for place in places), 0, None
    if query.after:
        key, row, before = _read_token(query.after)
        later = [place for place in places if _rank(place.key, query) >= _rank(key, query)]
        rest = [replace(p, rows=p.rows[p.rows > row]) if p.key == key else p for p in later]
        places = [place for place in rest if len(place.rows)]
    found, left = Found(), sum(len(place.rows) for place in places)
    for start in range(0, len(places), _AT_ONCE):
        chunk = places[start : start + _AT_ONCE]
        for place, (hits, last, fault) in zip(chunk, pool.map(_Job(query, deadline), chunk), strict=True):
            if fault:
                found.faults.append({"file": place.file.name, "reason": fault})
            room = query.limit - len(found.hits)
            found.hits += hits[:room]
            if len(hits) >= room:
                last = found.hits[-1][1]
            left -= int(np.searchsorted(place.rows, last, side="right"))
            is_over = len(found.hits) == query.limit or last < place.rows[-1]
            if left and (is_over or (place is chunk[-1] and monotonic() > deadline)):
                token = _token(place.key, last, before + len(found.hits))
                break
        if token:
            break
    found.total = None if token else before + len(found.hits)
    found.progress = {"searched": of - left, "of": of, "after": token}
    return found


def _rank(key: _Key, query: EpisodeQuery) -> _Key:
    return (key[0] if query.sort == "step" else -key[0], *key[1:])


def _places(files: dict[int, EpisodeFile], table: dict[str, np.ndarray]) -> Iterator[_Place]:
    order = np.lexsort((table["row"], table["file"]))
    numbers, rows, steps = (table[name][order] for name in ("file", "row", "step"))
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(numbers)]):
        file = files.get(int(numbers[start]))
        if file:  # else it was just replaced
            key = (int(steps[start:end].max()), str(file.source), file.name)
            yield _Place(key, int(numbers[start]), file, rows[start:end])


@dataclass(frozen=True)
class _Job:
    """Searches one file: returns hits, the last row searched, and why the file could not be read."""

    query: EpisodeQuery
    deadline: float

    def __call__(self, place: _Place) -> tuple[list[Hit], int, str | None]:
        hits: list[Hit] = []
        last = -1
        try:
            with reading([place.file.path]), pq.ParquetFile(place.file.path, pre_buffer=False) as file:
                if stamp_of(os.stat(place.file.path)) != place.file.stamp:
                    raise Unreadable("has changed since it was indexed; search again")
                for group, numbers, leaf in _row_groups(file, place.rows):
                    if last >= 0 and (monotonic() > self.deadline or len(hits) >= self.query.limit):
                        return hits, last, None
                    column = file.read_row_group(group, columns=[leaf], use_threads=False).column(0)
                    hits += _matches(place, column, numbers, str(self.query.text))
                    last = int(numbers[-1])
        except Unreadable as error:
            return [], int(place.rows[-1]), str(error)
        return hits, int(place.rows[-1]), None


def _row_groups(file: pq.ParquetFile, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, str]]:
    """Yields row groups that contain some of these rows, their row numbers, and the path of the rounds' texts.

    Yields nothing if no episode has a round.
    """
    paths = (file.schema.column(place).path for place in range(len(file.schema)))
    leaf = next((path for path in paths if path.startswith("rounds.") and path.endswith(".text")), None)
    start = 0
    for group in range(file.num_row_groups if leaf else 0):
        end = start + file.metadata.row_group(group).num_rows
        if np.searchsorted(rows, start) < np.searchsorted(rows, end):
            yield group, np.arange(start, end), str(leaf)
        start = end


def _matches(place: _Place, column: pa.ChunkedArray, numbers: np.ndarray, text: str) -> Iterator[Hit]:
    """Yields hits in a column of lists of rounds whose rows have these numbers; one per episode."""
    done = 0
    for chunk in column.chunks:
        offsets = chunk.offsets.to_numpy()
        texts = pc.struct_field(chunk.flatten(), [0])
        found = pc.indices_nonzero(pc.match_substring(texts, text, ignore_case=True)).to_numpy()
        owners, first = np.unique(np.searchsorted(offsets - offsets[0], found, side="right") - 1, return_index=True)
        rows = numbers[done + owners]
        for at in np.flatnonzero(np.isin(rows, place.rows)):
            yield place.number, int(rows[at]), snippet(texts[found[first[at]]].as_py(), text)
        done += len(chunk)


def snippet(text: str, wanted: str) -> str:
    """Returns the text around the first match of `wanted`, in one line."""
    match = re.search(re.escape(wanted), text, re.IGNORECASE)
    start, end = match.span() if match else (0, 0)
    before, after = max(0, start - _AROUND), end + _AROUND
    inner = " ".join(text[before:after].split())
    return f"{'… ' if before else ''}{inner}{' …' if after < len(text) else ''}"


def _token(key: _Key, row: int, found: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([*key, row, found]).encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[_Key, int, int]:
    try:
        step, source, name, row, found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return (int(step), str(source), str(name)), int(row), int(found)
    except (ValueError, TypeError):
        raise ValueError("after is not a token of a search: leave it out to search from the start") from None
