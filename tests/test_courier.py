"""Uploads beside a training: one at a time, failures counted and tried again, broken off and taken up."""

from __future__ import annotations

import json
import time

import pytest

from rl.exporting.courier import Courier
from tests.hub_large import LargeHub
from tests.hub_server import hub_environment


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = LargeHub(tmp_path / "server")
    for name, value in hub_environment(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()


@pytest.fixture
def courier(tmp_path):
    """courier(keep=2) -> a courier whose steps are built already; `lines` is what it said."""

    def start(keep=2):
        lines = []
        made = Courier(tmp_path / "export", _job, keep, lines.append)
        made.lines = lines
        return made

    return start


def _job(step, again):
    return {
        "run": "runs/r", "step": step, "repo_id": "me/r",
        "upload": {"tag": f"r-step-{step}", "move_tag": again, "attempts": 1},
    }  # fmt: skip


def build(tmp_path, step):
    folder = tmp_path / "export" / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"\0" * 99 + b"%d" % step)


def until(condition):
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def weights(hub, revision):
    return int(hub.files("me/r", "model", revision)["model.safetensors"].strip(b"\0"))


def states(tmp_path):
    return json.loads((tmp_path / "export/steps.json").read_text())


def test_a_newer_step_takes_the_place_of_one_that_waits(hub, courier, tmp_path):
    hub.open.clear()
    sender = courier()
    for step in (10, 20, 30):
        build(tmp_path, step)
        sender.send(step)
        until(lambda: hub.commits == 1)  # the first is on its way, and stays there
    assert states(tmp_path) == {"10": "waiting", "20": "replaced", "30": "waiting"}
    hub.open.set()
    sender.finish(wait=True)
    tags = {name for name in hub.repos["models/me/r"].refs if name.startswith("tags/")}
    assert tags == {"tags/r-step-10", "tags/r-step-30"} and weights(hub, "main") == 30
    assert states(tmp_path) == {"10": "sent", "20": "replaced", "30": "sent"}
    assert sorted(p.name for p in (tmp_path / "export").iterdir()) == ["step-20", "step-30", "steps.json"]
    assert sender.failures == 0 and sender.lines == []


def test_a_failure_is_counted_and_tried_again_at_the_end(hub, courier, tmp_path):
    hub.refuse(403, "/commit/", times=1, message="no")
    sender = courier()
    for step, state in ((10, "failed"), (20, "sent")):
        build(tmp_path, step)
        sender.send(step)
        until(lambda: sender.states[step] == state)  # noqa: B023
    assert sender.failures == 1 and weights(hub, "main") == 20
    assert sender.lines[0].startswith("export: step 10 is not on the Hub: the token may not write to me/r (403: no)")
    sender.finish(wait=True)
    assert weights(hub, "r-step-10") == 10 and weights(hub, "r-step-20") == weights(hub, "main") == 20
    assert states(tmp_path) == {"10": "sent", "20": "sent"} and len(sender.lines) == 1


def test_what_was_broken_off_is_taken_up(hub, courier, tmp_path):
    hub.open.clear()
    sender = courier()
    build(tmp_path, 10)
    sender.send(10)
    until(lambda: hub.commits == 1)
    sender.finish(wait=False)
    hub.open.set()
    assert states(tmp_path) == {"10": "waiting"}
    build(tmp_path, 20)  # of a step that training repeats: it is not this courier's
    after = courier()
    after.take_up(10)
    after.finish(wait=True)
    assert weights(hub, "r-step-10") == 10 and states(tmp_path) == {"10": "sent"}

    (tmp_path / "export/step-10/model.safetensors").write_bytes(b"\0" * 99 + b"11")  # done again, it came out otherwise
    repeated = courier()
    repeated.take_up(0)
    repeated.send(10)
    repeated.finish(wait=True)
    assert weights(hub, "r-step-10") == 11 and repeated.failures == 0
