"""Picks a few episodes of a run to show: one solved late, one wrong, one malformed, each with its group.

Opens only the newest and the oldest training files, and reads the texts of only a few groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl.monitor.episode_files import EpisodeFile, EpisodeReader, Unreadable, list_files

_TRIES = 3  # files to try at each end of the training: some may be broken

Row = dict[str, Any]


@dataclass
class Sample:
    """One episode and its group."""

    why: str
    file: str
    episode: Row
    group: list[Row]


@dataclass
class Samples:
    """Episodes found, stop reasons in the files that were read, and faults of unreadable files."""

    samples: list[Sample] = field(default_factory=list)
    stops: dict[str, Counter[str]] = field(default_factory=dict)  # file -> reason -> episodes
    files: int = 0  # training files in total
    faults: list[str] = field(default_factory=list)


def is_right(row: Row) -> bool | None:
    """Returns the stored verdict; None if the episode could not be judged or the file predates verdicts."""
    value = row.get("correct")
    return None if value is None else value >= 0.5


_WANTED: list[tuple[str, Callable[[Row], bool], Callable[[Row], Any]]] = [
    ("Solved, in the most rounds", lambda r: bool(is_right(r)), lambda r: (r["num_rounds"], r["num_tokens"])),
    ("Wrong", lambda r: r["stop_reason"] == "answered" and is_right(r) is False, lambda r: r["num_rounds"]),
    ("Malformed", lambda r: r["stop_reason"] == "malformed", lambda r: r["num_rounds"]),
    ("Cut off or out of rounds", lambda r: r["stop_reason"] in ("truncated", "max_rounds"), lambda r: r["num_rounds"]),
]
"""Why an episode is shown, which ones fit, and which of them is the best."""


def find_samples(folder: Path) -> Samples:
    """Reads samples from a run's `episodes/train_*.parquet`: tries at most six files and uses two."""
    found, reader = Samples(), EpisodeReader()
    try:
        listed = [file for file in list_files(folder).values() if file.source == "train"]
    except OSError as error:
        found.faults.append(f"The episodes can't be listed: {error.strerror}")
        return found
    found.faults += [f"{file.name} {file.fault}" for file in listed if file.fault]
    whole = sorted((file for file in listed if not file.fault), key=lambda file: file.newest)
    found.files = len(whole)
    ends = [_first_whole(reader, whole[::-1][:_TRIES], found)]
    ends.append(_first_whole(reader, [file for file in whole[:_TRIES] if not ends[0] or file != ends[0][0]], found))
    found.faults = list(dict.fromkeys(found.faults))  # with few files, some are tried from both ends
    files = [end for end in ends if end]
    found.stops = {file.path.name: Counter(row["stop_reason"] for row in rows) for file, rows in files}
    taken: set[tuple[str, str]] = set()
    for why, fits, prefer in _WANTED:
        for file, rows in files:
            fitting = [row for row in rows if fits(row) and (file.name, row["group"]) not in taken]
            if fitting:
                best = max(fitting, key=prefer)
                taken.add((file.name, best["group"]))
                places = [row["file_row_number"] for row in rows if row["group"] == best["group"]]
                try:
                    group = reader.rows(file.path, places)
                except Unreadable as error:
                    found.faults.append(f"{file.name} {error}")
                else:
                    episode = group[places.index(best["file_row_number"])]
                    found.samples.append(Sample(why, file.path.name, episode, group))
                break
    reader.close()
    return found


def _first_whole(
    reader: EpisodeReader, files: Sequence[EpisodeFile], found: Samples
) -> tuple[EpisodeFile, list[Row]] | None:
    """Returns the first readable file and its episodes without rounds; records the faults of files before it."""
    for file in files:
        try:
            rows = reader.scalars([file.path]).to_pylist()
        except Unreadable as error:
            found.faults.append(f"{file.name} {error}")
            continue
        if rows:
            return file, sorted((_named(row) for row in rows), key=lambda row: row["file_row_number"])
    return None


def _named(row: Row) -> Row:
    return row | {"stop_reason": row["stop_reason"] or "unknown"}
