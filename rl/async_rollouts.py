"""The next generation batches roll out while this one trains: `async_steps` batches ahead at most.

A batch starts with the weights of the moment, so it is `async_steps` generation batches old when its turn comes (its
first rounds; a batch that is under way at a weight sync goes on with the new weights). What is old is corrected by the
importance ratio k, as any mismatch is.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rl.rollouts import channel_of, episodes_of_all_ranks, sampling_of, sync_weights, tasks_of
from rollout.episodes import run_episodes
from rollout.types import Episode

if TYPE_CHECKING:
    from rl.trainer import EpisodeGRPOTrainer

Rows = list[dict[str, Any]]


class Lookahead:
    """A data loader's batches; those to come can be seen before their turn."""

    def __init__(self, batches: Iterator[Rows]):
        self._batches = batches
        self._buffer: deque[Rows] = deque()  # from the batch in training on
        self._given = 0  # how many of these were handed out

    def __iter__(self) -> Lookahead:
        return self

    def __next__(self) -> Rows:
        batch = self.peek(self._given)
        if batch is None:
            raise StopIteration
        self._given += 1
        return batch

    def peek(self, offset: int) -> Rows | None:
        """The batch that comes `offset` after the one in training; None past the end of the epoch."""
        while len(self._buffer) <= offset:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._buffer.append(batch)
        return self._buffer[offset]

    def advance(self) -> None:
        """The batch in training is done."""
        self._buffer.popleft()
        self._given -= 1


@dataclass
class _Batch:
    rows: Rows
    episodes: Future[list[Episode]]


class Ahead:
    """The generation batches under way. Every rank has its own part of each, in a thread.

    Args:
        depth: most batches under way while one trains (`async_steps`), at least 1.
    """

    def __init__(self, trainer: EpisodeGRPOTrainer, depth: int):
        self._trainer, self._depth = trainer, depth
        self._under_way: deque[_Batch] = deque()
        # A fast tokenizer must not be used by two threads at once.
        self._tokenizers = deque(copy.deepcopy(trainer._tokenizer) for _ in range(depth + 1))
        self._source: Iterator[Rows] | None = None
        self._batches: Lookahead | None = None

    def watch(self, source: Iterator[Rows]) -> Lookahead:
        """The batches of `source`; always the same object for the same source. A new one begins an epoch."""
        if source is not self._source:
            self._source, self._batches = source, Lookahead(source)
            self._under_way.clear()
        return self._batches

    def advance(self) -> None:
        """One accumulation step is done."""
        self._batches.advance()

    def episodes(self, rows: Rows) -> list[Episode]:
        """Episodes of all ranks for the batch whose turn it is; then starts further ones. Every rank calls it."""
        trainer = self._trainer
        if not self._under_way:
            sync_weights(trainer)
            self._start(rows, 0)
        batch = self._under_way.popleft()
        assert batch.rows is rows, "the data loader gave another batch than it showed"
        episodes = episodes_of_all_ranks(trainer, batch.episodes.result)
        sync_weights(trainer)
        every = trainer.args.steps_per_generation * trainer.num_iterations  # accumulation steps of a generation batch
        left = (trainer.state.max_steps - trainer.state.global_step) * trainer.args.gradient_accumulation_steps
        for number in range(len(self._under_way) + 1, self._depth + 1):
            further = self._batches.peek(number * every)
            if further is None or number * every >= left - trainer._step % trainer.args.gradient_accumulation_steps:
                break
            self._start(further, number * every)
        return episodes

    def _start(self, rows: Rows, ahead: int) -> None:
        trainer, episodes = self._trainer, Future()
        tasks = tasks_of(trainer, rows, "train")
        self._tokenizers.rotate()
        tokenizer, engine = self._tokenizers[0], channel_of(trainer.engine)
        sampling = sampling_of(trainer, tasks, ahead)

        def roll_out() -> None:
            try:
                episodes.set_result(run_episodes(tasks, engine, trainer.protocol, tokenizer, sampling))
            except BaseException as error:  # it is the trainer's thread that must hear of it
                episodes.set_exception(error)

        # A daemon: an interrupted run does not wait for episodes that nobody will train on.
        threading.Thread(target=roll_out, daemon=True, name=f"rollout+{ahead}").start()
        self._under_way.append(_Batch(rows, episodes))
