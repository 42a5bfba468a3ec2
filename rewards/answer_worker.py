"""The child of `rewards.answer`: compares one answer at a time under limits that the kernel keeps."""

from __future__ import annotations

import logging
import resource
import signal
import sys
from multiprocessing.connection import Connection

from rewards.answer import Verdict, boxed_answers

_MEMORY_BYTES = 4 << 30


def judge(prediction: str, gold: str) -> Verdict:
    """math-verify on the answer part of an output. Its own limits are off: this process has better ones."""
    from math_verify import parse, verify

    delimited = gold if any(mark in gold for mark in ("$", "\\boxed", "\\(", "\\[")) else f"${gold}$"
    expected = parse(delimited, parsing_timeout=None) or parse(gold, parsing_timeout=None)
    if not expected:
        return Verdict.UNPARSABLE_GOLD
    boxes = dict.fromkeys(boxed_answers(prediction))
    if len(boxes) > 1:
        return Verdict.INCORRECT
    if gold.strip() in boxes:
        return Verdict.CORRECT
    answer = parse(prediction, parsing_timeout=None)
    return Verdict.CORRECT if verify(expected, answer, timeout_seconds=None) else Verdict.INCORRECT


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401  (warm before the first request)

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # its default ends the process, even inside a C call
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    connection.send("ready")
    while True:
        try:
            prediction, gold, timeout = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, timeout)
        try:
            verdict = judge(prediction, gold)
        except (Exception, MemoryError, RecursionError):  # whatever sympy raises on odd input: an answer, not a crash
            verdict = Verdict.ERROR
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(str(verdict))


if __name__ == "__main__":
    main()
