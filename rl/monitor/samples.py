"""A few episodes of a run to show: one solved late, one wrong, one malformed, each with its group.

Only the newest and the oldest files of the training are opened, and the texts of a few rows in them.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from rl.monitor.episode_files import Unreadable, list_files, opened, read_scalars, row_group_starts

_TRIES = 3  # files at each end of the training that may be broken
_OF_ROUND = ["text", "kind", "summary", "finish_reason", "fault"]

Row = dict[str, Any]


@dataclass
class Sample:
    """One episode, with what is told of the others of its group."""

    why: str
    file: str
    episode: Row  # with `rounds`: dicts of text, kind, summary, finish_reason, prompt_tokens, completion_tokens
    group: list[Row]  # without their rounds


@dataclass
class Samples:
    """Episodes found, the stop reasons of the files that were read, and what could not be read."""

    samples: list[Sample] = field(default_factory=list)
    stops: dict[str, dict[str, int]] = field(default_factory=dict)  # file -> reason -> episodes
    files: int = 0  # of the training, in all
    faults: list[str] = field(default_factory=list)


def find_samples(folder: Path) -> Samples:
    """Looks into a run's `episodes/train_*.parquet`: at most six files, of which two are used."""
    found = Samples()
    try:
        files = [file for file in list_files(folder).values() if file.source == "train"]
    except OSError as error:
        found.faults.append(f"The episodes can't be listed: {error.strerror}")
        return found
    found.faults += [f"{file.name} {file.fault}" for file in files if file.fault]
    paths = [file.path for file in sorted(files, key=lambda file: file.newest) if not file.fault]
    found.files = len(paths)
    newest = _first_whole(paths[::-1][:_TRIES], found)
    oldest = _first_whole([path for path in paths[:_TRIES] if newest is None or path != newest.path], found)
    found.faults = list(dict.fromkeys(found.faults))  # of a few files, some were tried from both ends
    files = [file for file in (newest, oldest) if file is not None]
    for file in files:
        counts = found.stops[file.path.name] = {}
        for row in file.rows:
            counts[row["stop_reason"]] = counts.get(row["stop_reason"], 0) + 1
    taken: set[tuple[str, str]] = set()
    for why, fits, prefer in _WANTED:
        for file in files:
            fitting = [row for row in file.rows if fits(row) and (file.path.name, row["group"]) not in taken]
            if fitting:
                best = max(fitting, key=prefer)
                taken.add((file.path.name, best["group"]))
                try:
                    found.samples.append(file.sample(why, best))
                except Unreadable as error:
                    found.faults.append(f"episodes/{file.path.name} {error}")
                break
    return found


def is_right(row: Row) -> bool | None:
    """The stored verdict; None where it could not be judged, or the file is from before there was one."""
    value = row.get("correct")
    return None if value is None else value >= 0.5


_WANTED: list[tuple[str, Callable[[Row], bool], Callable[[Row], Any]]] = [
    ("Solved, in the most rounds", lambda r: bool(is_right(r)), lambda r: (r["num_rounds"], r["num_tokens"])),
    ("Wrong", lambda r: r["stop_reason"] == "answered" and is_right(r) is False, lambda r: r["num_rounds"]),
    ("Malformed", lambda r: r["stop_reason"] == "malformed", lambda r: r["num_rounds"]),
    ("Cut off or out of rounds", lambda r: r["stop_reason"] in ("truncated", "max_rounds"), lambda r: r["num_rounds"]),
]
"""Why an episode is shown, which ones fit, and which of them is the best."""


class _File:
    """One parquet file of episodes; texts are read for the rows that are asked for.

    Raises:
        Unreadable: the file is half-written, gone, or holds no episodes.
    """

    def __init__(self, path: Path):
        self.path = path
        scalars = read_scalars(path).to_pylist()
        with opened(path) as file:
            rounds = file.schema_arrow.field("rounds").type
            if not (pa.types.is_list(rounds) and pa.types.is_struct(rounds.value_type)):
                raise Unreadable("is no file of episodes: its rounds are no list")
            self.fields = {field.name for field in rounds.value_type}
            if not self.fields >= {"text", "kind", "prompt_ids", "completion_ids"}:
                raise Unreadable("is no file of episodes: its rounds have no texts and tokens")
            stored = (
                file.read(columns=["rewards"]).column(0).to_pylist() if "rewards" in file.schema_arrow.names else []
            )
        values = [_values(text) for text in stored] or [{}] * len(scalars)
        for row in scalars:
            row["stop_reason"] = row["stop_reason"] or "unknown"
        self.rows = [row | {"place": n, "values": v} for n, (row, v) in enumerate(zip(scalars, values, strict=True))]

    def sample(self, why: str, row: Row) -> Sample:
        group = [other for other in self.rows if other["group"] == row["group"]]
        return Sample(why, self.path.name, row | {"rounds": self._rounds(row["place"])}, group)

    def _rounds(self, place: int) -> list[Row]:
        """Texts of one episode's rounds, and how many tokens their prompts and outputs have."""
        import pyarrow.compute as pc

        wanted = {name for name in (*_OF_ROUND, "prompt_ids", "completion_ids") if name in self.fields}
        with opened(self.path) as file:
            starts = row_group_starts(file)
            index = bisect_right(starts, place) - 1
            paths = [file.schema.column(n).path for n in range(len(file.schema))]
            columns = [path for path in paths if path.startswith("rounds.") and wanted & set(path.split("."))]
            rounds = file.read_row_group(index, columns=columns).column("rounds").slice(place - starts[index], 1)
        flat = pc.list_flatten(rounds.combine_chunks())
        lengths = {
            new: pc.fill_null(pc.list_value_length(pc.struct_field(flat, old)), 0).to_pylist()
            for old, new in (("prompt_ids", "prompt_tokens"), ("completion_ids", "completion_tokens"))
        }
        texts = {n: pc.struct_field(flat, n).to_pylist() if n in wanted else [None] * len(flat) for n in _OF_ROUND}
        whole = texts | lengths
        return [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]


def _values(stored: Any) -> dict[str, float | None]:
    """Each reward's value of an episode."""
    try:
        values = json.loads(stored or "{}")
    except (TypeError, ValueError):
        return {}
    return {k: v for k, v in values.items() if isinstance(v, int | float | None)} if isinstance(values, dict) else {}


def _first_whole(paths: list[Path], found: Samples) -> _File | None:
    """The first of the files that can be read; says why of those before it."""
    for path in paths:
        try:
            file = _File(path)
        except Unreadable as error:
            found.faults.append(f"episodes/{path.name} {error}")
            continue
        if file.rows:
            return file
    return None
