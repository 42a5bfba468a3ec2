"""Episodes for a generation batch: tasks of this rank, the policy's newest weights, the episodes of all ranks."""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from rollout.episodes import run_episodes
from rollout.server_pool import NoServerError
from rollout.types import Episode, Sampling, Task
from rollout.weights import policy_tensors

if TYPE_CHECKING:
    from rl.trainer import EpisodeGRPOTrainer


def tasks_of(trainer: EpisodeGRPOTrainer, rows: list[dict[str, Any]], mode: str) -> list[Task]:
    """One task a row. TRL repeats each question num_generations times in a row, over all ranks."""
    size = trainer.num_generations if mode == "train" else trainer.num_generations_eval
    first = trainer.accelerator.process_index * len(rows)
    return [task_of(row, (first + index) // size) for index, row in enumerate(rows)]


def task_of(row: dict[str, Any], group: int) -> Task:
    """An episode to roll out for a row of the dataset."""
    columns = {key: value for key, value in row.items() if key != "prompt"}
    return Task(row["prompt"], row.get("answer", row.get("solution")), group, columns)


def episodes_of_all_ranks(trainer: EpisodeGRPOTrainer, tasks: list[Task]) -> list[Episode]:
    """Rolls out this rank's `tasks`; returns the episodes of all ranks, in rank order.

    Raises:
        NoServerError: the servers are gone for good. All ranks have then saved a checkpoint together.
    """
    outcome: list[Any] = []
    try:
        outcome = _rollout(trainer, tasks)
    except NoServerError as error:
        outcome = [error]
    gathered = gather_object(outcome)
    lost = next((item for item in gathered if isinstance(item, NoServerError)), None)
    if lost is not None:
        if trainer.model.training and trainer.state.global_step:
            trainer._save_checkpoint(trainer.model, trial=None)
        raise lost
    return gathered


def _rollout(trainer: EpisodeGRPOTrainer, tasks: list[Task]) -> list[Episode]:
    _sync_weights(trainer)
    started = time.perf_counter()
    sampling = Sampling(
        max_tokens=trainer.max_completion_length,
        temperature=trainer.temperature,
        top_p=trainer.top_p,
        top_k=trainer.top_k or 0,
        min_p=trainer.min_p or 0.0,
        seed=_seed(trainer, tasks) if getattr(trainer.args, "seeded_rollouts", False) else None,
    )
    hidden = trainer.args.disable_tqdm or not trainer.accelerator.is_main_process
    with tqdm(total=len(tasks), desc="rollout", unit="episode", leave=False, disable=hidden) as bar:
        episodes = run_episodes(
            tasks, trainer.engine, trainer.protocol, trainer._tokenizer, sampling, on_episode=lambda *_: bar.update()
        )
    trainer.add_time("time/rollout", time.perf_counter() - started)
    return episodes


def _seed(trainer: EpisodeGRPOTrainer, tasks: list[Task]) -> int:
    """Another one for each step, each rank and each wave of further questions."""
    first = tasks[0].group_id if tasks else 0
    key = f"{trainer.args.seed}/{trainer.state.global_step}/{trainer.accelerator.process_index}/{first}"
    return zlib.crc32(key.encode())


def _sync_weights(trainer: EpisodeGRPOTrainer) -> None:
    """Gives the engine the weights of this optimizer step, if its own are a copy."""
    sync = getattr(trainer.engine, "sync_weights", None)
    if sync is None or trainer.synced_step == trainer.state.global_step:
        return
    started = time.perf_counter()
    with policy_tensors(trainer.accelerator.unwrap_model(trainer.model)) as tensors:
        told = [sync(tensors)]
    adopt = getattr(trainer.engine, "adopt", None)
    if adopt is not None:  # servers: one rank has written the weights, all make sure of what they talk to
        broadcast_object_list(told)
        adopt(told[0])
    trainer.synced_step = trainer.state.global_step
    trainer.add_time("time/sync", time.perf_counter() - started)
