"""Run folders and their curves as the monitor reads them: while they are written, half-written, foreign, gone."""

from __future__ import annotations

import json
import math
import os
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.monitor.curves import Curves
from rl.monitor.runs import NotThere, Runs
from rl.monitor.series import curve


def line(stage="rl", step=1, **values):
    return json.dumps({"stage": stage, "step": step, "time": time.time(), **values}) + "\n"


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "name: one\nprotocol: {name: inftythink, max_rounds: 5}\nrl: {max_steps: 30}\nrewards:\n- {fn: answer}\n"
    )
    (folder / "metrics.jsonl").write_text(line(step=1, loss=1.0) + line(step=2, loss=0.5))
    return folder


def test_a_half_written_line_waits_for_its_rest(run_folder):
    path = run_folder / "metrics.jsonl"
    whole = line(step=3, loss=0.25)
    with path.open("a") as file:
        file.write(whole[:20])
    run = Runs([run_folder]).refresh()[0]
    assert run.summary()["step"] == 2 and "the last line is incomplete" in run.message
    with path.open("a") as file:
        file.write(whole[20:])
    assert run.summary()["step"] == 3 and run.message is None
    assert run.curves.series("rl", "loss")[2].tolist() == [1.0, 0.5, 0.25]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=8))
def test_any_cut_of_the_file_gives_the_same_curves(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    data = "".join(line(step=n, loss=n / 2, name="é") for n in range(5)).encode()
    curves = Curves(path)
    before = 0
    for cut in [*sorted(min(c, len(data)) for c in cuts), len(data)]:
        with path.open("ab") as file:
            file.write(data[before:cut])
        before = cut
        curves.refresh()
    assert curves.series("rl", "loss")[2].tolist() == [0, 0.5, 1, 1.5, 2]
    assert not curves.bad_lines and not curves.half_line


def test_a_resumed_run_is_read_anew(run_folder):
    """`MetricsFile` puts a shorter file in the place of the old one: steps after the checkpoint are repeated."""
    run = Runs([run_folder]).refresh()[0]
    assert run.summary()["step"] == 2
    part = run_folder / "metrics.tmp"
    part.write_text(line(step=1, loss=7.0))
    os.replace(part, run_folder / "metrics.jsonl")
    run.curves.refresh()
    assert run.curves.series("rl", "loss")[2].tolist() == [7.0]


def test_lines_that_are_no_log_are_counted_and_left_out(run_folder):
    with (run_folder / "metrics.jsonl").open("a") as file:
        file.write(
            'nonsense\n[1, 2]\n{"stage": "rl"}\n{"stage": "rl", "step": NaN}\n\n"x"\n{"stage": "rl", "step": {}}\n'
        )
        file.write('{"stage": "rl", "step": 3, "time": 1, "loss": 1e999, "note": "text", "flag": true, "gone": null}\n')
        file.write("\x00\xff\n" + "[" * 100_000 + "\n" + '{"stage": "rl", "step": 1' + "0" * 5000 + "}\n")
    run = Runs([run_folder]).refresh()[0]
    summary = run.summary()
    assert summary["step"] == 3 and run.curves.bad_lines == 9
    assert "9 lines are not log lines" in summary["message"]
    assert summary["latest"]["loss"] == 0.5  # the last that is a number
    assert "note" not in run.curves.names("rl") and math.isnan(run.curves.series("rl", "gone")[2][0])


def test_states(run_folder, tmp_path):
    runs = Runs([run_folder])
    (run,) = runs.refresh()
    run.curves.refresh()
    assert run.state() == "running"
    old = json.dumps({"stage": "rl", "step": 1, "time": time.time() - 9999}) + "\n"
    (run_folder / "metrics.jsonl").write_text(old)
    run.curves.refresh()
    assert run.state() == "stopped"
    (run_folder / "rl").mkdir()
    (run_folder / "rl" / "done.json").write_text("{}")
    assert run.state() == "finished"
    (run_folder / "rl" / "done.json").unlink()
    (run_folder / "metrics.jsonl").unlink()
    assert Runs([run_folder]).refresh()[0].state() == "waiting"
    summary = run.summary()
    assert summary["max_steps"] == 30
    shutil.rmtree(run_folder)
    assert run.summary()["state"] == "missing"
    assert "still shown" in run.message and run.curves.names("rl") == []


@pytest.mark.parametrize("lines", [2, 20, 49, 50, 200])
def test_a_run_of_long_steps_is_still_running(run_folder, lines):
    """Its last log is 200 s old, but they come every 300 s."""
    newest = time.time() - 200
    rows = [{"stage": "rl", "step": n, "time": newest - 300 * (lines - n)} for n in range(1, lines + 1)]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = Runs([run_folder]).refresh()
    assert run.summary()["state"] == "running"


def test_between_two_stages_it_waits(run_folder):
    (run_folder / "metrics.jsonl").write_text(json.dumps({"stage": "sft", "step": 9, "time": time.time() - 500}) + "\n")
    (run,) = Runs([run_folder]).refresh()
    assert run.summary()["state"] == "stopped"
    (run_folder / "sft").mkdir()
    (run_folder / "sft" / "done.json").write_text("{}")
    assert run.summary()["state"] == "waiting"


def test_a_run_made_anew_under_the_number_of_the_old_file(run_folder, monkeypatch):
    """A file system may give a new file the inode of a deleted one, and the new file may be longer."""
    path = run_folder / "metrics.jsonl"
    curves = Curves(path)
    curves.refresh()
    path.write_text("".join(line(step=n, loss=9.0) for n in range(1, 9)))  # in place: the same inode
    curves.refresh()
    assert curves.series("rl", "loss")[2].tolist() == [9.0] * 8


def test_a_folder_of_runs_grows_and_shrinks(run_folder, tmp_path):
    home = tmp_path / "runs"
    empty = tmp_path / "later"
    runs = Runs([home, empty])
    assert [(r.id, r.state()) for r in runs.refresh()] == [("one", "waiting"), ("later", "missing")]
    shutil.copytree(run_folder, home / "two")
    shutil.copytree(run_folder, empty / "one")
    assert [r.id for r in runs.refresh()] == ["one", "two", "one-2"]
    shutil.rmtree(home)
    assert [(r.id, r.state()) for r in runs.refresh()] == [("one", "missing"), ("two", "missing"), ("one-2", "waiting")]
    assert runs.get("one-2").folder == (empty / "one").resolve()
    with pytest.raises(NotThere, match="no run 'three'; known: one, two, one-2"):
        runs.get("three")


def test_foreign_folders_and_broken_files_are_said(tmp_path, run_folder):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.png").write_bytes(b"x")
    file = tmp_path / "file"
    file.write_text("x")
    (run_folder / "config.yaml").write_text("a: [")
    (run_folder / "eval").mkdir()
    (run_folder / "eval" / "summary.json").write_text('[{"stage": "rl"')
    one, other, no_folder = Runs([run_folder, foreign, file]).refresh()
    assert other.state() == "foreign" and "is not a run" in other.message
    assert no_folder.state() == "missing"
    assert one.summary()["evals"] == [] and "config.yaml can't be read" in one.message


def test_a_long_curve_is_thinned_and_keeps_its_extremes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"stage": "rl", "step": n, "time": 100.0 + n, "loss": float(n == 777)} for n in range(5000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = Curves(path)
    curves.refresh()
    thin = curve(curves, "rl", "loss", low=None, high=None, points=100)
    assert len(thin["x"]) == 100 and max(thin["high"]) == 1.0 and sum(y * 50 for y in thin["y"]) == pytest.approx(1)
    part = curve(curves, "rl", "loss", x="time", low=700, high=799, points=100)
    assert part["x"][:2] == [700, 701] and part["low"] is None and part["y"][77] == 1.0


def test_metrics_of_a_long_run_share_their_points(tmp_path):
    """One that is logged now and then stands on the grid of the others, with gaps: they can be stacked."""
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for n in range(3000):
            seldom = {"kl": 1.0} if 1000 <= n < 1100 else {}
            file.write(json.dumps({"stage": "rl", "step": n, "time": 50.0 + 2 * n, "loss": 1.0, **seldom}) + "\n")
    curves = Curves(path)
    curves.refresh()
    loss, kl = (curve(curves, "rl", name, x="time", low=None, high=None, points=300) for name in ("loss", "kl"))
    assert len(loss["x"]) == 300 and set(kl["x"]) < set(loss["x"]) and len(kl["x"]) == 10
    assert loss["steps"][:3] == [9, 19, 29] and loss["x"][:3] == [18, 38, 58]
    assert kl["steps"][0] == 1009 and kl["y"] == [1.0] * 10
