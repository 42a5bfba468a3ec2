"""The header lines of all runs, with a timeout: one slow folder does not hide the other runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any

from rl.monitor.runs import Run

SECONDS = 0.8
"""How long a response waits for the runs; slower ones are marked, and their reads continue for the next response."""


class Summaries:
    """Reads runs in parallel. A read that never ends occupies one thread and is not started twice.

    If a read exceeds the timeout, the line of the previous read is returned; without one, the line says so.
    """

    def __init__(self, seconds: float = SECONDS):
        self._seconds = seconds
        self._lock = threading.Lock()
        self._reads: dict[str, Future[dict[str, Any]]] = {}
        self._last: dict[str, dict[str, Any]] = {}

    def of(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Returns a header line for each run, in order."""
        with self._lock:
            for run in runs:
                if run.id not in self._reads:
                    self._reads[run.id] = _start(run)
            reads = {run.id: self._reads[run.id] for run in runs}
        for read in wait(reads.values(), self._seconds).done:
            id = read.result()["id"]
            self._last[id] = read.result()
            with self._lock:
                if self._reads.get(id) is read:
                    del self._reads[id]
        unread = {"state": "waiting", "message": "is still being read"}
        return [self._last.get(run.id) or run.nothing() | unread for run in runs]


def _start(run: Run) -> Future[dict[str, Any]]:
    read: Future[dict[str, Any]] = Future()
    # not a thread of a pool: one that never ends would keep the process alive
    threading.Thread(target=lambda: read.set_result(_line(run)), name=f"summary of {run.id}", daemon=True).start()
    return read


def _line(run: Run) -> dict[str, Any]:
    try:
        return run.summary()
    except Exception as error:  # one bad run folder must not hide the others
        logging.getLogger(__name__).exception("run %s", run.id)
        return run.nothing() | {"message": f"can't be read: {type(error).__name__}: {error}"}
