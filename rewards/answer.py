"""Verified answers: math-verify in a process that can be killed.

math-verify's own time limit is a signal: it works on the main thread only and does not stop sympy in the middle of a
huge power. Here each answer runs in a child with a limit on its CPU time (set by the kernel, so a loaded machine does
not turn right answers wrong) and on its memory; a child that dies is replaced.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from multiprocessing.connection import Connection, Pipe
from queue import Empty, Queue

_WALL_FACTOR = 20  # seconds of wall time allowed for one of CPU time, on a loaded machine
_START_SECONDS = 120.0  # a child imports sympy first
_NUMBER = re.compile(r"[+-]?\d{1,15}")


class Verdict(StrEnum):
    CORRECT = "correct"
    INCORRECT = "incorrect"
    TIMEOUT = "timeout"  # the comparison took longer than its limit
    UNPARSABLE_GOLD = "unparsable_gold"  # the reference answer is the problem, not the model's
    ERROR = "error"  # the child failed: memory, or a fault in the verifier


def verify(prediction: str, gold: str, timeout: float = 5.0) -> Verdict:
    """Does the final output `prediction` answer with `gold`?

    Only what follows the last `</think>` counts. Boxed answers that differ from one another are a hedge: incorrect.

    Args:
        timeout: CPU seconds that the comparison may take.
    """
    return verify_many([(prediction, gold)], timeout)[0]


def verify_many(pairs: Iterable[tuple[str, str]], timeout: float = 5.0) -> list[Verdict]:
    """Verdicts of (prediction, gold) pairs, in order. Works from any thread."""
    pairs = [(str(prediction), str(gold)) for prediction, gold in pairs]
    verdicts = [_plain_number(answer_part(prediction), gold) for prediction, gold in pairs]
    hard = [index for index, verdict in enumerate(verdicts) if verdict is None]
    if hard:
        results = _pool().map(lambda i: _in_child(answer_part(pairs[i][0]), pairs[i][1], timeout), hard)
        for index, verdict in zip(hard, results, strict=True):
            verdicts[index] = verdict
    return verdicts


def answer_part(prediction: str) -> str:
    """The final output after the thinking."""
    return prediction.rpartition("</think>")[2]


def boxed_answers(text: str) -> list[str]:
    r"""Contents of each `\boxed{…}`, with nested braces; an unclosed one is left out."""
    answers = []
    for match in re.finditer(r"\\boxed\s*\{", text):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                answers.append(text[match.end() : position].strip())
                break
    return answers


def _plain_number(prediction: str, gold: str) -> Verdict | None:
    """The verdict when both are one boxed whole number: no need for sympy."""
    boxes = set(boxed_answers(prediction))
    if len(boxes) == 1 and _NUMBER.fullmatch(gold.strip()):
        box = boxes.pop()
        if _NUMBER.fullmatch(box):
            return Verdict.CORRECT if int(box) == int(gold) else Verdict.INCORRECT
    return None


class _Child:
    """A verifier process. One request at a time."""

    def __init__(self):
        self.connection, theirs = Pipe()
        command = [sys.executable, "-P", "-m", "rewards.answer_worker", str(theirs.fileno())]
        package_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([package_root, *filter(None, sys.path)])}
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
        theirs.close()
        self._receive(_START_SECONDS)

    def _receive(self, seconds: float) -> str | None:
        connection: Connection = self.connection
        return connection.recv() if connection.poll(seconds) else None

    def ask(self, prediction: str, gold: str, timeout: float) -> Verdict:
        """A verdict; after TIMEOUT or ERROR the child may be dead (`alive` tells)."""
        try:
            self.connection.send((prediction, gold, timeout))
            answer = self._receive(timeout * _WALL_FACTOR)
        except (EOFError, OSError):
            self.process.wait()
            return Verdict.TIMEOUT if self.process.returncode == -signal.SIGPROF else Verdict.ERROR
        if answer is None:
            self.close()
            return Verdict.TIMEOUT
        return Verdict(answer)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


_WORKERS = max(1, min(8, os.cpu_count() or 1))
_lock = threading.Lock()
_children: Queue[_Child] = Queue()
_threads: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    """Threads that each hold a child while they ask it; children start when first needed."""
    global _threads
    with _lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="verify")
            atexit.register(_shut_down)
        return _threads


def _in_child(prediction: str, gold: str, timeout: float) -> Verdict:
    try:
        child = _children.get_nowait()
    except Empty:
        child = _Child()
    try:
        return child.ask(prediction, gold, timeout)
    finally:
        if child.alive:
            _children.put(child)


def _shut_down() -> None:
    while not _children.empty():
        _children.get().close()
