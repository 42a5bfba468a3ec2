"""Reads rows of a data source named in a config: a local file, a Hub dataset, or a function."""

from __future__ import annotations

import csv
import glob
import gzip
import inspect
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rollout import gym
from rollout.errors import InputError
from rollout.plugins import is_function_spec, load_function

_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
_OTHER_ENDINGS = (".txt", ".tsv", ".xlsx", ".xml", ".yaml", ".yml", ".md", ".zip", ".gz", ".arrow", ".py")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
MOST_ROWS = 5_000_000
"""Maximum rows of a source that is loaded into memory (questions, evaluation sets). Traces are streamed."""

_SETTINGS = ("name", "split", "streaming", "limit", "columns")


@dataclass(frozen=True)
class BadRow:
    """A row that can't be read."""

    reason: str  # to be counted
    where: str  # file and line


@dataclass(frozen=True)
class Source:
    """Rows in a fixed order, from any start. Memory does not grow with their number (except for a .json file)."""

    spec: str
    iterate: Callable[[int], Iterator[dict[str, Any] | BadRow]]  # starts at this row
    length: int | None  # None: unknown; for a streamed dataset, the length in its card
    columns: dict[str, str] = field(default_factory=dict)  # our name -> the source's
    limit: int | None = None  # first rows only
    state: str = ""  # changes with the rows, if known: sizes and times of files, the Hub's fingerprint

    def rows(self, start: int = 0) -> Iterator[dict[str, Any] | BadRow]:
        """Yields the rows from index `start` up to `limit`."""
        rows = self.iterate(start)
        return rows if self.limit is None else itertools.islice(rows, max(0, self.limit - start))


def check_settings(spec: str, settings: dict[str, Any]) -> None:
    """Checks a source's settings without opening it (for a function: whether it takes these arguments).

    Raises:
        InputError: one line that names an invalid setting.
    """
    if spec.startswith(gym.PREFIX):
        gym.open_task(spec.removeprefix(gym.PREFIX), settings)
        return
    if is_function_spec(spec):
        try:
            inspect.signature(load_function(spec)).bind(**settings)
        except TypeError as error:
            raise InputError(f"data {spec!r}: {error}") from error
        return
    unknown = sorted(map(str, settings.keys() - set(_SETTINGS)))
    if unknown:
        raise InputError(
            f"data {spec!r} is not a function, so it takes no {unknown[0]!r}; known: {', '.join(_SETTINGS)}"
        )
    for key in ("name", "split"):
        if key in settings and not isinstance(settings[key], str) and (settings[key] is not None or key == "split"):
            raise InputError(f"data {spec!r}: {key} is {settings[key]!r}; it must be text")
    if not isinstance(settings.get("streaming", False), bool):
        raise InputError(f"data {spec!r}: streaming is {settings['streaming']!r}; it must be true or false")
    limit = settings.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError(f"data {spec!r}: limit is {limit!r}; it must be a whole number of at least 1")
    columns = settings.get("columns") or {}
    if not isinstance(columns, dict):
        raise InputError(f"data {spec!r}: columns is {columns!r}; write {{our name: the source's}}")
    for pair in columns.items():
        if not all(isinstance(name, str) and name for name in pair):
            raise InputError(f"data {spec!r}: columns contains {pair[0]!r}: {pair[1]!r}; both must be text")
    no_hub_id = Path(spec).exists() or not _HUB_ID.fullmatch(spec) or spec.endswith(_OTHER_ENDINGS)
    if not spec.endswith(_ENDINGS) and not Path(spec).is_dir() and no_hub_id:
        kinds = f"a file ({', '.join(_ENDINGS)}), path.py:function or user/name on the Hub"
        raise InputError(f"data {spec!r} is not a source: it must be {kinds}")
    path = Path(spec)
    if is_local_file(spec) and path.exists() and not (path.is_file() and os.access(path, os.R_OK)):
        raise InputError(f"data file {spec} is not a readable file")
    if glob.has_magic(spec) and not path.exists() and not glob.glob(spec, recursive=True):
        raise InputError(f"no data file matches {spec}")


def is_local_file(spec: str) -> bool:
    """Returns True for a spec that names one local file, existing or not; False for a pattern of files."""
    return spec.endswith(_ENDINGS) and not glob.has_magic(spec) and not is_function_spec(spec)


def open_source(spec: str, **settings: Any) -> Source:
    """Opens a source by its spec.

    Args:
        spec: `path.py:name` or `module:name`; `reasoning_gym:task`; a .jsonl, .jsonl.gz, .json, .parquet or .csv file,
            or a pattern of them (`data/*.jsonl`); else a dataset on the Hub.
        settings: for a function, its arguments; for reasoning-gym, the task's own (`size`, `seed`, …). Else `name` (of
            the Hub dataset's configuration), `split` ("train"), `streaming` (reads the Hub's rows on demand and stores
            nothing), `limit` (first rows only), `columns` (our name -> the source's).

    Raises:
        InputError: the source is missing or can't be opened; an unknown setting.
    """
    if spec.startswith(gym.PREFIX):
        return _of_gym(spec.removeprefix(gym.PREFIX), settings)
    check_settings(spec, settings)
    if is_function_spec(spec):
        return _of_function(spec, settings)
    limit, columns = settings.get("limit"), settings.get("columns") or {}
    if spec.endswith(_ENDINGS):
        source = _of_files(spec)
    else:
        source = _of_hub(spec, settings.get("name"), settings.get("split", "train"), settings.get("streaming", False))
    length = source.length if limit is None or source.length is None else min(limit, source.length)
    return replace(source, length=length, columns=columns, limit=limit)


