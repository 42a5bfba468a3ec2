"""`sawtooth top`: one frame or live, on wide and narrow screens, over runs that are half-written or gone."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rl.monitor.runs import Runs
from rl.monitor.top import frame, top
from rl.monitor.top_panel import seconds_of_step, sparkline

ROOT = Path(__file__).resolve().parents[1]


def write(folder, steps=50, ended=0.0, truncated=0.02, every=4.0, **more):
    """A run of `steps` steps whose last line is `ended` seconds old."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("rl: {max_steps: 100}\nprotocol: {name: inftythink, max_rounds: 5}\n")
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            values = {
                "reward/mean": step / 100, "accuracy/mean": step / 100, "episode/rounds/mean": 3.0, "entropy": 0.5,
                "episode/stop/answered": 0.9 - truncated, "episode/stop/truncated": truncated, "time/rollout": 2.5,
                "time/update": 1.25, "loss": 0.1,
            }  # fmt: skip
            row = {"stage": "rl", "step": step, "time": time.time() - ended - every * (steps - step)}
            file.write(json.dumps(row | values | more) + "\n")
    return folder


def shown(paths, width=100, height=None, runs=None):
    console = Console(file=io.StringIO(), width=width, height=height or 200, color_system=None)
    runs = runs or Runs(paths)
    console.print(frame(runs.refresh(), console, height))
    return console.file.getvalue()


def test_a_frame(tmp_path):
    text = shown([write(tmp_path / "first")])
    for part in ("first running rl", "step 50/100, 4.0 s per step, 3 min left, last log ", "in 20 steps"):
        assert part in text, part
    assert re.search(r"reward +0\.5 +\+0\.2 +▁[▁-█]+█ ", text) and re.search(r"rounds +3 += ", text)
    assert "stop reasons: answered 88.0%, truncated 2.0%" in text
    assert "step time by part: rollout 2.5 s, update 1.2 s" in text and "SERIOUS" not in text


def test_warnings_with_what_to_do(tmp_path):
    text = " ".join(shown([write(tmp_path / "first", truncated=0.95)], width=300).split())
    assert (
        "SERIOUS: Nearly all episodes are cut off (95% at step 50" in text and "Raise rl.max_completion_length" in text
    )


@pytest.mark.parametrize("width", [20, 34, 50, 63, 64, 80, 200])
def test_no_line_is_longer_than_the_screen(tmp_path, width):
    text = shown([write(tmp_path / ("long-name-" * 9), truncated=0.95), tmp_path / "gone"], width=width)
    assert max(map(len, text.splitlines())) <= width and "0.5" in text
    assert ("▁" in text) == (width >= 64)


def test_a_low_screen_keeps_warnings_and_other_runs_in_sight(tmp_path):
    paths = [write(tmp_path / f"run{n}", ended=2 * n, truncated=0.95) for n in range(4)]
    text = shown(paths, width=90, height=12)
    assert len(text.splitlines()) < 20 and text.index("SERIOUS") < text.index("reward")
    assert text.startswith("╭─ run0 running rl") and re.search(r"run3 +running +50/100 +0\.5 +0\.5 +1", text)
    assert shown(paths, width=90, height=300).count("running rl") == 4


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    half = write(tmp_path / "half")
    with (half / "metrics.jsonl").open("a") as file:
        file.write('nonsense\n{"stage": "rl", "st')
    (tmp_path / "foreign").mkdir()
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / "config.yaml").write_text("rl: [")
    deleted = write(tmp_path / "deleted")
    runs = Runs([half, tmp_path / "foreign", tmp_path / "waiting", tmp_path / "none", deleted])
    shown([], runs=runs)
    shutil.rmtree(deleted)
    text = shown([], width=200, runs=runs)
    assert "1 lines are not log lines" in text and "the last line is incomplete" in text
    assert "foreign foreign" in text and "none missing" in text and "config.yaml can't be read" in text
    assert "waiting waiting" in text and "nothing has been logged yet" in text
    assert "deleted missing rl" in text and re.search(r"reward +0\.5", text)  # what was read of it


