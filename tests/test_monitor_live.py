"""A real run - data, SFT, RL with vLLM - watched from before its folder exists to its end, in a real Chromium."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil
import pytest

from tests.browser import open_browser
from tests.monitor_run import monitor
from tests.test_run import OVERRIDES, ROOT

pytestmark = pytest.mark.browser

STEPS = 100


def start(stage, workdir, *further):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "rl.app.cli", stage, str(ROOT / "configs/demo.yaml"), *OVERRIDES, *further]
    with (workdir / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=workdir, env=environment, stdout=log, stderr=subprocess.STDOUT)


def said(workdir):
    return (workdir / "log").read_text(errors="replace")[-3000:]


def drawn(page):
    node = "document.querySelector('#chart-accuracy .js-plotly-plot')"
    return page.evaluate(f"Math.max(0, ...({node}?.data ?? []).map(curve => curve.x?.length ?? 0))")


def until(condition, training, workdir, seconds=600):
    """Waits while the run goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert training.poll() in (None, 0), said(workdir)
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_watched_while_it_trains(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with monitor(tmp_path / "runs") as (address, server), open_browser() as (page, watch):
        page.goto(address)
        page.get_by_test_id("run-message").first.wait_for()  # there is no such folder yet
        for stage in ("data", "sft"):
            before = start(stage, tmp_path)
            assert before.wait(300) == 0, said(tmp_path)
        page.locator('li[data-run="demo"]').wait_for()
        training = start("rl", tmp_path, f"--rl.max_steps={STEPS}", "--rl.save_steps=100")
        try:
            seen = set()
            page.goto(f"{address}#/overview?runs=demo&stage=rl")
            until(lambda: page.locator("#chart-accuracy").count(), training, tmp_path)
            page.locator("#chart-accuracy").scroll_into_view_if_needed()
            until(lambda: seen.add(drawn(page)) or max(seen) == STEPS, training, tmp_path)
            assert len(seen - {0}) > 1  # the curve grew before our eyes, without a reload
            assert training.wait(600) == 0
            page.locator('li[data-run="demo"]').get_by_text("finished").first.wait_for()
            page.goto(f"{address}#/episodes?run=demo&source=train")
            rows = page.get_by_test_id("episodes-table").locator("tbody tr")
            page.get_by_test_id("result-status").get_by_text(f"{8 * STEPS} episodes").wait_for()
            rows.first.locator("a.row-link").click()
            page.get_by_test_id("cards").wait_for()
            assert page.get_by_test_id("episode").count() == 4
            prompt = page.locator("details[data-part=prompt]").first
            prompt.locator("summary").click()
            prompt.get_by_test_id("prompt").wait_for()
            assert "<|im_start|>user" in prompt.inner_text()
        finally:
            training.kill()
            training.wait()
        watch.check()
        talks = psutil.Process(server.pid).net_connections(kind="inet")
        assert all(c.laddr.ip == "127.0.0.1" and (not c.raddr or c.raddr.ip == "127.0.0.1") for c in talks)
