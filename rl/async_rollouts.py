"""Asynchronous, off-policy rollouts: the next generation batches roll out while the current one trains.

A batch starts with the current weights, so its first rounds are `async_steps` generation batches old when they are
trained on. At a weight sync, batches in progress continue with the new weights. The importance ratio k corrects for
old weights, as for any mismatch.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rl.rollouts import Rollouter
from rollout.types import Episode, Task

Rows = list[dict[str, Any]]


class Lookahead:
    """Iterates over a data loader's batches, and can peek at later ones."""

    def __init__(self, batches: Iterator[Rows]):
        self._batches = batches
        self._buffer: deque[Rows] = deque()  # starts at the batch in training
        self._given = 0  # how many of them were yielded

    def __iter__(self) -> Lookahead:
        return self

    def __next__(self) -> Rows:
        batch = self.peek(self._given)
        if batch is None:
            raise StopIteration
        self._given += 1
        return batch

    def peek(self, offset: int) -> Rows | None:
        """Returns the batch `offset` after the one in training; None past the end of the epoch."""
        while len(self._buffer) <= offset:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._buffer.append(batch)
        return self._buffer[offset]

    def advance(self) -> None:
        """Drops the batch in training, which is done."""
        self._buffer.popleft()
        self._given -= 1


@dataclass
class _Batch:
    rows: Rows
    episodes: Future[list[Episode]]


class AsyncRollouter:
    """Rolls out generation batches ahead of training. Each rank runs its part of each batch in a thread.

    Args:
        depth: maximum number of batches in progress while one trains (`async_steps`), at least 1.
        every: accumulation steps per generation batch.
        tasks_of: maps this rank's rows to tasks.
        sync: sends the newest weights to the engine.
    """

    def __init__(
        self,
        rollouter: Rollouter,
        depth: int,
        every: int,
        tasks_of: Callable[[Rows], list[Task]],
        sync: Callable[[], None],
    ):
        self._rollouter, self._depth, self._every = rollouter, depth, every
        self._tasks_of, self._sync = tasks_of, sync
        self._under_way: deque[_Batch] = deque()
        # A fast tokenizer must not be used by two threads at once.
        self._tokenizers = deque(copy.deepcopy(rollouter.tokenizer) for _ in range(depth + 1))
        self._source: Iterator[Rows] | None = None
        self._batches: Lookahead | None = None

    def watch(self, source: Iterator[Rows]) -> Lookahead:
        """Returns the batches of `source`, the same object for the same source. A new source starts an epoch."""
        if source is not self._source:
            self._source, self._batches = source, Lookahead(source)
            self._under_way.clear()
        return self._batches

    def advance(self) -> None:
        """Called after each accumulation step."""
        self._batches.advance()

    def collect(self, rows: Rows, batch: int, left: int) -> list[Episode]:
        """Returns all ranks' episodes of the current batch, and starts later batches. Every rank calls it.

        Args:
            batch: its number (accumulation steps so far), for the seeds.
            left: accumulation steps until the end of training.
        """
        if not self._under_way:
            self._sync()
            self._start(rows, batch)
        current = self._under_way.popleft()
        assert current.rows is rows, "the data loader gave another batch than it showed"
        episodes = self._rollouter.gather(current.episodes.result)
        self._sync()
        for number in range(len(self._under_way) + 1, self._depth + 1):
            ahead = number * self._every
            further = self._batches.peek(ahead)
            if further is None or ahead >= left:
                break
            self._start(further, batch + ahead)
        return episodes

    def _start(self, rows: Rows, batch: int) -> None:
        tasks, episodes = self._tasks_of(rows), Future()
        self._tokenizers.rotate()
        tokenizer = self._tokenizers[0]

        def roll_out() -> None:
            try:
                episodes.set_result(self._rollouter.run(tasks, batch, tokenizer))
            except BaseException as error:  # re-raised in the trainer's thread
                episodes.set_exception(error)

        # A daemon, so that an interrupted run does not wait for episodes that won't be trained on.
        threading.Thread(target=roll_out, daemon=True, name=f"rollout-{batch}").start()
        self._under_way.append(_Batch(rows, episodes))