def test_values_that_are_no_number(tmp_path):
    run = write(tmp_path / "first")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "step": 51, "time": 0, "reward/mean": NaN, "entropy": null, "kl": Infinity}\n')
    text = shown([run])
    assert re.search(r"reward +nan +\+0\.2", text) and "KL" not in text


def test_names_do_not_steer_the_terminal(tmp_path):
    text = shown([write(tmp_path / "a\x1b[2Jb", **{"reward/x\x1b]0;t\x07/errors": 3})], width=150)
    assert "\x1b" not in text and "\x07" not in text and "The reward x?]0;t? fails" in text


def test_a_screen_without_unicode(tmp_path):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    console = Console(file=file, width=80, color_system=None)
    console.print(frame(Runs([write(tmp_path / "first")]).refresh(), console))
    file.flush()
    assert b"##" in file.buffer.getvalue()


def test_sft_and_runs_that_are_short(tmp_path):
    run = tmp_path / "first"
    run.mkdir()
    row = {"stage": "sft", "step": 50, "time": time.time(), "loss": 2.5, "mean_token_accuracy": 0.4}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    text = shown([run])
    assert re.search(r"loss +2\.5 +▁ ", text) and "token accuracy" in text and "per step" not in text
    assert " steps" not in text


def test_pace_and_sparkline(tmp_path):
    (run,) = Runs([write(tmp_path / "first", steps=100, every=7.0)]).refresh()
    run.curves.refresh()
    assert seconds_of_step(run, "rl") == pytest.approx(7.0, rel=1e-3)
    assert seconds_of_step(run, "sft") is None
    assert sparkline(np.arange(8.0), 40) == "▁▂▃▄▅▆▇█" and sparkline(np.arange(100.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.full(5, 2.0), 40) == "▁" * 5 and len(sparkline(np.array([1e300, -1e300]), 9)) == 2


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan"), float("inf")])
def test_mistakes_are_one_line(tmp_path, interval):
    with pytest.raises(ValueError, match="it must be above 0 seconds"):
        top(Runs([tmp_path]), True, interval)


CODE = "import sys; from rl.monitor.runs import Runs; from rl.monitor.top import top; top(Runs(sys.argv[2:]), {}, 0.3)"


def command(once, *paths):
    return [sys.executable, "-c", CODE.format(once), "--", *map(str, paths)]


@pytest.mark.parametrize("once", [True, False])
def test_one_frame_where_the_output_is_no_terminal(tmp_path, once):
    run = write(tmp_path / "first")
    done = subprocess.run(command(once, run), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("first running rl") == 1
    assert "\x1b" not in done.stdout


def test_live_until_ctrl_c(tmp_path):
    run = write(tmp_path / "first")
    screen, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    settings = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    process = subprocess.Popen(
        command(False, run), cwd=ROOT, env=settings, stdin=inner, stdout=inner, stderr=inner,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's tests ignore it
    )  # fmt: skip
    os.close(inner)
    seen, awaited, until = b"", b"step 50/100", time.monotonic() + 60
    with open(screen, "rb", buffering=0) as output:
        while time.monotonic() < until:
            try:
                seen += output.read(65536) if select.select([output], [], [], 0.1)[0] else b""
            except OSError:  # it has ended
                break
            if awaited and awaited in seen and b"step 51" not in seen:
                awaited = b"step 51/100"
                with (run / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"stage": "rl", "step": 51, "time": time.time(), "reward/mean": 0.7}) + "\n")
            elif awaited and awaited in seen:
                awaited = b""
                process.send_signal(signal.SIGINT)
    try:
        code = process.wait(20)
    finally:
        process.kill()
    assert code == 0 and awaited == b"" and b"Traceback" not in seen
    assert b"\x1b[?1049l" in seen and seen.endswith(b"\r\n")  # the screen is as it was, with the last frame on it
