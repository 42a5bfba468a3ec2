"""Every episode of every step, as parquet: one file a step, one row an episode, rounds nested."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.protocol import RoundProtocol
from rollout.types import Episode, Question, Segment, StopReason


class EpisodeStore:
    """Writes `episodes/<name>.parquet`. A file appears whole or not at all, so a reader never sees half of one."""

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
    ) -> Path:
        """One file of episodes with their rewards (`Scores`) and advantages, where there are any."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = []
        for index, episode in enumerate(episodes):
            row = _row(step, index, episode)
            if scores is not None:
                total = scores.total[index]
                row["reward"] = None if math.isnan(total) else total
                row["rewards"] = json.dumps({key: values[index] for key, values in scores.values.items()})
            if advantages is not None:
                row["advantage"] = float(advantages[index])
            rows.append(row)
        path = self.folder / f"{name}.parquet"
        partial = path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(rows), partial, compression="zstd")
        os.replace(partial, path)
        return path


def _row(step: int, index: int, episode: Episode) -> dict[str, Any]:
    return {
        "step": step,
        "episode": index,
        "group": str(episode.group_id),
        "question": store_question(episode.question),
        "answer": episode.answer if isinstance(episode.answer, str | None) else json.dumps(episode.answer, default=str),
        "stop_reason": str(episode.stop_reason),
        "error": episode.error,
        "num_rounds": episode.num_rounds,
        "num_tokens": episode.num_tokens,
        "peak_context": episode.peak_context,
        "seconds": episode.seconds,
        "policy_steps": episode.policy_steps,
        "columns": json.dumps(episode.columns, default=str),
        "rounds": [
            {
                "prompt_ids": segment.prompt_ids,
                "completion_ids": segment.completion_ids,
                "logprobs": segment.logprobs,
                "text": segment.text,
                "kind": segment.turn.kind,
                "summary": segment.turn.summary,
                "finish_reason": segment.finish_reason,
                "policy_steps": segment.policy_steps,
            }
            for segment in episode.segments
        ],
    }


def to_episode(row: dict[str, Any], protocol: RoundProtocol) -> Episode:
    """The episode that a stored row was made from. Its answer, group and columns are as JSON and text hold them."""
    segments = [
        Segment(
            prompt_ids=stored["prompt_ids"],
            completion_ids=stored["completion_ids"],
            logprobs=stored["logprobs"],
            text=stored["text"],
            finish_reason=stored["finish_reason"],
            turn=protocol.parse(stored["text"]),
            policy_steps=tuple(stored["policy_steps"]) if stored["policy_steps"] else None,
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
    )


def store_question(question: Question) -> str:
    """A question as one text: chat messages as JSON."""
    return question if isinstance(question, str) else json.dumps(question, ensure_ascii=False)


def read_question(stored: str) -> Question:
    """What `store_question` was given."""
    if not stored.startswith("[{"):
        return stored
    try:
        messages = json.loads(stored)
    except json.JSONDecodeError:
        return stored
    return messages if all(isinstance(m, dict) and "role" in m for m in messages) else stored


def read_episodes(folder: str | Path, pattern: str = "*.parquet") -> list[dict[str, Any]]:
    """The stored rows of a folder's files, in the order of their names."""
    import pyarrow.parquet as pq

    return [row for path in sorted(Path(folder).glob(pattern)) for row in pq.read_table(path).to_pylist()]
