"""Stored episodes for tests of what reads them: made up, but written by `EpisodeStore` as a run writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rewards.score import Scores
from rl.monitor.runs import Run
from rollout.protocol import get_protocol
from rollout.store import EpisodeStore
from rollout.types import Episode, Question, Segment, StopReason

PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=5)


def segment(text: str, place: int = 0, tokens: int = 5) -> Segment:
    """A round whose prompt is that of round 1 and, from round 2 on, three ids of history."""
    prompt = [1, 2, 3, 4] + ([7, 8, 9] if place else [])
    logprobs = [-0.5 * (n + 1) for n in range(tokens)]
    return Segment(prompt, list(range(10, 10 + tokens)), logprobs, text, "stop", PROTOCOL.parse(text))


def episode(
    question: Question,
    group: Any = 0,
    texts: Sequence[str] = ("<think>\nx\n</think>\\boxed{1}",),
    stop: StopReason = StopReason.ANSWERED,
    tokens: int = 5,
    answer: Any = "1",
    **rest: Any,
) -> Episode:
    segments = [segment(text, place, tokens) for place, text in enumerate(texts)]
    return Episode(question, answer, group, segments, stop, {"level": 3}, seconds=1.5, **rest)


def write(
    folder: Path,
    name: str,
    step: int,
    episodes: Sequence[Episode],
    correct: Sequence[float | None] | None = None,
    rewards: Sequence[float] | None = None,
    advantages: Sequence[float] | None = None,
) -> Path:
    """A file below a run's folder, `name` as in "episodes/train_000003". Its time of change is always another."""
    scores = None if rewards is None else Scores(list(rewards), {"answer": list(rewards)}, correct=correct)
    inner, _, stem = name.rpartition("/")
    path = EpisodeStore(folder / inner).write(stem, step, episodes, scores, advantages, correct)
    write.clock = getattr(write, "clock", 1_700_000_000_000_000_000) + 1_000_000_000
    os.utime(path, ns=(write.clock, write.clock))
    return path


def age(path: Path) -> None:
    """Makes a file one of before there were verdicts and faults, with the types that it had then."""
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        del row["correct"]
        for item in row["rounds"]:
            del item["fault"]
    pq.write_table(pa.Table.from_pylist(rows), path)


def run_of(folder: Path) -> Run:
    return Run("it", folder)
