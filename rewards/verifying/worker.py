"""The child of `rewards.verifying.pool`: compares one answer at a time under kernel-enforced limits.

It is two processes. The first loads sympy once, then forks the second, which does the work and may be killed by its
limits at any time; the first reports the cause of death and forks another within milliseconds.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

from rewards.types import Verdict
from rewards.verifying.pool import DIED

_OUT_OF_MEMORY = 3


def main() -> None:
    connection, memory_bytes = Connection(int(sys.argv[1])), int(sys.argv[2])
    module, _, name = sys.argv[3].partition(":")
    judging = importlib.import_module(module)
    judge = getattr(judging, name)
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, then closes the pipe
    judging.warm()  # before the first request, because libraries load a lot on first use
    connection.send_bytes(b"ready")
    while True:
        pid = os.fork()
        if pid == 0:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
            os._exit(_serve(connection, judge))
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return
        verdict = Verdict.TIMEOUT if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF else Verdict.ERROR
        connection.send_bytes(f"{DIED}{verdict}".encode())


def _serve(connection: Connection, judge: Callable[[str, str], Verdict]) -> int:
    """Answers batches until the parent closes the pipe (returns 0) or memory runs out."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action kills the process, even inside a C call
    while True:
        try:
            pairs, timeout = connection.recv()
        except EOFError:
            return 0
        for prediction, gold in pairs:
            signal.setitimer(signal.ITIMER_PROF, timeout)  # CPU seconds of this process, for this answer alone
            try:
                verdict = judge(prediction, gold)
            except MemoryError:
                return _OUT_OF_MEMORY
            except (Exception, RecursionError):  # anything sympy raises on odd input is a verdict, not a crash
                verdict = Verdict.ERROR
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send_bytes(verdict.encode())


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, EOFError):
        sys.exit(0)  # the parent is gone
