"""Stores the data stage's finished batches on disk, and joins them into a `datasets` folder at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.atomic import atomic

TABLES = ("rounds", "vanilla", "traces")
BATCH = 256  # rows of the source
_SHARD = 100_000  # rows per file of the finished dataset

_FIELDS: dict[str, dict[str, str]] = {
    "rounds": {
        "prompt": "string", "completion": "string", "question": "string", "history": "string", "trace": "string",
        "row": "int64", "round": "int32", "rounds": "int32", "segment_tokens": "int32", "summary_tokens": "int32",
        "answer": "string", "budget": "int32",
    },
    "vanilla": {
        "prompt": "string", "completion": "string", "question": "string", "trace": "string", "row": "int64",
        "tokens": "int32", "answer": "string", "budget": "int32",
    },
    "traces": {
        "row": "int64", "generation": "int32", "id": "string", "trace": "string", "reason": "string",
        "excerpt": "string", "eta": "int32", "ends": "list<int32>", "tokens": "list<int32>",
        "summary_tokens": "list<int32>", "draws": "list<int32>", "verified": "bool",
    },
}  # fmt: skip


def _schema(table: str) -> Any:
    import pyarrow as pa

    def kind(name: str) -> Any:
        inner = name.removeprefix("list<").removesuffix(">")
        return pa.list_(pa.type_for_alias(inner)) if inner != name else pa.type_for_alias(name)

    return pa.schema([(name, kind(text)) for name, text in _FIELDS[table].items()])


class Parts:
    """`parts/<table>-<batch>.parquet`. A batch is complete or absent."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> set[int]:
        """Returns the numbers of the batches that are on disk."""
        return {int(path.stem.rpartition("-")[2]) for path in self.folder.glob("traces-*.parquet")}

    def write(self, batch: int, tables: dict[str, list[dict[str, Any]]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in TABLES:  # traces last: it marks the batch as complete
            with atomic(self.folder / f"{name}-{batch:07d}.parquet") as path:
                pq.write_table(pa.Table.from_pylist(tables[name], _schema(name)), path, compression="zstd")

    def tables(self, name: str) -> Iterator[Any]:
        """Yields the tables of all batches, in order, one in memory at a time."""
        import pyarrow.parquet as pq

        for path in sorted(self.folder.glob(f"{name}-*.parquet")):
            yield pq.read_table(path)

    def join(self, folder: Path) -> None:
        """Writes `<folder>/<table>/train-<n>.parquet` of rounds and vanilla, and `<folder>/../traces.parquet`."""
        partial = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        for name in ("rounds", "vanilla"):
            (partial / name).mkdir(parents=True)
            _write_shards(self.tables(name), partial / name, _schema(name))
        _write_one(self.tables("traces"), folder.with_name("traces.parquet"), _schema("traces"))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def clean_up(folder: Path) -> None:
    """Removes files from `data/` that only an unfinished stage needs. Summaries are kept, because they cost money."""
    shutil.rmtree(folder / "parts", ignore_errors=True)
    for path in folder.glob("questions.sqlite*"):
        path.unlink()


def _write_shards(tables: Iterator[Any], folder: Path, schema: Any) -> None:
    import pyarrow.parquet as pq

    writer, rows, number = None, 0, 0
    for table in tables:
        if not table.num_rows:
            continue
        if writer is None:
            writer = pq.ParquetWriter(folder / f"train-{number:05d}.parquet", schema, compression="zstd")
        writer.write_table(table)
        rows += table.num_rows
        if rows >= _SHARD:
            writer.close()
            writer, rows, number = None, 0, number + 1
    if writer is not None:
        writer.close()


def _write_one(tables: Iterator[Any], path: Path, schema: Any) -> None:
    import pyarrow.parquet as pq

    with atomic(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
