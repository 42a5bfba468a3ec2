"""Run folders that someone else has made: each is named with what is wrong, and all others stay listed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from rl.app.run_files import MOST_CONFIG, read_yaml
from rl.exporting.run_folder import find_run
from rl.monitor.report import write_report
from rl.monitor.runs import Runs
from rl.monitor.server import make_app
from rl.monitor.summaries import Summaries
from tests.monitor_run import all_read

LOG = json.dumps({"stage": "rl", "step": 1, "time": 1.0, "loss": 0.5}) + "\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def link_to_secret(folder):
    secret = folder.parents[1] / "secret.yaml"
    secret.write_text("password: hunter2\n")
    (folder / "config.yaml").symlink_to(secret)


def link_to_folder(folder):
    (folder.parents[1] / "elsewhere").mkdir()
    (folder.parents[1] / "elsewhere" / "summary.json").write_text('[{"secret": "hunter2"}]')
    (folder / "eval").symlink_to(folder.parents[1] / "elsewhere")


def link_of_metrics(folder):
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").symlink_to("/dev/zero")


def pipe_of_metrics(folder):
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")


def pipe_of_episodes(folder):
    (folder / "episodes").mkdir()
    os.mkfifo(folder / "episodes" / "train_000001.parquet")


def hole_in_metrics(folder):
    with (folder / "metrics.jsonl").open("ab") as file:
        file.truncate(8 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + LOG.replace('"step": 1', '"step": 2').encode())


def folder_links_to_itself(folder):
    (folder / "rl").symlink_to(folder / "rl")


def name_that_is_a_path(folder):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "\0" + "x" * 5000, "step": 1, "time": 2.0, "loss": 1}) + "\n")


def rows_without_end(folder):
    (folder / "episodes").mkdir()
    table = pa.table({"step": pa.array([0] * (1 << 21), pa.int32())})
    pq.write_table(table, folder / "episodes" / "train_000001.parquet")


def texts_without_end(folder):
    """160 KB that stand for 26 GB: each text is written once."""
    (folder / "episodes").mkdir()
    numbers = pa.array([0] * (1 << 16), pa.int32())
    text = pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 200_000]))
    rounds = pa.array([[]] * len(numbers), pa.list_(pa.string()))
    columns = dict.fromkeys(("step", "episode", "num_rounds", "num_tokens"), numbers)
    table = pa.table({**columns, "group": text, "question": text, "rounds": rounds})
    pq.write_table(table, folder / "episodes" / "train_000001.parquet", store_schema=False, compression="zstd")


POISONS = {
    "link": (link_to_secret, "leads out of the run's folder"),
    "recursive": (lambda f: (f / "config.yaml").write_text("a: &a [*a]\nb: &b {c: *b}\n"), "alias"),
    "bomb": (lambda f: (f / "config.yaml").write_text(BOMB), "alias"),
    "deep": (lambda f: (f / "config.yaml").write_text("[" * 20_000), "deep"),
    "large": (lambda f: (f / "config.yaml").write_text("# " + "x" * MOST_CONFIG), "bytes"),
    "pipe": (lambda f: os.mkfifo(f / "config.yaml"), "not a regular file"),
    "endless": (lambda f: (f / "config.yaml").symlink_to("/dev/zero"), "leads out"),
    "folder": (lambda f: (f / "config.yaml").mkdir(), "not a regular file"),
    "metrics_link": (link_of_metrics, "leads out"),
    "metrics_pipe": (pipe_of_metrics, "not a regular file"),
    "eval_link": (link_to_folder, None),
    "hole": (hole_in_metrics, "1 lines are not log lines"),
    "self": (folder_links_to_itself, None),
    "stage": (name_that_is_a_path, None),
    "utf": (lambda f: (f / "config.yaml").write_bytes(b"a: \xff\xfe\x00\n"), "is not YAML"),
    "number": (lambda f: (f / "config.yaml").write_text("a: 1" + ":1" * 100_000), "number of 200001 characters"),
    **{
        f"tag{n}": (lambda f, tag=tag: (f / "config.yaml").write_text(f"a: !!{tag}\n"), "is not YAML")
        for n, tag in enumerate(("int x", 'int ""', "bool x", "timestamp x", "binary x", "python/name:os.system"))
    },
    "date": (lambda f: (f / "config.yaml").write_text("a: 2026-13-45\n"), "config.yaml can't be read"),
}


def make_run(folder):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(LOG)
    return folder


@pytest.fixture
def many(tmp_path):
    """Every poison beside two good runs."""
    for name in ("good", "other"):
        (make_run(tmp_path / "runs" / name) / "config.yaml").write_text("name: good\nrl: {max_steps: 3}\n")
    for name, (poison, _) in POISONS.items():
        poison(make_run(tmp_path / "runs" / name))
    pipe_of_episodes(make_run(tmp_path / "runs" / "episodes_pipe"))
    rows_without_end(make_run(tmp_path / "runs" / "rows"))
    texts_without_end(make_run(tmp_path / "runs" / "texts"))
    return tmp_path / "runs"


def test_each_is_named_and_the_others_are_listed(many):
    with TestClient(make_app(Runs([many])), base_url="http://localhost") as client:
        listed = {run["id"]: run for run in all_read(lambda: client.get("/api/runs").json())}
        for name in ("good", "other"):
            assert listed[name]["step"] == 1 and listed[name]["max_steps"] == 3 and listed[name]["message"] is None
        for name, (_, message) in POISONS.items():
            assert message is None or message in listed[name]["message"], (name, listed[name]["message"])
            if not name.startswith("metrics"):
                assert listed[name]["step"] == (2 if name == "hole" else 1)
        assert "hunter2" not in json.dumps(listed)
        assert "hunter2" not in client.get("/api/config", params={"run": "link"}).text
        assert client.get("/api/config", params={"run": "endless"}).status_code == 410
        for run, reason in {
            "episodes_pipe": "not a regular file",
            "rows": "rows, more than",
            "texts": "bytes of questions",
        }.items():
            for _ in range(600):
                faults = client.get("/api/sources", params={"run": run}).json()["faults"]
                if faults:
                    break
                time.sleep(0.1)
            assert reason in faults[0]["reason"]


def test_a_report_on_each_is_written(many, tmp_path):
    for name in [*POISONS, "episodes_pipe", "rows", "texts"]:
        text = write_report(many / name, tmp_path / f"{name}.md").read_text()
        assert "hunter2" not in text
    assert "leads out of the run's folder" in (tmp_path / "link.md").read_text()


def test_top_shows_the_good_ones(many):
    done = subprocess.run(
        [sys.executable, "-m", "rl.app.cli", "top", "--once", str(many)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "good" in done.stdout and "other" in done.stdout and "hunter2" not in done.stdout


def test_a_slow_folder_holds_nobody_up(many):
    runs = Runs([many]).refresh()
    slow = next(run for run in runs if run.id == "other")
    answered = []
    slow.summary = lambda: answered.append(1) or time.sleep(3600)
    summaries = Summaries(seconds=0.3)
    for _ in range(3):
        lines = {line["id"]: line for line in summaries.of([slow, *[r for r in runs if r is not slow]])}
        assert lines["other"]["message"] == "is still being read"
    for _ in range(200):
        if lines["good"]["step"] == 1:
            break
        lines = {line["id"]: line for line in summaries.of([slow, *[r for r in runs if r is not slow]])}
    assert lines["good"]["step"] == 1
    assert len(answered) == 1


def test_a_run_that_is_itself_a_link_is_read(many, tmp_path):
    (tmp_path / "linked").symlink_to(many / "good")
    assert Runs([tmp_path / "linked"]).refresh()[0].summary()["max_steps"] == 3


def test_yaml_without_aliases_is_read_as_ever(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1, {b: x}]\nwhen: 2026-01-02\n'n': 1e-6\n")
    assert read_yaml(tmp_path)["a"] == [1, {"b": "x"}]


@pytest.mark.parametrize(
    "host",
    [
        "[::1].example.org",
        "127.0.0.1.example.org",
        "localhost.example.org",
        "[::1",
        "::1",
        "localhost:1:2",
        "",
        "[::1]x",
        "example.org",
    ],
)
def test_a_host_that_only_looks_like_loopback_is_refused(many, host):
    client = TestClient(make_app(Runs([many])), base_url="http://localhost")
    assert client.get("/api/runs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:8686", "127.0.0.1:80", "[::1]", "[::1]:8686", "127.1.2.3"])
def test_loopback_is_served(many, host):
    client = TestClient(make_app(Runs([many])), base_url="http://localhost")
    assert client.get("/api/runs", headers={"host": host}).status_code == 200


def test_a_stage_may_have_a_dot_in_its_name(tmp_path):
    run = make_run(tmp_path / "run.v1")
    (run / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"stage": "rl.v2/x", "step": n, "time": n, "loss": n if n < 3 else math.nan}) + "\n"
            for n in range(4)
        )
    )
    for out in ("a.md", "b.html"):
        assert "rl.v2/x" in write_report(run, tmp_path / out).read_text()


@pytest.mark.parametrize("name", ["link", "recursive", "bomb", "deep", "large", "pipe", "endless"])
def test_an_export_from_it_is_refused_in_one_line(many, name):
    (many / name / "rl" / "final").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"config\.yaml") as error:
        find_run(many / name / "rl" / "final")
    assert "\n" not in str(error.value) and "hunter2" not in str(error.value)


def test_a_name_that_is_not_utf_8(tmp_path):
    folder = tmp_path / "made"
    (folder / "episodes").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(LOG)
    pq.write_table(pa.table({"a": [1]}), folder / "episodes" / "train_000001.parquet")
    folder = folder.rename(tmp_path / os.fsdecode(b"run\xff"))
    report = write_report(folder, tmp_path / "report.html").read_text()
    assert "Run run?" in report and "has a path that is not UTF-8" in report
    assert [run.folder for run in Runs([tmp_path]).refresh()] == [folder]
