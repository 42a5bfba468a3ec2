"""What the model did before training, for rewards that compare with it (O1-Pruner, arXiv 2501.12570).

Once, before the first step: a few episodes a question from the starting model. They are kept in `reference.jsonl`; a
resume reads them, and goes on where the pass broke off.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from rewards.call import RewardError
from rewards.score import Reward, score_episodes
from rewards.task import answer
from rl.rollouts import roll_out_now, task_of
from rollout.errors import InputError
from rollout.types import Episode, StopReason

if TYPE_CHECKING:
    from rl.trainer import EpisodeGRPOTrainer

_QUESTIONS = 64  # rolled out at once; what is done is written after each such batch
COLUMNS = ("ref_lengths", "ref_accuracy")


def add_reference(trainer: EpisodeGRPOTrainer, path: Path) -> None:
    """Adds `ref_lengths` (tokens of each sample) and `ref_accuracy` to the questions, where a reward needs them.

    Questions that bring these columns keep theirs. Every rank calls it, with the starting model in the trainer.
    """
    samples = max((getattr(r.fn, "reference_samples", 0) for r in trainer.rewards), default=0)
    dataset = trainer.train_dataset
    given = set(COLUMNS) & set(dataset.column_names)
    if not samples or given == set(COLUMNS):
        return
    if given:
        raise InputError(f"the data has the column {given.pop()!r} alone: a reference is {' and '.join(COLUMNS)}")
    known: list[Any] = [_read(path) if trainer.accelerator.is_main_process else None]
    broadcast_object_list(known)
    found: dict[str, dict[str, Any]] = known[0]
    rows = [row for row in dataset if _key(row) not in found]
    hidden = trainer.args.disable_tqdm or not trainer.accelerator.is_main_process
    with tqdm(
        total=len(dataset), initial=len(dataset) - len(rows), desc="reference", unit="question", disable=hidden
    ) as bar:
        for start in range(0, len(rows), _QUESTIONS):
            batch = rows[start : start + _QUESTIONS]
            made = _roll_out(trainer, batch, samples)
            found |= made
            if trainer.accelerator.is_main_process:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"key": key, **values}) + "\n" for key, values in made.items())
            bar.update(len(batch))
    lost = [row for row in dataset if _key(row) not in found]
    if lost:
        tqdm.write(f"reference: no episode of {len(lost)} questions came to an end; they are left out of this run")
        dataset = dataset.filter(lambda row: _key(row) in found)
    for name in COLUMNS:
        dataset = dataset.add_column(name, [found[_key(row)][name] for row in dataset])
    trainer.train_dataset = dataset
    trainer.forget_times()


def _roll_out(trainer: EpisodeGRPOTrainer, rows: list[dict[str, Any]], samples: int) -> dict[str, dict[str, Any]]:
    """Lengths and accuracy of each row's samples, the same on every rank.

    What can't be judged counts as wrong; episodes that the engine lost don't count.
    """
    tasks = [task_of(row, group) for group, row in enumerate(rows) for _ in range(samples)]
    ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    episodes = roll_out_now(trainer, tasks[len(tasks) * rank // ranks : len(tasks) * (rank + 1) // ranks])
    outcome: list[Any] = [None]
    if trainer.accelerator.is_main_process:
        verifiers = [r for r in trainer.rewards if r.verifier][:1] or [Reward(answer, "answer")]
        try:
            outcome = [_summaries(rows, episodes, score_episodes(episodes, verifiers).correct)]
        except RewardError as error:  # all ranks must hear of it
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
    """What earlier starts wrote. A last line that is torn is taken off, so that the next one stands by itself."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    found = {}
    for line in whole.split("\n"):
        with suppress(ValueError, TypeError, KeyError):  # a line that is none of ours: its question is asked again
            values = json.loads(line)
            found[values["key"]] = {name: values[name] for name in COLUMNS}
    return found
