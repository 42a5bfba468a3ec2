"""Rolls out a generation batch: each rank runs its own tasks, and all ranks receive all episodes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import GenerationConfig

from rl.accumulator import StepTimes
from rl.settings.unsupported import VLLM_SETTINGS, read_generation_kwargs
from rollout.engines import channel_of
from rollout.episodes import run_episodes
from rollout.errors import ConfigError, NoServerError
from rollout.hf_engine import TransformersEngine
from rollout.protocol import RoundProtocol
from rollout.types import Engine, Episode, Sampling, Task


class Rollouter:
    """Rolls out episodes on `ranks` ranks, each with its own engine.

    Args:
        sampling: sampling settings of every round.
        seed: every request gets its own seed, derived from this one; None: the engine draws.
        times: receives the seconds of each batch.
        progress: shows a progress bar.
    """

    def __init__(
        self,
        engine: Engine,
        protocol: RoundProtocol,
        tokenizer: Any,
        sampling: Sampling,
        *,
        seed: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        times: StepTimes | None = None,
        progress: bool = False,
    ):
        self.engine, self.protocol, self.tokenizer, self.sampling = engine, protocol, tokenizer, sampling
        self.rank, self.ranks = rank, ranks
        self._seed, self._times, self._progress = seed, times or StepTimes(), progress

    def collect(self, tasks: Sequence[Task], batch: int) -> list[Episode]:
        """Returns all ranks' episodes, in rank order, for each rank's `tasks`. Every rank calls it.

        Args:
            batch: number of the generation batch, for the seeds.

        Raises:
            NoServerError: on all ranks, if one of them has lost its servers for good.
        """
        with tqdm(total=len(tasks), desc="rollout", unit="episode", leave=False, disable=not self._progress) as bar:
            return self.gather(lambda: self.run(tasks, batch, on_episode=lambda *_: bar.update()))

    def share(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Returns this rank's part of tasks that all ranks know."""
        return tasks[len(tasks) * self.rank // self.ranks : len(tasks) * (self.rank + 1) // self.ranks]

    def run(
        self,
        tasks: Sequence[Task],
        batch: int,
        tokenizer: Any = None,
        on_episode: Callable[[int, Episode], None] | None = None,
    ) -> list[Episode]:
        """Returns the episodes of this rank only.

        Args:
            tokenizer: a copy for this thread, because two threads must not use a fast tokenizer at once.
        """
        engine, tokenizer = channel_of(self.engine), tokenizer or self.tokenizer
        return run_episodes(tasks, engine, self.protocol, tokenizer, self._seeded(tasks, batch), on_episode=on_episode)

    def gather(self, rolled: Callable[[], list[Episode]]) -> list[Episode]:
        """Calls `rolled` for this rank's episodes and returns all ranks', in rank order. Every rank calls it."""
        with self._times.measure("time/rollout"):
            outcome: list[Any]
            try:
                outcome = rolled()
            except NoServerError as error:  # raised on all ranks below
                outcome = [error]
            gathered = gather_object(outcome)
        lost = next((item for item in gathered if isinstance(item, NoServerError)), None)
        if lost is not None:
            raise lost
        return gathered

    def _seeded(self, tasks: Sequence[Task], batch: int) -> Sampling:
        """Returns the sampling settings, with a different seed for each generation batch, rank and refill."""
        if self._seed is None:
            return self.sampling
        first = tasks[0].group_id if tasks else 0
        return replace(self.sampling, seed=zlib.crc32(f"{self._seed}/{batch}/{self.rank}/{first}".encode()))


def tasks_of(rows: Sequence[dict[str, Any]], rank: int, group_size: int) -> list[Task]:
    """Returns one task per row. TRL repeats each question `group_size` times consecutively, across all ranks."""
    first = rank * len(rows)
    return [task_of(row, (first + index) // group_size) for index, row in enumerate(rows)]


def task_of(row: dict[str, Any], group: int) -> Task:
    """Returns the task for a row of the dataset."""
    columns = {key: value for key, value in row.items() if key != "prompt"}
    return Task(row["prompt"], row.get("answer", row.get("solution")), group, columns)


def sampling_of(args: Any, engine: Engine) -> Sampling:
    """Returns the `Sampling` for a `trl.GRPOConfig`.

    Raises:
        ConfigError: the engine or the episode loop can't take `generation_kwargs` or `cache_implementation`.
    """
    known = None
    if isinstance(engine, TransformersEngine):
        known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    elif type(engine).__name__ in ("VLLMEngine", "ServerEngine"):
        known = VLLM_SETTINGS
    fields, further = read_generation_kwargs("", args.generation_kwargs, args.temperature, known)
    if args.cache_implementation is not None:
        if not isinstance(engine, TransformersEngine):
            raise ConfigError("cache_implementation is a setting of transformers' `generate`, which is not the engine")
        further = (("cache_implementation", args.cache_implementation), *further)
    settings = {
        "max_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k or 0,
        "min_p": args.min_p or 0.0,
        "repetition_penalty": args.repetition_penalty,
    }
    return Sampling(**settings | fields, further=further)


def generates_itself(engine: Engine, model: Any) -> bool:
    """Returns whether the engine samples with the trained parameters themselves, not a copy."""
    if not isinstance(engine, TransformersEngine):
        return False
    trained = {id(parameter) for parameter in model.parameters()}
    return any(id(parameter) in trained for parameter in engine.model.parameters())
