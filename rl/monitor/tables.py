"""The tables of the index, and a file's episodes as rows of them."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rl.monitor.episode_files import EpisodeFile, Unreadable, read_scalars

TABLES = """
CREATE TABLE episodes (
    run VARCHAR, source VARCHAR, file INTEGER, row INTEGER, step INTEGER, episode INTEGER, grp VARCHAR,
    question UBIGINT, answer UBIGINT, stop VARCHAR, error UBIGINT, rounds INTEGER, tokens INTEGER, peak INTEGER,
    seconds DOUBLE, reward DOUBLE, advantage DOUBLE, correct DOUBLE
);
CREATE TABLE questions (id UBIGINT, text VARCHAR, folded VARCHAR);
CREATE TABLE texts (id UBIGINT, text VARCHAR);
"""
"""Questions, answers and errors are referred to by `text_id`. `folded`: for search, null where it equals the text."""

Rows = tuple[pa.Table, dict[str, dict[int, str]]]
"""Rows of the table `episodes`, and the texts that they refer to by table and id."""


def text_id(text: str) -> int:
    """A number that stands for a text, in this process and every other."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def read_file(run: str, number: int, file: EpisodeFile) -> Rows | str:
    """The file's rows, or why there are none."""
    try:
        return _rows(run, number, file, read_scalars(file.path))
    except Unreadable as error:
        return str(error)
    except Exception as error:  # whatever a file holds, the others are still to be read
        return f"can't be read: {type(error).__name__}: {' '.join(str(error).split()):.120}"


def _rows(run: str, number: int, file: EpisodeFile, table: pa.Table) -> Rows:
    size, texts = len(table), {"questions": {}, "texts": {}}

    def same(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), size)

    def reference(name: str, place: str) -> pa.Array:
        encoded = table.column(name).dictionary_encode().unify_dictionaries().combine_chunks()
        ids = {text: text_id(text) for text in encoded.dictionary.to_pylist()}
        texts[place] |= {id: text for text, id in ids.items()}
        return pa.array(list(ids.values()), pa.uint64()).take(encoded.indices)

    def real(name: str) -> pa.Array:
        column = table.column(name)
        return pc.if_else(pc.is_finite(column), column, None)

    rows = pa.table({
        "run": same(run, pa.string()),
        "source": same(file.source, pa.string()),
        "file": same(number, pa.int32()),
        "row": pa.array(range(size), pa.int32()),
        "step": table.column("step"),
        "episode": table.column("episode"),
        "grp": table.column("group"),
        "question": reference("question", "questions"),
        "answer": reference("answer", "texts"),
        "stop": pc.fill_null(table.column("stop_reason"), "unknown"),
        "error": reference("error", "texts"),
        "rounds": table.column("num_rounds"),
        "tokens": table.column("num_tokens"),
        "peak": table.column("peak_context"),
        **{name: real(name) for name in ("seconds", "reward", "advantage", "correct")},
    })  # fmt: skip
    return rows, texts
