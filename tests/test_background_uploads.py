"""Uploads beside a training: one at a time, the newest wins, failures retried at the end, stopped and resumed."""

from __future__ import annotations

import json
import time

import pytest

from rl.app.run_config import parse_config
from rl.exporting.background import BackgroundUploader
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
def export(tmp_path):
    """The export folder of a run."""
    folder = tmp_path / "r/export"
    folder.mkdir(parents=True)
    config = parse_config({"name": "r", "model": {"path": "base"}, "export": {"repo_id": "me/r", "every_steps": 10}})
    (folder.parent / "config.yaml").write_text(config.to_yaml())
    return folder


@pytest.fixture
def uploader(export):
    """uploader(keep=2) -> one whose steps are built already; `lines` is its log."""

    def start(keep=2):
        lines = []
        made = BackgroundUploader(export, keep, lines.append)
        made.lines = lines
        return made

    return start


def build(export, step, content=None):
    folder = export / f"step-{step}"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"\0" * 99 + b"%d" % (content or step))


def until(condition, poll=lambda: None):
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
        poll()


def weights(hub, revision):
    return int(hub.files("me/r", "model", revision)["model.safetensors"].strip(b"\0"))


def states(export):
    return json.loads((export / "steps.json").read_text())


def test_a_newer_step_takes_the_place_of_one_that_waits(hub, uploader, export):
    hub.open.clear()
    uploads = uploader()
    for step in (10, 20, 30):
        build(export, step)
        uploads.submit(step)
        until(lambda: hub.commits == 1)  # the first is on its way, and stays there
    assert states(export) == {"10": "waiting", "20": "replaced", "30": "waiting"}
    hub.open.set()
    uploads.finish(wait=True)
    tags = {name for name in hub.repos["models/me/r"].refs if name.startswith("tags/")}
    assert tags == {"tags/r-step-10", "tags/r-step-30"} and weights(hub, "main") == 30
    assert states(export) == {"10": "sent", "20": "replaced", "30": "sent"}
    assert sorted(p.name for p in export.iterdir()) == ["step-20", "step-30", "steps.json"]
    assert uploads.failures == 0 and uploads.lines == []


def test_a_failure_is_counted_and_retried_at_the_end(hub, uploader, export):
    hub.refuse(403, "/commit/", times=1, message="no")
    uploads = uploader()
    for step, state in ((10, "failed"), (20, "sent")):
        build(export, step)
        uploads.submit(step)
        until(lambda: uploads.states[step] == state, uploads.poll)  # noqa: B023
    assert uploads.failures == 1 and weights(hub, "main") == 20
    assert uploads.lines[0].startswith("export: step 10 is not on the Hub: the token may not write to me/r (403: no)")
    uploads.finish(wait=True)
    assert weights(hub, "r-step-10") == 10 and weights(hub, "r-step-20") == weights(hub, "main") == 20
    assert states(export) == {"10": "sent", "20": "sent"} and len(uploads.lines) == 1


def test_a_stopped_upload_is_resumed(hub, uploader, export):
    hub.open.clear()
    uploads = uploader()
    build(export, 10)
    uploads.submit(10)
    until(lambda: hub.commits == 1)
    uploads.finish(wait=False)
    hub.open.set()
    assert states(export) == {"10": "waiting"}
    build(export, 20)  # a step that training repeats: it is not this uploader's
    after = uploader()
    after.resume(10)
    after.finish(wait=True)
    assert weights(hub, "r-step-10") == 10 and states(export) == {"10": "sent"}

    build(export, 10, content=11)  # trained again, it came out otherwise
    repeated = uploader()
    repeated.resume(0)
    repeated.submit(10)
    repeated.finish(wait=True)
    assert weights(hub, "r-step-10") == 11 and repeated.failures == 0


def test_a_missing_folder_ends_no_training(tmp_path):
    lines = []
    uploads = BackgroundUploader(tmp_path / "gone", keep=2, log=lines.append)
    uploads.submit(3)
    uploads.finish(wait=True)  # it comes back
    assert uploads.failures == 1 and uploads.states == {3: "failed"}
    assert any("step 3 is not on the Hub" in line for line in lines)