def first_rows(path: str) -> Iterator[dict[str, Any] | BadRow]:
    """Yields rows of one .jsonl, .csv or .parquet file, from the first; reads lazily."""
    return {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[Path(path).suffix](Path(path))


def load_rows(spec: str, **settings: Any) -> list[dict[str, Any]]:
    """Loads all rows of a source into memory.

    Raises:
        InputError: the source is missing, empty, larger than `MOST_ROWS`, or has a row that can't be read.
    """
    source = open_source(spec, **settings)
    if (source.length or 0) > MOST_ROWS:  # raised before a row is read: a small Parquet file may contain billions
        raise _too_many(spec, f"{source.length:,}")
    rows = []
    for row in source.rows():
        if len(rows) == MOST_ROWS:
            raise _too_many(spec, "more")
        if isinstance(row, BadRow):
            raise InputError(f"{row.where}: {row.reason}")
        for theirs in source.columns.values():
            if theirs not in row:
                raise InputError(f"data {spec!r} has no column {theirs!r}; it has {', '.join(row)}")
        rows.append({**row, **{ours: row[theirs] for ours, theirs in source.columns.items()}})
    if not rows:
        raise InputError(f"data {spec!r} is empty: there is nothing to train or evaluate on")
    return rows


def _too_many(spec: str, count: str) -> InputError:
    return InputError(f"data {spec!r} has {count} rows; at most {MOST_ROWS:,} are read into memory: set `limit`")


def _of_function(spec: str, arguments: dict[str, Any]) -> Source:
    function = load_function(spec)
    rows = function(**arguments)
    if isinstance(rows, list | tuple):
        return Source(spec, lambda start: iter(rows[start:]), len(rows))
    if not isinstance(rows, Iterable):
        raise InputError(f"data {spec!r} returned {rows!r}; it must return rows")
    made = [rows]  # an iterator runs only once: later passes call the function again

    def iterate(start: int) -> Iterator[dict[str, Any]]:
        return itertools.islice(made.pop() if made else function(**arguments), start, None)

    return Source(spec, iterate, None)


def _of_gym(task: str, settings: dict[str, Any]) -> Source:
    length = len(gym.open_task(task, settings))
    return Source(gym.PREFIX + task, lambda start: gym.task_rows(task, settings, start), length)


def _of_files(spec: str) -> Source:
    paths = [Path(spec)]
    if glob.has_magic(spec) and not paths[0].exists():  # a file name may also contain brackets
        paths = [Path(name) for name in sorted(glob.glob(spec, recursive=True))]
    for path in paths:
        if not path.exists():
            raise InputError(f"data file {path} does not exist")
    if not paths:
        raise InputError(f"no data file matches {spec}")
    readers = {".jsonl": _jsonl, ".gz": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv}

    def iterate(start: int) -> Iterator[dict[str, Any] | BadRow]:
        return itertools.islice((row for path in paths for row in readers[path.suffix](path)), start, None)

    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    return Source(spec, iterate, _length(paths), state=json.dumps(state))


def _length(paths: list[Path]) -> int | None:
    """Returns the number of rows if counting is cheap, else None."""
    if all(path.suffix == ".parquet" for path in paths):
        return sum(_parquet_file(path).metadata.num_rows for path in paths)
    if all(path.suffix == ".jsonl" for path in paths):
        total = 0
        for path in paths:
            with path.open("rb") as lines:
                total += sum(1 for line in lines if line.strip())
        return total
    return None


def _jsonl(path: Path) -> Iterator[dict[str, Any] | BadRow]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _object(line, f"{path}, line {number}")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"data file {path} is a truncated or invalid gzip file: {error}") from error


def _object(line: bytes, where: str) -> dict[str, Any] | BadRow:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        return BadRow("not UTF-8", where)
    except (ValueError, RecursionError):
        return BadRow("not JSON", where)
    return row if isinstance(row, dict) else BadRow("not a JSON object", where)


def _json(path: Path) -> Iterator[dict[str, Any] | BadRow]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"data file {path} is not JSON: {error} (for one object per line, use .jsonl)") from error
    if isinstance(rows, dict):  # {"data": [...]}, as in some exports
        lists = [value for value in rows.values() if isinstance(value, list)]
        rows = lists[0] if len(lists) == 1 else [rows]
    for number, row in enumerate(rows):
        yield row if isinstance(row, dict) else BadRow("not a JSON object", f"{path}, row {number}")


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    for batch in _parquet_file(path).iter_batches(batch_size=256):
        yield from batch.to_pylist()


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # else whole files stay in memory
    except pa.ArrowInvalid as error:
        raise InputError(f"data file {path} is not Parquet: {' '.join(str(error).split())}") from error


def _csv(path: Path) -> Iterator[dict[str, Any] | BadRow]:
    csv.field_size_limit(sys.maxsize)  # a trace may exceed the default of 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                yield BadRow("more fields than columns", f"{path}, line {rows.line_num}") if None in row else row
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"data file {path} is not a CSV file in UTF-8: {error}") from error


def _of_hub(spec: str, name: str | None, split: str, streaming: bool) -> Source:
    from datasets import load_dataset

    try:
        dataset = load_dataset(spec, name, split=split, streaming=streaming)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise InputError(f"data {spec!r} can't be loaded as a file or a Hub dataset: {why}") from error
    if not streaming:  # memory-mapped
        rows, state = len(dataset), dataset._fingerprint
        return Source(spec, lambda start: iter(dataset.select(range(start, rows))), rows, state=state)
    info = (dataset.info.splits or {}).get(split)
    return Source(spec, lambda start: iter(dataset.skip(start)), (info.num_examples or None) if info else None)
