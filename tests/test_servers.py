"""Rollout servers over real HTTP: scripted ones for every fault, and vLLM's own."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager

import pytest
import torch

from rollout.errors import NoServerError
from rollout.remote.engine import ServerEngine
from rollout.types import Sampling
from tests.scripted_server import ScriptedServer
from tests.test_vllm import serve

SAMPLING = Sampling(max_tokens=4)


@pytest.fixture
def servers():
    started = [ScriptedServer(), ScriptedServer()]
    yield started
    for server in started:
        server.stop()


@contextmanager
def engine_over(servers, tmp_path, **settings):
    lines = []
    defaults = {"heartbeat": 0.1, "heartbeat_timeout": 2.0, "patience": 5.0, "log": lines.append}
    engine = ServerEngine(
        [s.url for s in servers], tmp_path / "weights", model_path=str(tmp_path), **(defaults | settings)
    )
    engine.lines = lines
    try:
        yield engine
    finally:
        engine.close()


def prompts(count):
    return [[i % 50 + 1, i // 50 + 1, 7] for i in range(count)]


def serve_all(engine, count):
    done = []
    while len(done) < count:
        done += engine.poll()
    return done


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_request_is_answered_once_by_the_least_loaded(servers, tmp_path):
    with engine_over(servers, tmp_path, heartbeat_timeout=60.0) as engine:
        assert engine.max_model_len == 64
        wait_until(lambda: len(engine.lines) == 2)
        done = serve(engine, prompts(120), SAMPLING)
    assert [c.token_ids for c in done] == prompts(120)
    assert servers[0].served + servers[1].served == 120
    assert abs(servers[0].served - servers[1].served) < 30


class Busy(ScriptedServer):
    """Leaves its next questions unanswered until it is told to go on; what runs goes on."""

    ignored = 0
    deaf = False

    async def rpc(self, request):
        self.ignored += self.deaf
        while self.deaf:
            await asyncio.sleep(0.02)
        return await super().rpc(request)

    async def complete(self, request):
        answer = await super().complete(request)
        while self.deaf:
            await asyncio.sleep(0.02)
        return answer


def test_a_server_that_is_too_busy_to_answer_twice_loses_nothing(tmp_path):
    """A machine with other work on it: else what is under way would be rolled out a second time elsewhere."""
    servers = [Busy(), Busy()]
    with engine_over(servers, tmp_path, heartbeat_timeout=2.0) as engine:
        wait_until(lambda: len(engine.lines) == 2)
        servers[0].deaf = True
        for number, prompt in enumerate(prompts(40)):
            engine.submit(number, prompt, SAMPLING)
        wait_until(lambda: servers[0].ignored == 2)
        servers[0].deaf = False
        done = serve_all(engine, 40)
        assert {c.finish_reason for c in done} == {"stop"}
        assert sum(len(server.begun) for server in servers) == 40 and engine.faults == 0 and len(engine.lines) == 2
    for server in servers:
        server.stop()


@pytest.mark.parametrize("mode", ["500", "garbage", "hang"])
def test_requests_of_a_faulty_server_go_to_the_other(servers, tmp_path, mode):
    with engine_over(servers, tmp_path) as engine:
        wait_until(lambda: len(engine.lines) == 2)
        servers[0].mode = mode
        done = serve(engine, prompts(60), SAMPLING)
        assert [c.token_ids for c in done] == prompts(60)
        assert servers[1].served == 60 and engine.faults > 0
        assert any(servers[0].url in line and "retry in" in line for line in engine.lines)
        servers[0].mode = "ok"
        wait_until(lambda: engine.pool.servers[0].usable)
        serve(engine, prompts(60), SAMPLING)
        assert servers[0].served > 0  # and is used again when it is well


def test_a_restarted_server_gets_the_newest_weights_before_it_serves(servers, tmp_path):
    with engine_over(servers, tmp_path) as engine:
        wait_until(lambda: len(engine.lines) == 2)
        for step in range(3):
            engine.sync_weights([("w", torch.full((2,), float(step)))])
        newest = servers[1].policy
        assert newest.endswith("-000003") and len(list((tmp_path / "weights").glob("*-0*"))) == 2
        servers[0].stop()
        assert len(serve(engine, prompts(30), SAMPLING)) == 30
        servers[0] = ScriptedServer(servers[0].port)
        wait_until(lambda: engine.pool.servers[0].usable)
        serve(engine, prompts(60), SAMPLING)
        assert servers[0].served_with == {newest}


def test_what_cannot_be_served_is_a_failed_request_with_its_reason(servers, tmp_path):
    with engine_over(servers, tmp_path, tries=2) as engine:
        wait_until(lambda: len(engine.lines) == 2)
        servers[0].mode = servers[1].mode = "500"
        (failed,) = serve(engine, prompts(1), SAMPLING)
        assert failed.finish_reason == "error" and "gave up after 2 tries" in failed.error
        assert "out of memory" in failed.error
        servers[0].mode = servers[1].mode = "400"
        (refused,) = serve(engine, prompts(1), SAMPLING)
        assert "refused by the server: top_p" in refused.error
        (long,) = serve(engine, [[1] * 64], SAMPLING)
        assert "leaves no room in max_model_len=64" in long.error


def test_with_no_server_left_the_run_waits_then_stops(servers, tmp_path):
    with engine_over(servers, tmp_path) as engine:
        engine.pool.patience = 1.0  # not of its start
        for server in servers:
            server.stop()
        started = time.monotonic()
        with pytest.raises(NoServerError, match="no rollout server available for 1 s"):
            serve(engine, prompts(3), SAMPLING)
        assert time.monotonic() - started > 1.0
        servers[0] = ScriptedServer(servers[0].port)  # what was given up on is over; new requests are served
        wait_until(lambda: engine.pool.servers[0].usable)


def test_two_ranks_never_meet_stale_weights(servers, tmp_path):
    """A server is down for the rank that writes, but not for the other, which then finds the old weights there."""
    with engine_over(servers, tmp_path) as writer, engine_over(servers, tmp_path, writer=False) as reader:
        wait_until(lambda: len(writer.lines) == 2 and len(reader.lines) == 2)
        first = writer.sync_weights([("w", torch.zeros(2))])
        assert reader.sync_weights([("w", torch.zeros(2))]) is None
        reader.adopt(first)
        writer.pool.servers[0].up = False
        second = writer.sync_weights([("w", torch.ones(2))])
        for server in servers:
            server.served_with.clear()
        reader.adopt(second)
        serve(reader, prompts(60), SAMPLING)
        assert servers[0].served_with | servers[1].served_with == {second}
        assert [server.policy for server in servers] == [second, second]


class SlowLoad(ScriptedServer):
    """As vLLM's engine core: one call at a time, so a heartbeat's question waits for the load."""

    def __init__(self, questions):
        self.questions, self.waiting, self.loads = questions, 0, 0  # questions that a load lasts for
        self._one = asyncio.Lock()
        super().__init__()

    async def rpc(self, request):
        method = (await request.json())["method"]
        self.waiting += method == "policy" and self._one.locked()
        async with self._one:
            if method == "load_policy":
                self.loads += 1
                while self.loads > 1 and self.waiting < self.questions:
                    await asyncio.sleep(0.02)
            return await super().rpc(request)

    async def complete(self, request):
        answer = await super().complete(request)
        while self.loads < 2 or self._one.locked():  # under way until the second load is through
            await asyncio.sleep(0.02)
        return answer


def test_a_load_longer_than_the_heartbeat_s_limit_loses_nothing_that_is_under_way(tmp_path):
    servers = [SlowLoad(questions=2) for _ in range(2)]
    limits = {"heartbeat_timeout": 2.0, "heartbeat": 0.1}
    with (
        engine_over(servers, tmp_path, **limits) as writer,
        engine_over(servers, tmp_path, writer=False, **limits) as reader,
    ):
        wait_until(lambda: len(writer.lines) == 2 and len(reader.lines) == 2)
        for number, prompt in enumerate(prompts(8)):
            reader.submit(number, prompt, SAMPLING)
        wait_until(lambda: sum(len(server.begun) for server in servers) == 8)
        for engine in (writer, reader):
            engine.announce(1)
        reader.adopt(writer.sync_weights([("w", torch.zeros(2))]))
        done = []
        while len(done) < 8:
            done += reader.poll()
        assert {completion.finish_reason for completion in done} == {"stop"}
        assert all(server.waiting >= 2 for server in servers)  # the reader's heartbeat ran out of time
        assert reader.faults == 0 and sum(len(server.begun) for server in servers) == 8
        assert not [line for line in reader.lines if "down" in line]
    for server in servers:
        server.stop()


def test_a_server_that_a_sync_finds_well_again_is_used(servers, tmp_path):
    """Its heartbeat failed while a sync waited for it: the sync brings it back, and its requests count again."""
    with engine_over(servers, tmp_path, heartbeat=60.0) as engine:
        wait_until(lambda: len(engine.lines) == 2)
        lost = engine.pool.servers[0]
        lost.why = "no answer"
        engine.loop.call_soon_threadsafe(lost.lost.set)
        engine.sync_weights([("w", torch.zeros(2))])
        serve(engine, prompts(40), SAMPLING)
        assert engine.faults == 0 and servers[0].served > 0


def test_a_swap_that_breaks_off_leaves_no_paused_server_in_use(servers, tmp_path):
    with engine_over(servers, tmp_path) as engine:
        wait_until(lambda: len(engine.lines) == 2)
        servers[0].mode = "no resume"
        engine.sync_weights([("w", torch.zeros(2))])
        assert servers[0].paused and not engine.pool.servers[0].up
        wait_until(lambda: engine.pool.servers[0].why.startswith("status 500 on /resume"))  # by its heartbeat, too
        serve(engine, prompts(20), SAMPLING)
        assert servers[0].served == 0
        servers[0].mode = "ok"
        wait_until(lambda: engine.pool.servers[0].usable)
        assert not servers[0].paused and servers[0].policy == servers[1].policy
        serve(engine, prompts(40), SAMPLING)
        assert servers[0].served > 0


def test_closing_ends_requests_that_nobody_waits_for(servers, tmp_path, caplog):
    servers[0].seconds = servers[1].seconds = 3600
    with engine_over(servers, tmp_path) as engine:
        for index, prompt in enumerate(prompts(8)):
            engine.submit(index, prompt, SAMPLING)
        wait_until(lambda: sum(len(server.begun) for server in servers) == 8)
        loop = engine.loop
    assert not asyncio.all_tasks(loop) and not caplog.records
