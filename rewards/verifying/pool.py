"""A pool of child processes that judge answers: started on first use, kept warm, killed if they hang, replaced if dead.

The judge is a function `f(prediction, gold) -> Verdict`, given as `module:name`; each judge has its own children.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Pipe
from queue import Empty, SimpleQueue

from rewards.types import Verdict
from rollout.errors import UserError

DIED = "died "  # prefix of the verdict on an answer that killed the worker

MEMORY_BYTES = 2 << 30  # address space of one child, of which sympy and Python take 0.3 GiB
_BATCH = 8  # answers per message, so that the pipe costs little compared with sympy
_WALL_FACTOR = 20  # seconds of wall time allowed per second of CPU time, for loaded machines
_START_SECONDS = 120.0  # a child imports sympy first


class _Child:
    """A verifier process that handles one batch at a time."""

    def __init__(self, judge: str):
        self.connection, theirs = Pipe()
        worker = [sys.executable, "-P", "-m", "rewards.verifying.worker"]
        command = [*worker, str(theirs.fileno()), str(MEMORY_BYTES), judge]
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        }
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        theirs.close()
        try:
            ready = self.connection.poll(_START_SECONDS) and self.connection.recv_bytes()
        except EOFError:
            ready = None
        if not ready:
            self.close()
            module = judge.partition(":")[0]
            raise UserError(f"the verifier {judge} did not start: try `python -c 'import {module}'`")

    def ask(self, pairs: Sequence[tuple[str, str]], timeout: float) -> list[Verdict]:
        """Returns the verdicts; fewer than `pairs` if a limit was hit, and then the last one is the reason."""
        verdicts: list[Verdict] = []
        try:
            self.connection.send((pairs, timeout))
            for _ in pairs:
                if not self.connection.poll(timeout * _WALL_FACTOR):
                    self.close()  # the machine's fault: the child's CPU time is limited by the kernel
                    return [*verdicts, Verdict.ERROR]
                answer = self.connection.recv_bytes().decode()
                verdicts.append(Verdict(answer.removeprefix(DIED)))
                if answer.startswith(DIED):
                    break
        except (EOFError, OSError):
            self.close()
            return [*verdicts, Verdict.ERROR]
        except BaseException:  # an interrupt: pending answers must not reach a later caller
            self.close()
            raise
        return verdicts

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Kills both of its processes, whatever their state."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


_MOST = max(2, min(8, len(os.sched_getaffinity(0))))
_idle: dict[str, SimpleQueue[_Child]] = defaultdict(SimpleQueue)  # by judge
_at_work = threading.BoundedSemaphore(_MOST)  # shared by all callers


def _take_idle(judge: str) -> _Child | None:
    while True:
        try:
            child = _idle[judge].get_nowait()
        except Empty:
            return None
        if child.alive:
            return child


def ask_children(
    pairs: Sequence[tuple[str, str]],
    timeout: float,
    workers: int | None = None,
    judge: str = "rewards.verifying.compare:judge",
) -> list[Verdict]:
    """Returns the verdicts on `pairs`, in order; batches are sent to any free child."""
    if not pairs:
        return []
    workers = min(workers or _MOST, _MOST)
    size = max(1, min(_BATCH, len(pairs) // (16 * workers)))
    starts = iter(range(0, len(pairs), size))
    verdicts: list[Verdict | None] = [None] * len(pairs)
    lock = threading.Lock()

    def work() -> None:
        with _at_work:
            work_through()

    def work_through() -> None:
        child = _take_idle(judge)
        try:
            while True:
                with lock:
                    start = next(starts, None)
                if start is None:
                    return
                stop = min(start + size, len(pairs))
                while start < stop:
                    if child is None or not child.alive:
                        child = _Child(judge)
                    found = child.ask(pairs[start:stop], timeout)
                    verdicts[start : start + len(found)] = found
                    start += len(found)
        finally:
            if child is not None and child.alive:
                _idle[judge].put(child)

    count = min(workers, -(-len(pairs) // size))
    if count == 1:
        work()
    else:
        with ThreadPoolExecutor(count, thread_name_prefix="verify") as threads:
            for future in [threads.submit(work) for _ in range(count)]:
                future.result()
    return verdicts


def warm() -> None:
    """Starts the children in the background, so that the first batch need not wait for them."""
    pairs = [("\\boxed{1/2}", "0.5")] * (16 * _MOST)
    threading.Thread(target=ask_children, args=(pairs, 60.0), daemon=True, name="verify-warm").start()


def _forget() -> None:
    """Resets the pool after a fork, because the children belong to the parent."""
    global _idle, _at_work
    _idle, _at_work = defaultdict(SimpleQueue), threading.BoundedSemaphore(_MOST)


def _shut_down() -> None:
    for judge in list(_idle):
        while (child := _take_idle(judge)) is not None:
            child.close()


os.register_at_fork(after_in_child=_forget)
atexit.register(_shut_down)
