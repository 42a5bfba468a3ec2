"""One answer of a search in texts: what was found in its time, and a token to go on from."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rl.monitor.episode_files import EpisodeFile
from rl.monitor.search import Candidates, Hit, search

_Key = tuple[int, str, str]
"""Step, source and name of a file: where it stands in the order of a search. The same after a restart."""


@dataclass(frozen=True)
class SearchPage:
    hits: list[Hit]
    total: int | None  # hits of this page and those before it; None while there is more to search
    progress: dict[str, Any]  # episodes `searched`, `of` all, and the token `after`
    faults: list[dict[str, str]]


def search_page(
    files: dict[int, EpisodeFile],
    table: dict[str, np.ndarray],
    text: str,
    *,
    newest_first: bool,
    limit: int,
    after: str | None,
    deadline: float,
    pool: ThreadPoolExecutor,
    ahead: int,
) -> SearchPage:
    """Searches episodes in the order of their steps, those of a file by row.

    Args:
        files: those of the index, by number.
        table: `file`, `row` and `step` of the episodes that may hold the text.
        after: the token of the page before.
        deadline: a time of `monotonic`; the rest as `search` takes it.

    Raises:
        ValueError: the token is none.
    """
    places = _candidates(files, table["file"], table["row"], table["step"])
    places.sort(key=lambda place: _rank(place[0], newest_first))
    of, before = _count(places), 0
    if after:
        key, row, before = _read_token(after)
        places = _following(places, key, row, newest_first)
    found = search([candidates for _, candidates in places], text, limit, deadline, pool, ahead)
    token, remaining = None, 0
    if found.stopped:
        last, row = found.stopped
        place = next(i for i, (_, candidates) in enumerate(places) if candidates is last)
        remaining = _count(places[place:]) - int(np.searchsorted(last.rows, row, side="right"))
        token = _token(places[place][0], row, before + len(found.hits))
    return SearchPage(
        hits=found.hits,
        total=None if token else before + len(found.hits),
        progress={"searched": of - remaining, "of": of, "after": token},
        faults=found.faults,
    )


def _count(places: list[tuple[_Key, Candidates]]) -> int:
    return sum(len(candidates.rows) for _, candidates in places)


def _rank(key: _Key, newest_first: bool) -> _Key:
    return (-key[0] if newest_first else key[0], *key[1:])


def _candidates(
    files: dict[int, EpisodeFile], numbers: np.ndarray, rows: np.ndarray, steps: np.ndarray
) -> list[tuple[_Key, Candidates]]:
    place = numbers.astype(np.int64) << 32 | rows
    if (place[1:] < place[:-1]).any():  # mostly they come in order
        ordered = np.argsort(place)
        numbers, rows, steps = numbers[ordered], rows[ordered], steps[ordered]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    places = []
    for start, end in pairwise([*starts.tolist(), len(numbers)]):
        file = files.get(int(numbers[start]))
        if file:  # else it has been replaced just now
            key = (int(steps[start:end].max()), file.source, file.name)
            places.append((key, Candidates(int(numbers[start]), file, rows[start:end])))
    return places


def _following(
    places: list[tuple[_Key, Candidates]], key: _Key, row: int, newest_first: bool
) -> list[tuple[_Key, Candidates]]:
    """What comes after a row of a file."""
    kept = []
    for other, candidates in places:
        if other == key:
            rest = candidates.rows[candidates.rows > row]
            if len(rest):
                kept.append((other, Candidates(candidates.number, candidates.file, rest)))
        elif _rank(other, newest_first) > _rank(key, newest_first):
            kept.append((other, candidates))
    return kept


def _token(key: _Key, row: int, found: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([*key, row, found]).encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[_Key, int, int]:
    try:
        step, source, name, row, found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return (int(step), str(source), str(name)), int(row), int(found)
    except (ValueError, TypeError):
        raise ValueError("after is no token of a search: leave it out to search from the start") from None
