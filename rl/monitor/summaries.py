"""The header lines of all runs, each in a limited time: one folder that is slow to read does not hide the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

from rl.monitor.runs import Run

SECONDS = 0.8
"""That an answer waits for the runs; those that take longer are named, and read on for the next answer."""


class Summaries:
    """Reads runs side by side. A read that never ends keeps one thread, and is not begun twice.

    Where a read takes longer than the wait, the line of the last one stands; without one, it says so.
    """

    def __init__(self, seconds: float = SECONDS):
        self._seconds = seconds
        self._lock = threading.Lock()
        self._reads: dict[str, _Read] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def of(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """A header line for each run, in order."""
        with self._lock:
            reads = []
            for run in runs:
                if run.id not in self._reads:
                    self._reads[run.id] = _Read(run)
                reads.append(self._reads[run.id])
        until = time.monotonic() + self._seconds
        for read in reads:
            read.wait(until - time.monotonic())
        with self._lock:
            for read in reads:
                if read.line is not None:
                    self._last[read.run.id] = read.line
                    if self._reads.get(read.run.id) is read:
                        del self._reads[read.run.id]
            return [self._last.get(run.id) or _unread(run) for run in runs]


def _unread(run: Run) -> dict[str, Any]:
    return run.nothing() | {"state": "waiting", "message": "is still being read"}


class _Read:
    def __init__(self, run: Run):
        self.run = run
        self.line: dict[str, Any] | None = None  # None: not yet read
        self._done = threading.Event()
        threading.Thread(target=self._work, name=f"summary of {run.id}", daemon=True).start()

    def wait(self, seconds: float) -> None:
        self._done.wait(max(0.0, seconds))

    def _work(self) -> None:
        try:
            self.line = self.run.summary()
        except Exception as error:  # what one run's folder holds must not hide the others
            logging.getLogger(__name__).exception("run %s", self.run.id)
            self.line = self.run.nothing() | {"message": f"can't be read: {type(error).__name__}: {error}"}
        finally:
            self._done.set()
