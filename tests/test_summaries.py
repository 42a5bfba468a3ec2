"""Summaries over real HTTP, a scripted engine and functions: their draws, their faults, their journal."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from rollout.types import Completion
from sft.journal import Draw, Journal
from sft.server_writer import ServerWriter
from sft.settings import SummarizerSettings
from sft.summarize import DroppedTrace, Failed, Refused, Request, Summaries
from sft.writers import EngineWriter, FunctionWriter
from tests.scripted_openai import ScriptedOpenAI, answer

ROOT = Path(__file__).resolve().parents[1]
GAMMA = 40
GOOD = "x = 3 is known."
SEGMENT = (
    "Okay, so first of all I want to write the sum as two parts and to look at each of them by itself. The first "
    "part is easy because all of its terms are equal, and the second part needs a little more care than that, since "
    "the terms change sign. Let me try to pair them and see whether anything cancels out in the end.\n\n"
)
CHINESE = (
    "我们首先把这个和写成两个部分,然后分别考虑每一个部分。第一部分很容易,因为所有的项都相等。第二部分需要更加小心。" * 2
)
REQUEST = Request("What is x?", None, SEGMENT, 1)


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


def count(text):
    return len(text.split())


def trace(key="t", segments=(SEGMENT, SEGMENT), question="What is x?", answer=None):
    return key, question, answer, [(text, count(text)) for text in segments]


def summarise(make_writer, journal, traces, concurrency=8, seed=0, **settings):
    """(the Summaries, what became of each trace): its summaries or the exception."""

    async def run():
        writer = make_writer()
        summaries = Summaries(
            writer, journal, SummarizerSettings(**settings), count, GAMMA, concurrency=concurrency, seed=seed
        )
        try:
            return summaries, await asyncio.gather(*(summaries.of_trace(*t) for t in traces), return_exceptions=True)
        finally:
            await writer.close()

    return asyncio.run(asyncio.wait_for(run(), 60))


def writer_of(server, say=print, **settings):
    return lambda: ServerWriter(SummarizerSettings(url=server.url, model="m", **settings), GAMMA, say)


def ask(make_writer, requests=(REQUEST,)):
    """What a writer makes of requests, all at once: draws and exceptions."""

    async def run():
        writer = make_writer()
        asked = (writer.write(request, f"key-{place}") for place, request in enumerate(requests))
        try:
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await writer.close()

    return asyncio.run(asyncio.wait_for(run(), 60))


# The dialogue.

SEGMENTS = ["alpha {words} \\frac{1}{2}", "beta {0} {}", "gamma $\\boxed{x}$", "delta"]


def test_a_summary_is_asked_for_with_question_last_summary_and_segment_only(server, journal):
    server.reply = lambda body: f"note {len(server.requests)} {{n}}"
    question = "Is {words} = $\\{x\\}$?"
    _, (done,) = summarise(writer_of(server), journal, [trace("t", SEGMENTS, question)], checks=[])
    assert [s.text for s in done] == ["note 1 {n}", "note 2 {n}", "note 3 {n}"]
    for place, (_, body) in enumerate(server.requests):
        ((role, user),) = (message.values() for message in body["messages"])
        assert role == "user" and question in user and "in at most 20 words" in user
        assert [text in user for text in SEGMENTS] == [place == other for other in range(4)]
        assert [f"note {n} {{n}}" in user for n in (1, 2, 3)] == [n == place for n in (1, 2, 3)]


def test_sees_all_shows_every_segment_so_far_and_no_summary(server, journal):
    server.reply = lambda body: "note"
    summarise(writer_of(server), journal, [trace("t", SEGMENTS)], checks=[], sees="all")
    for place, (_, body) in enumerate(server.requests):
        user = body["messages"][-1]["content"]
        assert [text in user for text in SEGMENTS] == [other <= place for other in range(4)] and "note\n" not in user


def test_one_segment_needs_no_summary(server, journal):
    assert summarise(writer_of(server), journal, [trace("t", ["all of it"])])[1] == [[]]
    assert not server.requests


# Draws.


def test_a_seed_depends_on_trace_segment_draw_and_run_only(server, tmp_path):
    server.reply = lambda body: "" if body["seed"] % 2 else f"{body['seed']}"

    def seeds(traces, seed=0, concurrency=1, name="a"):
        server.requests.clear()
        journal = Journal(tmp_path / f"{name}.sqlite")
        summarise(writer_of(server), journal, traces, concurrency, seed)
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
    summaries, ((summary,),) = summarise(writer_of(server), journal, [once], max_draws=3)
    assert (summary.text, summary.tokens, summary.draws) == (GOOD, 5, 3)
    assert len(set(server.seeds)) == 3 == summaries.asked
    never = trace("never", segments, answer="12")
    summaries, (dropped,) = summarise(writer_of(server), journal, [never], max_draws=3)
    assert isinstance(dropped, DroppedTrace) and str(dropped) == f"summary: {reason}"
    assert summaries.asked == 3 and len(set(server.seeds)) == 6


def test_a_check_that_is_off_lets_a_summary_pass(server, journal):
    server.reply = lambda body: "The answer is 12."
    _, ((summary,),) = summarise(writer_of(server), journal, [trace(answer="12")], checks=["shorter", "copy"])
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
        server.most_under_way = 0
        journal = Journal(tmp_path / f"{concurrency}.sqlite")
        results.append(summarise(writer_of(server), journal, traces, concurrency)[1])
        journal.close()
        assert concurrency // 2 < server.most_under_way <= concurrency
    assert results[0] == results[1]
    assert len({s.text for done in results[0] for s in done}) == 80


# The journal.


def test_draws_in_the_journal_are_not_asked_for_again(server, journal):
    server.reply = notes
    traces = [trace(f"t{n}", [SEGMENT] * 3) for n in range(10)]
    first, done = summarise(writer_of(server), journal, traces)
    server.stop()
    again, same = summarise(writer_of(server, patience=0.1), journal, traces)
    assert same == done and (again.asked, again.kept) == (0, first.asked)
    assert first.asked > 20 and (first.prompt_tokens, first.completion_tokens) == (7 * first.asked, 5 * first.asked)
    server.__init__(port=server.port)


def test_a_draw_depends_on_model_sampling_and_settings_but_not_on_the_address(server, journal):
    def asked(**settings):
        return summarise(writer_of(server, **settings), journal, [trace()])[0].asked

    assert asked() == 1
    other = ScriptedOpenAI()
    try:
        assert summarise(writer_of(other), journal, [trace()])[0].asked == 0
    finally:
        other.stop()
    for settings in ({"temperature": 0.1}, {"top_p": 0.5}, {"max_tokens": 9}, {"settings": {"top_k": 5}}):
        assert asked(**settings) == 1
    assert server.requests[-1][1]["top_k"] == 5


def test_a_refused_trace_is_dropped_alone_and_asked_again_by_a_new_process(server, journal):
    server.reply = lambda body: 400 if "poison" in body["messages"][-1]["content"] else GOOD
    traces = [trace(f"t{n}", [f"{SEGMENT} {'poison' * (n == 2)}", "end"]) for n in range(5)]
    for kept in (0, 4):
        summaries, done = summarise(writer_of(server), journal, traces)
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
from pathlib import Path
from sft.journal import Draw, Journal
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


def test_two_processes_write_one_journal_at_once(tmp_path):
    path = tmp_path / "j.sqlite"
    processes = [putting(path, name, 300) for name in "ab"]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    journal = Journal(path)
    assert all(journal.get(f"{name}-{number}") for name in "ab" for number in range(300))
    journal.close()


# A server.


def test_what_a_server_is_sent(server, journal, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    summarise(writer_of(server, api_key_env="MY_KEY", temperature=0.3), journal, [trace()])
    ((headers, body),) = server.requests
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("m", 0.3, 0.95, 2 * GAMMA)
    (key,) = (row[0] for row in journal.database.execute("SELECT key FROM draws"))
    assert headers["X-Request-Id"] == key


@pytest.mark.parametrize("fault", [500, 408, 429, "closed"])
def test_a_fault_of_the_server_is_waited_out_and_told_once(server, fault):
    server.faults.extend([fault] * 12)  # the client itself tries three times
    lines = []
    draws = ask(writer_of(server, lines.append), [REQUEST] * 3)
    assert draws == [Draw(GOOD, True, 7, 5)] * 3
    assert len(lines) == 1 and server.url in lines[0] and "\n" not in lines[0]


def test_a_server_that_is_down_for_a_while_is_waited_for(server, journal):
    lines = []
    server.stop()

    def restart():
        time.sleep(2)
        server.__init__(port=server.port)

    thread = threading.Thread(target=restart)
    thread.start()
    _, done = summarise(writer_of(server, lines.append), journal, [trace(f"t{n}") for n in range(5)])
    thread.join()
    assert [s.text for (s,) in done] == [GOOD] * 5
    assert len(lines) == 1 and lines[0].startswith(f"data: waiting for {server.url} (APIConnectionError")


def test_patience_ends_in_one_clear_line_and_is_of_a_request_not_of_the_stage(server):
    async def run():
        writer = writer_of(server, lambda line: None, patience=2.0)()
        await writer.write(REQUEST, "a")
        await asyncio.sleep(2.5)  # as long as all answers come from the journal, or rows are read
        server.faults.extend([500] * 3)
        await writer.write(REQUEST, "b")
        server.stop()
        with pytest.raises(
            RuntimeError, match=r"has not answered for \d+ s \(APIConnectionError.*start the server"
        ) as e:
            await writer.write(REQUEST, "c")
        assert "\n" not in str(e.value)
        await writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    server.__init__(port=server.port)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_names_what_to_check(server, status):
    server.reply = lambda body: status
    (error,) = ask(writer_of(server, api_key_env="MY_KEY"))
    assert isinstance(error, ValueError) and "\n" not in str(error)
    assert all(word in str(error) for word in (server.url, "model", "$MY_KEY", str(status), f"scripted {status}"))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_is_of_one_request_unless_all_are_refused(server, status):
    server.reply = lambda body: status if "poison" in body["messages"][-1]["content"] else GOOD
    poison = Request("poison", None, SEGMENT, 1)
    good, *refused = ask(writer_of(server), [REQUEST, poison, poison])
    assert good.text == GOOD and all(isinstance(e, Refused) and str(status) in str(e) for e in refused)
    errors = ask(writer_of(server), [poison] * 25)
    assert sum(isinstance(e, ValueError) and f"scripted {status}" in str(e) for e in errors) == 6


def test_a_request_that_the_server_always_fails_on_is_given_up_while_others_are_answered(server, monkeypatch):
    monkeypatch.setattr("sft.server_writer._MOST_TRIES", 2)
    server.reply = lambda body: 500 if "poison" in body["messages"][-1]["content"] else GOOD

    async def run():
        writer = writer_of(server, lambda line: None)()
        poison = asyncio.create_task(writer.write(Request("poison", None, SEGMENT, 1), "poison"))
        while not poison.done():
            await writer.write(REQUEST, "good")
            await asyncio.sleep(0.1)
        with pytest.raises(Refused, match="fails on it with status 500"):
            await poison
        await writer.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    ("reply", "draw"),
    [
        ({"usage": None} | {"choices": answer("a")["choices"]}, Draw("a", True, 0, 0)),
        (answer("a") | {"usage": {"prompt_tokens": 3, "completion_tokens": None}}, Draw("a", True, 3, 0)),
        (answer(None), Draw("", True, 7, 5)),
        ({"choices": []}, Draw("", True, 7, 5)),
        ({"choices": [{"finish_reason": "stop"}]}, Draw("", True, 7, 5)),
        (answer("a", "length"), Draw("a", False, 7, 5)),
        ("<think>x</think>y</think>\nz", Draw("\nz", True, 7, 5)),
    ],
)
def test_answers_of_every_shape_are_read(server, reply, draw):
    server.reply = lambda body: reply
    assert ask(writer_of(server)) == [draw]


@pytest.mark.parametrize(("text", "kind"), [("<html>", "text/html"), ("{cut", "application/json"), ("[]", "text/json")])
def test_a_page_that_is_no_chat_completion_names_the_address(server, text, kind):
    server.reply = lambda body: web.Response(text=text, content_type=kind)
    (error,) = ask(writer_of(server))
    assert type(error) is ValueError and server.url in str(error)


def test_half_a_surrogate_pair_is_refused_by_itself(server):
    broken, fine = ask(writer_of(server), [Request("\ud83d", None, SEGMENT, 1), REQUEST])
    assert isinstance(broken, Refused) and fine.text == GOOD


# An engine.


class Letters:
    """A tokenizer: one token a character."""

    chat_template = None

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) for letter in text]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(map(chr, ids))


class Engine:
    """Answers up to three requests a poll, newest first, with `reply(prompt) -> (text, finish_reason)`."""

    def __init__(self, reply=lambda prompt: (GOOD, "stop")):
        self.reply, self.waiting, self.samplings, self.closed = reply, [], [], False

    def submit(self, request_id, prompt_ids, sampling):
        prompt = "".join(map(chr, prompt_ids))
        if "unfit" in prompt:
            raise OSError("no memory")
        self.waiting.append((request_id, prompt))
        self.samplings.append(sampling)

    def poll(self):
        done = [self.waiting.pop() for _ in range(min(3, len(self.waiting)))]
        replies = [(number, *self.reply(prompt)) for number, prompt in done]
        return [Completion(number, [ord(c) for c in text], None, reason) for number, text, reason in replies]

    def close(self):
        self.closed = True


def engine_writer(engine):
    return lambda: EngineWriter(engine, Letters(), SummarizerSettings(model="m"), GAMMA)


def questions(number):
    return [Request(f"question {place};", None, SEGMENT, place) for place in range(number)]


def test_an_engine_serves_many_requests_each_with_its_answer():
    engine = Engine(lambda prompt: (f"<think>..</think>{prompt.split(';')[0][-4:]}", "stop"))
    draws = ask(engine_writer(engine), questions(50))
    assert [int(draw.text[-2:]) for draw in draws] == list(range(50)) and all(d.finished for d in draws)
    assert all(draw.prompt_tokens > len(SEGMENT) for draw in draws) and draws[0].completion_tokens == 21
    assert [(s.seed, s.max_tokens, s.temperature, s.top_p) for s in engine.samplings[:2]] == [
        (0, 2 * GAMMA, 0.5, 0.95),
        (1, 2 * GAMMA, 0.5, 0.95),
    ]
    assert engine.closed


def test_what_does_not_fit_an_engine_is_refused_and_what_is_cut_off_is_unfinished():
    kinds = {"question 1;": ("", "error"), "question 2;": (GOOD, "length")}
    engine = Engine(lambda prompt: next((kinds[q] for q in kinds if q in prompt), (GOOD, "stop")))
    good, refused, cut = ask(engine_writer(engine), questions(3))
    assert good.finished and isinstance(refused, Refused) and not cut.finished


@pytest.mark.parametrize("where", ["poll", "submit"])
def test_all_who_wait_hear_of_a_broken_engine_and_all_who_come_later(where):
    def reply(prompt):
        if "question 3;" in prompt and where == "poll":
            raise OSError("no memory")
        return GOOD, "stop"

    async def run():
        writer = engine_writer(Engine(reply))()
        requests = questions(20)
        if where == "submit":
            requests[10] = Request("unfit", None, SEGMENT, 1)
        asked = (writer.write(request, "") for request in requests)
        done = await asyncio.gather(*asked, return_exceptions=True)
        broken = [e for e in done if isinstance(e, RuntimeError) and "engine broke: OSError: no memory" in str(e)]
        assert broken and len(broken) + sum(isinstance(d, Draw) for d in done) == 20
        with pytest.raises(RuntimeError, match="no memory"):
            await writer.write(REQUEST, "later")
        await writer.close()
        assert not writer._thread.is_alive()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_close_ends_the_thread_after_requests_are_cancelled_while_the_engine_works():
    polled, go = threading.Event(), threading.Event()

    def reply(prompt):
        polled.set()
        assert go.wait(20)
        return GOOD, "stop"

    async def run():
        writer = engine_writer(Engine(reply))()
        tasks = [asyncio.create_task(writer.write(request, "")) for request in questions(8)]
        await asyncio.to_thread(polled.wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().call_later(0.2, go.set)
        await writer.close()
        assert not writer._thread.is_alive() and writer.engine.closed and all(task.cancelled() for task in tasks)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_an_engine_without_close_has_its_thread_ended_too():
    engine = Engine()
    plain = SimpleNamespace(submit=engine.submit, poll=engine.poll)
    assert ask(engine_writer(plain))[0].text == GOOD
    assert not any(thread.name == "summariser" for thread in threading.enumerate())


# A function.


def function_of(function, concurrency=1):
    return lambda: FunctionWriter(function, "notes.py:f", concurrency)


def test_a_function_sees_question_last_summary_and_segment(journal):
    calls = []

    def f(question, previous, segment):
        calls.append((question, previous, segment))
        return f"note {len(calls)}"

    _, (done,) = summarise(function_of(f), journal, [trace("t", ["a b c", "\nd e f\n\n", "g"])])
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
    _, done = summarise(writer, journal, traces, together)
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

    _, done = summarise(function_of(f, concurrency), journal, [trace("t", [SEGMENT] * 9)], concurrency)
    assert [s.draws for s in done[0]] == [3] * 8


def test_a_function_that_always_fails_drops_its_trace_then_stops_the_stage(journal):
    def f(question, previous, segment):
        raise KeyError("missing")

    _, (dropped,) = summarise(function_of(f), journal, [trace()])
    assert str(dropped) == "summary: the function raised KeyError"
    errors = ask(function_of(f), [REQUEST] * 20)
    assert all(isinstance(error, Failed) for error in errors[:19])
    assert isinstance(errors[19], RuntimeError)
    assert "summarizer.fn failed 20 times in a row, last with KeyError: 'missing'" in str(errors[19])


def test_a_functions_draws_are_kept_too(journal):
    calls = []

    def f(question, previous, segment):
        calls.append(segment)
        return f"half a pair \ud83d {len(calls)}"

    traces = [trace("t", [SEGMENT] * 4)]
    first, second = (summarise(function_of(f), journal, traces)[1] for _ in range(2))
    assert first == second and len(calls) == 3
    assert all(a.text != b.text and "?" in a.text for a, b in pairwise(first[0]))
