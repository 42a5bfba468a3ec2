"""Measures the untrained model's accuracy and length on each question, for rewards that compare with them (O1-Pruner,
arXiv 2501.12570).

Before the first step, the starting model rolls out a few episodes per question. Results are saved in
`reference.jsonl`; a resumed run reads them and measures only the remaining questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset
from tqdm.auto import tqdm

from rewards.call import RewardError
from rewards.efficiency import REFERENCE_SAMPLES, o1_pruner
from rewards.score import Reward, score_episodes
from rewards.task import answer
from rl.rollouts import task_of
from rollout.errors import InputError
from rollout.types import Episode, StopReason, Task

_QUESTIONS = 64  # rolled out at once; results are written after each such batch
COLUMNS = ("ref_lengths", "ref_accuracy")


def with_baseline(
    dataset: Dataset,
    path: Path,
    rewards: list[Reward],
    roll_out: Callable[[list[Task]], list[Episode]],
    *,
    is_main: bool = True,
    progress: bool = False,
) -> Dataset:
    """Adds `ref_lengths` (tokens of each sample) and `ref_accuracy` to the questions, if a reward needs them.

    A dataset that already has these columns is returned unchanged. Every rank calls it, before the first step.

    Args:
        path: file in which results are saved.
        roll_out: returns all ranks' episodes for tasks that all ranks know.
        is_main: whether this rank scores and writes.
    """
    pruners = [r for r in rewards if r.fn is o1_pruner]
    samples = max((r.settings.get("samples", REFERENCE_SAMPLES) for r in pruners), default=0)
    given = set(COLUMNS) & set(dataset.column_names)
    if not samples or given == set(COLUMNS):
        return dataset
    if given:
        raise InputError(f"the data has only the column {given.pop()!r}: a reference needs {' and '.join(COLUMNS)}")
    known: list[Any] = [_read(path) if is_main else None]
    broadcast_object_list(known)
    found: dict[str, dict[str, Any]] = known[0]
    rows = [row for row in dataset if _key(row) not in found]
    done = len(dataset) - len(rows)
    with tqdm(total=len(dataset), initial=done, desc="baseline", unit="question", disable=not progress) as bar:
        for start in range(0, len(rows), _QUESTIONS):
            batch = rows[start : start + _QUESTIONS]
            episodes = roll_out([task_of(row, group) for group, row in enumerate(batch) for _ in range(samples)])
            made = _measure(batch, episodes, rewards, is_main)
            found |= made
            if is_main:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"key": key, **values}) + "\n" for key, values in made.items())
            bar.update(len(batch))
    lost = [row for row in dataset if _key(row) not in found]
    if lost:
        tqdm.write(f"baseline: no episode of {len(lost)} questions finished; they are left out of this run")
        dataset = dataset.filter(lambda row: _key(row) in found)
    for name in COLUMNS:
        dataset = dataset.add_column(name, [found[_key(row)][name] for row in dataset])
    return dataset


def _measure(
    rows: list[dict[str, Any]], episodes: list[Episode], rewards: list[Reward], is_main: bool
) -> dict[str, dict[str, Any]]:
    """Returns lengths and accuracy of each row's samples, the same on every rank.

    Samples that can't be judged count as wrong. Failed episodes don't count.
    """
    outcome: list[Any] = [None]
    if is_main:
        verifiers = [r for r in rewards if r.verifier][:1] or [Reward(answer, "answer")]
        try:
            outcome = [_summaries(rows, episodes, score_episodes(episodes, verifiers).correct)]
        except RewardError as error:  # raised on all ranks below
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], RewardError):
        raise outcome[0]
    return outcome[0]


def _summaries(
    rows: list[dict[str, Any]], episodes: list[Episode], correct: list[float | None]
) -> dict[str, dict[str, Any]]:
    by_row: dict[Any, list[int]] = {}
    for index, episode in enumerate(episodes):
        if episode.stop_reason != StopReason.FAILED:
            by_row.setdefault(episode.group_id, []).append(index)
    return {
        _key(rows[group]): {
            "ref_lengths": [max(1, episodes[i].num_tokens) for i in members],
            "ref_accuracy": fmean(correct[i] or 0.0 for i in members),
        }
        for group, members in by_row.items()
    }


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["prompt"], row.get("answer", row.get("solution"))], sort_keys=True, default=str)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the results of earlier starts. Removes an incomplete last line, so that the next line is separate."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    found = {}
    for line in whole.split("\n"):
        with suppress(ValueError, TypeError, KeyError):  # not a line of ours: its question is rolled out again
            values = json.loads(line)
            found[values["key"]] = {name: values[name] for name in COLUMNS}
    return found
