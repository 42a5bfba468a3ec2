"""Stores every episode of every step as parquet: one file per step, one row per episode, rounds nested."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.atomic import atomic
from rollout.errors import InputError
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Question, Segment, Start, StopReason

if TYPE_CHECKING:
    import pyarrow as pa


STEP_FILE = re.compile(r"(train|eval)_(\d+)(?:_(\d+))?\.parquet\Z")
"""Parses the name of a training run's episode file: mode, step and (from the second one on) batch."""

MOST_EPISODES = 1 << 21
"""Maximum episodes that `read_episodes` loads into memory."""

TOKENS_A_ROW_GROUP = 1 << 20
"""Approximate tokens (prompts and completions) of a parquet row group: to show one group of episodes, a reader decodes
one row group. Smaller ones make larger files, which take longer to write and to scan."""


class EpisodeStore:
    """Writes `episodes/<name>.parquet`. A file appears complete or not at all, so a reader never sees part of one."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        name: str,
        step: int,
        episodes: Sequence[Episode],
        scores: Any = None,
        advantages: Sequence[float] | None = None,
        correct: Sequence[float | None] | None = None,
        batch: int = 0,
        first: int = 0,
    ) -> Path:
        """Writes one file of episodes, replacing any of the same name.

        Args:
            scores: rewards (`Scores`), if any.
            advantages: one per episode, if any.
            batch: index among the step's batches, which keeps their groups distinct.
            first: index of the first episode in its step.
            correct: verdicts, 1 or 0, None if it could not be judged; defaults to those of `scores`.
        """
        import pyarrow.parquet as pq

        if correct is None and scores is not None:
            correct = scores.correct
        path = self.folder / f"{name}.parquet"
        table = _table(step, episodes, scores, advantages, correct, batch, first)
        with atomic(path) as part:
            pq.write_table(table, part, compression="zstd", row_group_size=rows_a_group(episodes))
        return path

    def write_step(self, mode: str, step: int, episodes: Sequence[Episode], scores: Any, advantages: Any) -> Path:
        """Writes the next batch of a step: `train_000012`, then `train_000012_1` if a step has several.

        Args:
            mode: "train" or "eval".
        """
        import pyarrow.parquet as pq

        batch = first = 0  # from the existing files, so the numbering continues after a restart
        name = stem = f"{mode}_{step:06d}"
        while (written := self.folder / f"{name}.parquet").exists():
            batch, first = batch + 1, first + pq.read_metadata(written).num_rows
            name = f"{stem}_{batch}"
        return self.write(name, step, episodes, scores, advantages, batch=batch, first=first)

    def drop_from(self, step: int) -> None:
        """Deletes the files of `step` and later: a training run that resumes there samples them again."""
        for path in self.folder.glob("*.parquet"):
            match = STEP_FILE.match(path.name)
            if match and int(match[2]) >= step:
                path.unlink(missing_ok=True)


def rows_a_group(episodes: Sequence[Episode]) -> int:
    """Returns the rows of a row group, from the mean tokens per episode; at least one."""
    tokens = sum(len(s.prompt_ids) + len(s.completion_ids) for e in episodes for s in e.segments)
    return max(1, TOKENS_A_ROW_GROUP * len(episodes) // max(tokens, 1)) if episodes else 1


def schema() -> pa.Schema:
    """Returns the columns and types of every file: the same with or without errors, rewards or verdicts."""
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int32(), pa.float64()
    ids = pa.list_(whole)
    rounds = {
        "prompt_ids": ids, "completion_ids": ids, "logprobs": pa.list_(pa.float32()), "text": text, "kind": text,
        "fault": text, "summary": text, "finish_reason": text, "policy_steps": ids, "opening": whole,
    }  # fmt: skip
    return pa.schema({
        "step": whole, "episode": whole, "group": text, "question": text, "answer": text, "stop_reason": text,
        "error": text, "num_rounds": whole, "num_tokens": whole, "peak_context": whole, "prompt_tokens": whole,
        "seconds": real, "policy_steps": ids, "columns": text, "correct": real, "reward": real, "rewards": text,
        "advantage": real, "extra": text,
        "start_text": text, "start_history": text, "start_opening": text, "start_rounds": whole, "sources": ids,
        "rounds": pa.list_(pa.struct(rounds)),
    })  # fmt: skip


def _table(
    step: int, episodes: Sequence[Episode], scores: Any, advantages: Any, correct: Any, batch: int, first: int
) -> pa.Table:
    """Builds the table by column: rows as dicts take several times as long."""
    import pyarrow as pa

    wanted, nothing = schema(), [None] * len(episodes)
    totals = nothing if scores is None else [None if math.isnan(total) else total for total in scores.total]
    values = {} if scores is None else scores.values
    answers = [e.answer if isinstance(e.answer, str | None) else json.dumps(e.answer, default=str) for e in episodes]
    columns = {
        "step": [step] * len(episodes),
        "episode": range(first, first + len(episodes)),
        "group": [f"{batch}.{e.group_id}" if batch else str(e.group_id) for e in episodes],
        "question": [store_question(e.question) for e in episodes],
        "answer": answers,
        "stop_reason": [str(e.stop_reason) for e in episodes],
        "error": [e.error for e in episodes],
        "num_rounds": [e.num_rounds for e in episodes],
        "num_tokens": [e.num_tokens for e in episodes],
        "peak_context": [e.peak_context for e in episodes],
        "prompt_tokens": [e.prompt_tokens for e in episodes],
        "seconds": [e.seconds for e in episodes],
        "policy_steps": [e.policy_steps for e in episodes],
        "columns": [json.dumps(e.columns, default=str) for e in episodes],
        "correct": nothing if correct is None else correct,
        "reward": totals,
        "rewards": nothing if scores is None else _by_episode(values, len(episodes)),
        "advantage": nothing if advantages is None else [float(a) for a in advantages],
        "extra": _by_episode(scores.extra, len(episodes)) if scores is not None and scores.extra else nothing,
        "start_text": [e.start and e.start.text for e in episodes],
        "start_history": [e.start and e.start.history for e in episodes],
        "start_opening": [e.start and e.start.opening for e in episodes],
        "start_rounds": [e.start and e.start.rounds for e in episodes],
        "sources": [e.start and e.start.sources for e in episodes],
    }
    segments = [segment for episode in episodes for segment in episode.segments]
    struct = wanted.field("rounds").type.value_type
    parts = {
        "prompt_ids": [s.prompt_ids for s in segments],
        "completion_ids": [s.completion_ids for s in segments],
        "logprobs": [s.logprobs for s in segments],
        "text": [s.text for s in segments],
        "kind": [s.turn.kind for s in segments],
        "fault": [s.turn.fault for s in segments],
        "summary": [s.turn.summary for s in segments],
        "finish_reason": [s.finish_reason for s in segments],
        "policy_steps": [s.policy_steps for s in segments],
        "opening": [s.opening for s in segments],
    }
    arrays = [pa.array(list(parts[field.name]), field.type) for field in struct]
    offsets = pa.array(list(accumulate((e.num_rounds for e in episodes), initial=0)), pa.int32())
    rounds = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(struct)))
    flat = [pa.array(list(columns[field.name]), field.type) for field in wanted if field.name != "rounds"]
    return pa.Table.from_arrays([*flat, rounds], schema=wanted)


def _by_episode(values: dict[str, list[Any]], count: int) -> list[str]:
    """Converts columns to one JSON object per episode."""
    return [json.dumps({name: given[i] for name, given in values.items()}, default=str) for i in range(count)]


def to_episode(row: dict[str, Any], protocol: RoundProtocol) -> Episode:
    """Converts a stored row back to an episode. Its answer, group and columns stay as JSON and text represent them."""
    segments = [
        Segment(
            prompt_ids=stored["prompt_ids"],
            completion_ids=stored["completion_ids"],
            logprobs=stored["logprobs"],
            text=stored["text"],
            finish_reason=stored["finish_reason"],
            turn=protocol.parse(stored["text"]),
            policy_steps=tuple(stored["policy_steps"]) if stored["policy_steps"] else None,
            given=stored.get("opening") or 0,  # files of before `Start` have none
            opening=stored.get("opening") or 0,
        )
        for stored in row["rounds"]
    ]
    return Episode(
        question=read_question(row["question"]),
        answer=row["answer"],
        group_id=row["group"],
        segments=segments,
        stop_reason=StopReason(row["stop_reason"]),
        columns=json.loads(row["columns"]),
        error=row["error"],
        seconds=row["seconds"],
        start=_read_start(row),
    )


def _read_start(row: dict[str, Any]) -> Start | None:
    if row.get("start_rounds") is None:
        return None
    given = {name: row[f"start_{name}"] for name in ("text", "history", "opening", "rounds")}
    return Start(**given, sources=tuple(row["sources"] or ()))


def store_question(question: Question) -> str:
    """Serializes a question as one text: chat messages as JSON."""
    return question if isinstance(question, str) else json.dumps(question, ensure_ascii=False)


def read_question(stored: str) -> Question:
    """Reverses `store_question`."""
    if not stored.startswith("[{"):
        return stored
    try:
        messages = json.loads(stored)
    except (ValueError, RecursionError):
        return stored
    return messages if all(isinstance(m, dict) and "role" in m for m in messages) else stored


def read_episodes(folder: str | Path, pattern: str = "*.parquet") -> list[dict[str, Any]]:
    """Reads the stored rows of a folder's files, in order of file name.

    Raises:
        InputError: they have more than `MOST_EPISODES` rows; raised before any row is read.
    """
    import pyarrow.parquet as pq

    paths = sorted(Path(folder).glob(pattern))
    count = sum(pq.read_metadata(path).num_rows for path in paths)
    if count > MOST_EPISODES:
        raise InputError(f"{folder}/{pattern} has {count:,} rows; at most {MOST_EPISODES:,} episodes are read at once")
    return [row for path in paths for row in pq.read_table(path).to_pylist()]
