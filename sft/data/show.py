"""`sawtooth data show`: prints rounds for a human reader."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rollout.errors import InputError
from rollout.protocol import get_protocol
from rollout.terminal import clip_middle

_MOST = 1200  # characters shown of a text


def show_rounds(run: Path, count: int, whole: bool = False) -> None:
    """Prints the first `count` traces of a run's data, round by round.

    Args:
        run: a run's folder, or a folder with a finished dataset.
        whole: print long texts in full, not only their beginnings and ends.

    Raises:
        InputError: there is no finished data.
    """
    for number, rounds in enumerate(islice(_traces(_folder(run)), count)):
        first = rounds[0]
        print(f"{'=' * 100}\ntrace {number + 1} (row {first['row']}), {len(rounds)} rounds, answer {first['answer']}")
        print(_block("question", first["question"], whole))
        for row in rounds:
            turn = get_protocol("inftythink").parse(row["completion"])
            print(f"{'-' * 40} round {row['round'] + 1} of {row['rounds']}, {row['segment_tokens']} tokens of thinking")
            if row["history"] is not None:
                print(_block("history", row["history"], whole))
            print(_block("thinking", turn.think or "", whole))
            if turn.summary is not None:
                print(_block(f"summary, {row['summary_tokens']} tokens", turn.summary, whole))
            if turn.conclusion is not None:
                print(_block("conclusion", turn.conclusion, whole))


def _folder(run: Path) -> Path:
    for inner in (run, run / "dataset", run / "data" / "dataset"):
        if any((inner / "rounds").glob("*.parquet")):
            return inner / "rounds"
    raise InputError(f"{run} has no finished data (dataset/rounds/*.parquet): run `sawtooth data` first")


def _traces(folder: Path) -> Iterator[list[dict[str, Any]]]:
    import pyarrow.parquet as pq

    rows = (
        row
        for path in sorted(folder.glob("*.parquet"))
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64)
        for row in batch.to_pylist()
    )
    for _, group in groupby(rows, key=lambda row: (row["row"], row["trace"])):
        yield list(group)


def _block(name: str, text: str, whole: bool) -> str:
    text = text.strip("\n")
    if not whole:
        text = clip_middle(text, _MOST)
    return f"{name}:\n" + "\n".join(f"  {line}" for line in text.split("\n"))
