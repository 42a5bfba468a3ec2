"""Processes that cut traces: the same cuts, and a clear word when one of them dies."""

from __future__ import annotations

import os
import signal

import pytest

from rollout.errors import UserError
from sft.counting import TokenCounter
from sft.data.partition import Partitioner

TEXT = "one two three.\n\n" * 2000


def test_a_process_that_dies_is_one_line(tokenizer):
    partitioner = Partitioner(TokenCounter(tokenizer), None, "greedy", 2)
    try:
        cuts = partitioner.cut([TEXT] * 40, [500] * 40)
        assert cuts == [cuts[0]] * 40 and cuts[0][-1][0] == len(TEXT)
        for process in partitioner._pool._processes.values():
            os.kill(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal reaches them: they leave it to their parent
        assert partitioner.cut([TEXT] * 40, [500] * 40) == cuts
        os.kill(next(iter(partitioner._pool._processes)), signal.SIGKILL)
        with pytest.raises(UserError, match="out of memory"):
            partitioner.cut([TEXT] * 400, [500] * 400)
    finally:
        partitioner.close()
