"""Summaries of traces: their dialogue, their draws, their journal."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sft.data.journal import Draw, Journal
from sft.data.settings import SummarizerSettings
from sft.data.summarize import DroppedTrace, Summaries
from sft.data.writers import FunctionWriter
from tests.scripted_openai import ScriptedOpenAI, answer
from tests.summarizing import CHINESE, GOOD, SEGMENT, summarize, trace, writer_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def server():
    scripted = ScriptedOpenAI()
    yield scripted
    scripted.stop()


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "summaries.sqlite")
    yield made
    made.close()


# The dialogue.

SEGMENTS = ["alpha {words} \\frac{1}{2}", "beta {0} {}", "gamma $\\boxed{x}$", "delta"]


def test_a_summary_is_asked_for_with_question_last_summary_and_segment_only(server, journal):
    server.reply = lambda body: f"note {len(server.requests)} {{n}}"
    question = "Is {words} = $\\{x\\}$?"
    _, (done,) = summarize(writer_of(server), journal, [trace("t", SEGMENTS, question)], checks=[])
    assert [s.text for s in done] == ["note 1 {n}", "note 2 {n}", "note 3 {n}"]
    for place, (_, body) in enumerate(server.requests):
        ((role, user),) = (message.values() for message in body["messages"])
        assert role == "user" and question in user and "in at most 20 words" in user
        assert [text in user for text in SEGMENTS] == [place == other for other in range(4)]
        assert [f"note {n} {{n}}" in user for n in (1, 2, 3)] == [n == place for n in (1, 2, 3)]


def test_sees_all_shows_every_segment_so_far_and_no_summary(server, journal):
    server.reply = lambda body: "note"
    summarize(writer_of(server), journal, [trace("t", SEGMENTS)], checks=[], sees="all")
    for place, (_, body) in enumerate(server.requests):
        user = body["messages"][-1]["content"]
        assert [text in user for text in SEGMENTS] == [other <= place for other in range(4)] and "note\n" not in user


def test_one_segment_needs_no_summary(server, journal):
    assert summarize(writer_of(server), journal, [trace("t", ["all of it"])])[1] == [[]]
    assert not server.requests


# Draws.


def test_a_seed_depends_on_trace_segment_draw_and_run_only(server, tmp_path):
    server.reply = lambda body: "" if body["seed"] % 2 else f"{body['seed']}"

    def seeds(traces, seed=0, concurrency=1, name="a"):
        server.requests.clear()
        journal = Journal(tmp_path / f"{name}.sqlite")
        summarize(writer_of(server), journal, traces, concurrency, seed)
        journal.close()
        return server.seeds

    traces = [trace(f"t{n}", [SEGMENT] * 3) for n in range(4)]
    alone = [seed for t in traces for seed in seeds([t], name=t[0])]
    assert len(set(alone)) == len(alone) and all(0 <= seed < 2**31 for seed in alone)
    assert sorted(seeds(traces[::-1], concurrency=4, name="together")) == sorted(alone)
    assert not set(seeds(traces, seed=1, name="other run")) & set(alone)


BAD = {
    "over gamma": ("so " * 41, "over its limit"),
    "cut off": (answer(GOOD, "length"), "over its limit"),
    "empty": (" \n", "empty"),
    "only thinking": ("<think>x = 3</think>\n", "empty"),
    "null": (answer(None), "empty"),
    "no choices": ({"choices": []}, "empty"),
    "not shorter": ("so " * 15, "not shorter than its segment"),
    "copied": (" ".join(SEGMENT.split()[:30]), "copied from its segment"),
    "boxed": ("Thus x is \\boxed{\\frac{24}{2}}.", "gives the final answer"),
    "stated": ("Nearly done. **Final Answer**\n\n12", "gives the final answer"),
    "language": (CHINESE, "in another language"),
    "tags": ("<summary>x = 3</summary>", "holds the protocol's own tags"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_summary_is_drawn_again_and_at_last_its_trace_dropped(server, journal, kind):
    bad, reason = BAD[kind]
    segments = [" ".join(SEGMENT.split()[:15]), "end"] if kind == "not shorter" else [SEGMENT, "end"]
    server.reply = lambda body: bad if len(server.requests) != 3 else GOOD
    once = trace("once", segments, answer="12")
    summaries, ((summary,),) = summarize(writer_of(server), journal, [once], max_draws=3)
    assert (summary.text, summary.tokens, summary.draws) == (GOOD, 5, 3)
    assert len(set(server.seeds)) == 3 == summaries.asked
    never = trace("never", segments, answer="12")
    summaries, (dropped,) = summarize(writer_of(server), journal, [never], max_draws=3)
    assert isinstance(dropped, DroppedTrace) and str(dropped) == f"summary: {reason}"
    assert summaries.asked == 3 and len(set(server.seeds)) == 6


def test_who_knows_no_chance_is_asked_until_it_repeats_itself(server, journal):
    def asked(make_writer, **settings):
        return summarize(make_writer, journal, [trace(str(settings))], max_draws=10, **settings)[0].asked

    server.reply = lambda body: "so " * 41
    assert asked(writer_of(server, temperature=0.0), temperature=0.0) == 2
    assert asked(writer_of(server)) == 10  # another seed may give another answer
    count = iter(range(100))
    assert asked(lambda: FunctionWriter(lambda *_: "so " * 41, "f", 1), checks=[]) == 2
    assert asked(lambda: FunctionWriter(lambda *_: "so " * (41 + next(count)), "g", 1), checks=["copy"]) == 10


def test_tokens_are_told_while_they_are_under_way(server, journal):
    class Working:
        identity, varies = "w", True

        async def write(self, request, key):
            told.append(summaries.tokens())
            return Draw(GOOD, True, 100, 7)

        def under_way(self):
            return 100, 3

        async def close(self):
            pass

    async def run():
        nonlocal summaries
        summaries = Summaries(Working(), journal, SummarizerSettings(), lambda text: 5, 40, 1, 0)
        await summaries.of_trace(*trace())

    told, summaries = [], None
    asyncio.run(run())
    assert told == [(100, 3)] and summaries.tokens() == (200, 10)


def test_a_check_that_is_off_lets_a_summary_pass(server, journal):
    server.reply = lambda body: "The answer is 12."
    _, ((summary,),) = summarize(writer_of(server), journal, [trace(answer="12")], checks=["shorter", "copy"])
    assert summary.draws == 1


def notes(body):
    """By its request alone; a third of them are bad."""
    draw = random.Random(json.dumps(body["messages"]) + str(body["seed"]))
    return "" if draw.random() < 0.3 else f"x = {draw.random()} is known."


def test_results_do_not_depend_on_concurrency_which_is_never_exceeded(server, tmp_path):
    server.reply, server.seconds = notes, 0.02
    traces = [trace(f"t{n}", [f"{SEGMENT} {n}-{place}" for place in range(3)]) for n in range(40)]
    results = []
    for concurrency in (1, 32):
        server.most_under_way, server.together = 0, concurrency
        journal = Journal(tmp_path / f"{concurrency}.sqlite")
        results.append(summarize(writer_of(server), journal, traces, concurrency)[1])
        journal.close()
        assert server.most_under_way == concurrency
    assert results[0] == results[1]
    assert len({s.text for done in results[0] for s in done}) == 80


# The journal.


def test_draws_in_the_journal_are_not_asked_for_again(server, journal):
    server.reply = notes
    traces = [trace(f"t{n}", [SEGMENT] * 3) for n in range(10)]
    first, done = summarize(writer_of(server), journal, traces)
    server.stop()
    again, same = summarize(writer_of(server, patience=0.1), journal, traces)
    assert same == done and (again.asked, again.kept) == (0, first.asked)
    assert first.asked > 20 and (first.prompt_tokens, first.completion_tokens) == (7 * first.asked, 5 * first.asked)
    server.__init__(port=server.port)


def test_a_draw_depends_on_model_sampling_and_settings_but_not_on_the_address(server, journal):
    def asked(**settings):
        return summarize(writer_of(server, **settings), journal, [trace()])[0].asked

    assert asked() == 1
    other = ScriptedOpenAI()
    try:
        assert summarize(writer_of(other), journal, [trace()])[0].asked == 0
    finally:
        other.stop()
    for settings in ({"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 9}, {"settings": {"top_k": 5}}):
        assert asked(**settings) == 1
    assert server.requests[-1][1]["top_k"] == 5


def test_a_refused_trace_is_dropped_alone_and_asked_again_by_a_new_process(server, journal):
    server.reply = lambda body: 400 if "poison" in body["messages"][-1]["content"] else GOOD
    traces = [trace(f"t{n}", [f"{SEGMENT} {'poison' * (n == 2)}", "end"]) for n in range(5)]
    for kept in (0, 4):
        summaries, done = summarize(writer_of(server), journal, traces)
        assert str(done.pop(2)) == "summary: refused with status 400"
        assert [s.text for (s,) in done] == [GOOD] * 4 and summaries.kept == kept
    assert len(server.requests) == 6


def test_what_the_journal_holds_is_what_was_used(tmp_path):
    journal = Journal(tmp_path / "deep" / "down" / "j.sqlite")
    texts = ["a\x00b", "漢字 \\frac{1}{2} {x}", "half a pair \ud83d.", ""]
    for text in texts:
        draw = journal.put(text[:1], Draw(text, False, 3, 4))
        assert journal.get(text[:1]) == draw == Draw(text.replace("\ud83d", "?"), False, 3, 4)
    journal.put("a", Draw("later"))
    assert journal.get("a").text == "a\x00b" and journal.get("nothing") is None
    journal.close()


_PUTS = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sft.data.journal import Draw, Journal
journal = Journal(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    journal.put(f"{sys.argv[2]}-{number}", Draw("kept"))
    print(number, flush=True)
"""


def putting(path, name, rows):
    command = [sys.executable, "-c", _PUTS, str(path), name, str(rows)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_kill_9_loses_no_draw_that_put_returned_from(tmp_path):
    process = putting(tmp_path / "j.sqlite", "a", 10**6)
    try:
        seen = [process.stdout.readline() for _ in range(50)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = [*seen, *process.stdout.read().split("\n")[:-1]][-1]
    journal = Journal(tmp_path / "j.sqlite")
    assert all(journal.get(f"a-{number}") for number in range(int(last) + 1)) and int(last) >= 49
    journal.close()


def test_many_open_a_new_journal_at_once(tmp_path):
    """Each opens a file of the same name that is not there yet: where two meet, SQLite refuses one at once."""
    for number in range(20):
        start = threading.Barrier(8)

        def opened(path=tmp_path / f"{number}.sqlite", start=start):
            start.wait()
            Journal(path).close()

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(opened) for _ in range(8)]:
                future.result()


def test_two_processes_write_one_journal_at_once(tmp_path):
    path = tmp_path / "j.sqlite"
    processes = [putting(path, name, 300) for name in "ab"]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    journal = Journal(path)
    assert all(journal.get(f"{name}-{number}") for name in "ab" for number in range(300))
    journal.close()
