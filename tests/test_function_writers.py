"""A function that writes summaries, and its faults."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from rollout.errors import UserError
from sft.data.journal import Journal
from sft.data.summarize import Failed
from sft.data.writers import FunctionWriter
from tests.summarizing import GOOD, REQUEST, SEGMENT, ask, summarize, trace


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "summaries.sqlite")
    yield made
    made.close()


def function_of(function, concurrency=1):
    return lambda: FunctionWriter(function, "notes.py:f", concurrency)


def test_a_function_sees_question_last_summary_and_segment(journal):
    calls = []

    def f(question, previous, segment):
        calls.append((question, previous, segment))
        return f"note {len(calls)}"

    _, (done,) = summarize(function_of(f), journal, [trace("t", ["a b c", "\nd e f\n\n", "g"])])
    assert [s.text for s in done] == ["note 1", "note 2"]
    assert calls == [("What is x?", None, "a b c"), ("What is x?", "note 1", "d e f")]


@pytest.mark.parametrize("kind", ["inline", "threads", "async"])
def test_functions_run_inline_in_threads_or_as_coroutines(kind, journal):
    together = 12  # more than asyncio has threads of its own on a machine of two cores
    barrier, threads = threading.Barrier(together), set()

    def f(question, previous, segment):
        threads.add(threading.get_ident())
        if kind == "threads":
            barrier.wait(20)
        return GOOD

    async def g(question, previous, segment):
        return f(question, previous, segment)

    traces = [trace(f"t{n}") for n in range(together)]
    writer = function_of(g if kind == "async" else f, 1 if kind == "inline" else together)
    _, done = summarize(writer, journal, traces, together)
    assert [s.text for (s,) in done] == [GOOD] * together
    main = threading.get_ident()
    assert main not in threads if kind == "threads" else threads == {main}


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("fault", [ValueError("no"), StopIteration(), None, 7])
def test_a_function_that_fails_now_and_then_is_drawn_again(journal, fault, concurrency):
    calls = []

    def f(question, previous, segment):
        calls.append(segment)
        if len(calls) % 3:
            if isinstance(fault, Exception):
                raise fault
            return fault
        return GOOD

    _, done = summarize(function_of(f, concurrency), journal, [trace("t", [SEGMENT] * 9)], concurrency)
    assert [s.draws for s in done[0]] == [3] * 8


def test_a_function_that_always_fails_drops_its_trace_then_stops_the_stage(journal):
    def f(question, previous, segment):
        raise KeyError("missing")

    _, (dropped,) = summarize(function_of(f), journal, [trace()])
    assert str(dropped) == "summary: the function raised KeyError"
    errors = ask(function_of(f), [REQUEST] * 20)
    assert all(isinstance(error, Failed) for error in errors[:19])
    assert isinstance(errors[19], UserError)
    assert "summarizer.fn failed 20 times in a row, last with KeyError: 'missing'" in str(errors[19])


def test_a_functions_draws_are_kept_too(journal):
    calls = []

    def f(question, previous, segment):
        calls.append(segment)
        return f"half a pair \ud83d {len(calls)}"

    traces = [trace("t", [SEGMENT] * 4)]
    first, second = (summarize(function_of(f), journal, traces)[1] for _ in range(2))
    assert first == second and len(calls) == 3
    assert all(a.text != b.text and "?" in a.text for a, b in pairwise(first[0]))
