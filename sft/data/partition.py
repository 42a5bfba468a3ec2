"""Cuts many traces in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rollout.errors import UserError
from sft.counting import TokenCounter
from sft.segment import cut_reasoning

_WORTH_A_POOL = 1_000_000  # characters in one call: fewer are done before a process has started
_CHUNK = 16  # traces that a worker gets at a time

Cuts = list[tuple[int, int]]
"""(end in characters, tokens) of each segment."""


class Partitioner:
    """Cuts traces by a tokenizer's counts. `close` ends its processes.

    Args:
        floor: minimum tokens of a segment if its neighbors have room; None: a 16th of eta.
        packing: one of `sft.segment.PACKINGS`.
        workers: processes; None: one for each core that this process may use, at most 8.
    """

    def __init__(self, counter: TokenCounter, floor: int | None, packing: str, workers: int | None = None):
        self.counter, self.floor, self.packing = counter, floor, packing
        self.workers = workers or min(8, len(os.sched_getaffinity(0)))
        self._pool: ProcessPoolExecutor | None = None

    def cut(self, texts: Sequence[str], etas: Sequence[int]) -> list[Cuts | str]:
        """Returns the cuts of each text, or the reason why it can't be cut."""
        items = [(text, eta, self._floor(eta), self.packing) for text, eta in zip(texts, etas, strict=True)]
        if self._pool is None and self.workers > 1 and sum(map(len, texts)) >= _WORTH_A_POOL:
            # Spawned, not forked: this process has threads.
            context = multiprocessing.get_context("spawn")
            arguments = (self.counter.tokenizer.to_str(),)
            self._pool = ProcessPoolExecutor(self.workers, context, _start_worker, arguments)
        if self._pool is None:
            return [_cut(self.counter, item) for item in items]
        try:
            return list(self._pool.map(_cut_in_worker, items, chunksize=_CHUNK))
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {self.workers} processes that cut traces was killed (out of memory?): lower data.workers "
                "and run the same command again"
            ) from error

    def _floor(self, eta: int) -> int:
        return eta // 16 if self.floor is None else min(self.floor, eta // 2)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_Item = tuple[str, int, int, str]
_worker_counter: Any = None


def _start_worker(tokenizer: str) -> None:
    global _worker_counter
    from tokenizers import Tokenizer

    threading.Thread(target=_end_with_parent, daemon=True).start()

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker_counter = TokenCounter(Tokenizer.from_str(tokenizer))


def _end_with_parent() -> None:
    """Exits when the parent does: a killed parent can't end its workers, which keep both ends of their queue open."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _cut_in_worker(item: _Item) -> Cuts | str:
    return _cut(_worker_counter, item)


def _cut(counter: TokenCounter, item: _Item) -> Cuts | str:
    text, eta, floor, packing = item
    try:
        return cut_reasoning(text, counter, eta, floor=floor, packing=packing)
    except ValueError:  # the settings are already checked, so the text is the cause
        return "a character is longer than a segment"
