"""Nothing that a model, a data set or a folder's name holds reaches the terminal as a control code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rewards.score import Scores
from rollout.store import EpisodeStore
from rollout.terminal import clean, clip_middle
from rollout.types import Episode, Segment, StopReason, Turn

ROOT = Path(__file__).resolve().parents[1]
EVIL = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202e\x08\r"


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "rl.app.cli", *arguments], cwd=ROOT, capture_output=True, timeout=300)


def assert_clean(done, *words):
    said = done.stdout + done.stderr
    for code in ("\x1b", "\x07", "\x9b", "\u202e", "\x08", "\r"):
        assert code.encode() not in done.stdout, done.stdout
    for word in words:
        assert word.encode() in said, said


def test_data_show(tmp_path):
    row = {
        "row": 0, "trace": 0, "round": 0, "rounds": 1, "answer": EVIL + "answer", "question": EVIL + "question",
        "history": None, "completion": f"<think>\n{EVIL}thought\n</think>{EVIL}conclusion", "segment_tokens": 3,
        "summary_tokens": None,
    }  # fmt: skip
    (tmp_path / "rounds").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rounds" / "0.parquet")
    assert_clean(run("data", "show", str(tmp_path)), "question", "thought", "conclusion", "owned")


def test_top(tmp_path):
    folder = tmp_path / "run\x1b[31m"
    folder.mkdir()
    rows = [{"stage": f"rl{EVIL}", "step": n, "time": n, "loss": 1.0, f"reward/{EVIL}x/mean": 1.0} for n in range(3)]
    rows += [{"stage": "rl", "step": n, "time": 9 + n, "reward/mean": 1.0, f"reward/{EVIL}x/mean": n} for n in range(3)]
    for count in (3, 6):
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        assert_clean(run("top", "--once", str(folder)), "rl")


def test_rewards_explain(tmp_path):
    turn = Turn("conclusion", think="", conclusion=EVIL)
    segments = [Segment([1], [2], [-1.0], EVIL, "stop", turn)]
    episodes = [Episode(EVIL + "asked", "1", n % 2, segments, StopReason.ANSWERED) for n in range(4)]
    scores = Scores([1.0, 0.0, 1.0, 1.0], {f"answer{EVIL}": [1.0, 0.0, 1.0, 1.0]})
    EpisodeStore(tmp_path / "episodes").write_step("train", 1, episodes, scores, [0.0] * 4)
    (tmp_path / "config.yaml").write_text("name: x\nmodel: {path: m}\n")
    assert_clean(run("rewards", "explain", str(tmp_path), "--step", "1"), "asked", "owned")


def test_an_error_of_ours(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(json.dumps({"name": "x", "model": {"path": "m"}, f"bad{EVIL}key": 1}))
    done = run("sft", str(path), "--dry-run")
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr and b"\x07" not in done.stderr


def test_a_warning(tmp_path):
    """It may quote what a data set's tests or a model's answer hold."""
    code = f"import logging, rl.app.cli; rl.app.cli.main(['top', '--once', {str(tmp_path)!r}]); "
    code += f"logging.getLogger('rewards.x').warning('so says %s', {EVIL + 'the answer'!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=300)
    assert b"so says" in done.stderr and b"the answer" in done.stderr
    assert not {*b"\x1b\x07\x9b\x08\r"} & {*done.stderr}


@pytest.mark.parametrize("text", ["plain", "né 日本 👩\u200d🚀\t\n", "a | b"])
def test_what_is_harmless_stays(text):
    assert clean(text) == text


def test_a_long_text_keeps_both_ends():
    assert clip_middle("abcdef", 6) == "abcdef"
    assert clip_middle("abc" + "x" * 4000 + "def", 6) == "abc\n[… 4,000 characters …]\ndef"
