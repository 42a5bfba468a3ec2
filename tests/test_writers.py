"""Who writes summaries: a server over real HTTP, a scripted engine, functions; and their faults."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from aiohttp import web

from rollout.errors import InputError, UserError
from rollout.types import Completion
from sft.data.journal import Draw, Journal
from sft.data.settings import SummarizerSettings
from sft.data.summarize import Refused, Request
from sft.data.writers import EngineWriter
from tests.scripted_openai import ScriptedOpenAI, answer
from tests.summarizing import GAMMA, GOOD, REQUEST, SEGMENT, ask, summarize, trace, writer_of


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


# A server.


def test_what_a_server_is_sent(server, journal, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    summarize(writer_of(server, api_key_env="MY_KEY", temperature=0.3), journal, [trace()])
    ((headers, body),) = server.requests
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("m", 0.3, 0.95, 2 * GAMMA)
    (key,) = (row[0] for row in journal.database.execute("SELECT key FROM draws"))
    assert headers["X-Request-Id"] == key


@pytest.mark.slow
@pytest.mark.parametrize("fault", [500, 408, 429, "closed"])
def test_a_fault_of_the_server_is_waited_out_and_told_once(server, fault):
    server.faults.extend([fault] * 12)
    lines = []
    draws = ask(writer_of(server, lines.append, patience=600.0), [REQUEST] * 3)  # the client itself tries three times
    assert draws == [Draw(GOOD, True, 7, 5)] * 3
    assert len(lines) == 1 and server.url in lines[0] and "\n" not in lines[0]


def test_a_server_that_is_down_for_a_while_is_waited_for(server, journal):
    lines = []
    server.stop()

    def restart():
        while not lines:
            time.sleep(0.1)
        server.__init__(port=server.port)

    thread = threading.Thread(target=restart)
    thread.start()
    writer = writer_of(server, lines.append, patience=600.0)
    _, done = summarize(writer, journal, [trace(f"t{n}") for n in range(5)])
    thread.join()
    assert [s.text for (s,) in done] == [GOOD] * 5
    assert len(lines) == 1 and lines[0].startswith(f"data: waiting for {server.url} (APIConnectionError")


def test_patience_ends_in_one_clear_line_and_is_of_a_request_not_of_the_stage(server):
    async def run():
        writer = writer_of(server, lambda line: None, patience=2.0)()
        await writer.write(REQUEST, "a")
        await asyncio.sleep(2.5)  # as long as all answers come from the journal, or rows are read
        server.faults.append(500)
        await writer.write(REQUEST, "b")
        server.stop()
        with pytest.raises(UserError, match=r"has not answered for \d+ s \(APIConnectionError.*start the server") as e:
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


def test_a_request_that_the_server_always_fails_on_is_given_up_while_others_are_answered(server):
    server.reply = lambda body: 500 if "poison" in body["messages"][-1]["content"] else GOOD

    async def run():
        writer = writer_of(server, lambda line: None, patience=600.0)()
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
    assert type(error) is InputError and server.url in str(error)


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


def test_an_engine_tells_its_tokens_before_the_first_request_ends():
    class Slow(Engine):
        def poll(self):
            self.under_way = 6  # as vLLM's, after a step in which nothing ended
            assert may_end.wait(60)
            return super().poll()

    may_end = threading.Event()

    async def run():
        writer = engine_writer(Slow())()
        asked = [asyncio.create_task(writer.write(request, "")) for request in questions(3)]
        while writer.under_way()[1] == 0:
            await asyncio.sleep(0.01)
        told = writer.under_way()
        may_end.set()
        draws = await asyncio.gather(*asked)
        after = writer.under_way()
        await writer.close()
        return told, draws, after

    told, draws, after = asyncio.run(asyncio.wait_for(run(), 60))
    assert told == (sum(draw.prompt_tokens for draw in draws), 6) and after[0] == 0


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
        broken = [e for e in done if isinstance(e, UserError) and "engine failed: OSError: no memory" in str(e)]
        assert broken and len(broken) + sum(isinstance(d, Draw) for d in done) == 20
        with pytest.raises(UserError, match="no memory"):
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
    assert not any(thread.name == "summarizer" for thread in threading.enumerate())


# A function.
