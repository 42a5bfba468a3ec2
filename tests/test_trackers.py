"""TensorBoard, W&B and Trackio themselves, on a real run: the names of metrics.jsonl, and the table of episodes."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from rewards.score import Scores
from rl.app.run_config import load_config
from rl.config import EpisodeGRPOConfig
from rl.settings.schema import ConfigError
from rl.trackers import CHARACTERS, ROWS, table_of
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.store import read_episodes
from rollout.types import Episode, Segment, StopReason
from sft import trackers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
STEPS = {"sft": 16, "rl": 3}
REWARD = """
def length(completions, log_metric, **_):
    log_metric("length/unknown", float("nan"))  # null in metrics.jsonl
    return [float(len(c)) for c in completions]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run, trained by the real command with all three trackers on."""
    folder = tmp_path_factory.mktemp("trackers")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "length.py").write_text(REWARD)
    named = "report_to=[tensorboard, wandb, trackio]"
    overrides = [
        "--model.build_args={hidden: 32, layers: 2, heads: 2, context: 128}", "--data.traces.count=60",
        "--data.questions.count=40", f"--sft.max_steps={STEPS['sft']}", "--sft.logging_steps=2",
        "--sft.warmup_steps=0", "--sft.learning_rate=0.01",  # a few steps, and yet rounds that RL takes
        "--sft.per_device_train_batch_size=4", f"--sft.{named}", f"--rl.max_steps={STEPS['rl']}",
        "--rl.per_device_train_batch_size=8", "--rl.num_generations=4", f"--rl.{named}", "--rl.log_completions=true",
        "--rl.project=another", "--rewards=[{fn: answer}, {fn: 'length.py:length'}]",
        "--rollout.engine=transformers", "--rollout.settings={}", "--rollout.max_model_len=128",
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "WANDB_MODE": "offline",
        "WANDB_SILENT": "true", "TRACKIO_DIR": str(folder / "trackio"),
    }  # fmt: skip
    for stage in ("data", "sft", "rl"):
        command = [sys.executable, "-P", "-m", "rl.app.cli", stage, str(ROOT / "configs/demo.yaml"), *overrides]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return folder / "runs/demo"


def logged(run, stage):
    """{step: {name: value}} of metrics.jsonl."""
    merged = {}
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if row["stage"] == stage:
            values = {k: v for k, v in row.items() if k not in ("stage", "step", "time")}
            merged.setdefault(row["step"], {}).update(values)
    return merged


def same(value, expected):
    if expected is None:
        return value is None or math.isnan(value)
    return value == pytest.approx(expected, rel=1e-5, abs=1e-12)  # TensorBoard keeps 32 bits


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for step, values in expected.items():
        assert found[step].keys() == values.keys()
        wrong = {name: (found[step][name], v) for name, v in values.items() if not same(found[step][name], v)}
        assert not wrong


@pytest.mark.parametrize("stage", STEPS)
def test_tensorboard(run, stage):
    (folder,) = (run / stage / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    assert_same(found, logged(run, stage))


def wandb_records(folder):
    """Records of an offline run, when its last one is written: W&B may do that after `finish` has returned."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        records = list(decode(path.read_bytes()))
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def decode(data):
    """W&B's format: chunks in blocks of 32 KiB, each with checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, part = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):  # half-written
            return
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last chunk
            yield Record.FromString(part)
            part = b""


@pytest.mark.parametrize("stage", STEPS)
def test_wandb(run, stage):
    found, axes = {}, {}
    for record in wandb_records(run / stage):
        if record.HasField("run") and record.run.display_name:
            assert record.run.display_name == f"demo-{stage}"
            assert record.run.project == {"sft": "sawtooth", "rl": "another"}[stage]
        if record.HasField("metric") and record.metric.glob_name:
            axes[record.metric.glob_name] = record.metric.step_metric
        items = [(i.key or "/".join(i.nested_key), json.loads(i.value_json)) for i in record.history.item]
        values = {k: v for k, v in items if not k.startswith(("_", "episodes/"))}
        if values:
            found.setdefault(values.pop("step"), {}).update(values)
    assert_same(found, logged(run, stage))
    assert axes == {"*": "step"}


@pytest.fixture
def trackio_rows(run):
    """(name of the run, step, values), by project."""
    rows = {}
    for path in (run.parents[1] / "trackio").glob("*.db"):
        with sqlite3.connect(path) as database:
            found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
        rows[path.stem] = [(name, step, json.loads(values)) for name, step, values in found]
    return rows


def test_trackio(run, trackio_rows):
    assert trackio_rows.keys() == {"sawtooth", "another"}
    for stage, project in {"sft": "sawtooth", "rl": "another"}.items():
        found = {}
        for name, step, values in trackio_rows[project]:
            assert name == f"demo-{stage}"
            values.pop("episodes", None)
            found.setdefault(step, {}).update(values)
        assert_same(found, logged(run, stage))


def test_the_table_of_episodes_is_that_of_the_stored_ones(run, trackio_rows):
    stored = {(row["step"], row["episode"]): row for row in read_episodes(run / "episodes")}
    tables = [v["episodes"]["_value"] for _, _, v in trackio_rows["another"] if "episodes" in v]
    assert len(tables) == STEPS["rl"] and all(2 <= len(table) <= 4 for table in tables)  # two groups
    for step, table in enumerate(tables):
        assert {row["group"] for row in table} == {"0", "1"}
        for row in table:
            kept = stored[step, row["episode"]]
            ours = {"output": kept["rounds"][-1]["text"], "rounds": kept["num_rounds"], "tokens": kept["num_tokens"]}
            ours |= {f"reward/{name}": value for name, value in json.loads(kept["rewards"]).items()}
            for name in ("step", "group", "question", "answer", "stop_reason", "reward", "advantage"):
                ours[name] = kept[name]
            assert {k: v for k, v in row.items() if k in ours} == ours
    (files,) = (run / "rl/wandb").glob("offline-run-*/files/media/table")
    found = [json.loads(path.read_text()) for path in files.iterdir()]
    found = [[dict(zip(t["columns"], row, strict=True)) for row in t["data"]] for t in found]
    assert sorted(found, key=lambda table: table[0]["step"]) == tables


def episode(group, texts, reason=StopReason.ANSWERED):
    protocol = get_protocol("inftythink")
    rounds = [Segment([1], [2, 3], [0.0, 0.0], text, "stop", protocol.parse(text)) for text in texts]
    return Episode("q", 7, group, rounds, reason)


def test_rows_are_the_best_and_the_worst_of_the_widest_groups():
    final, summary = "<think>\nx\n</think>\\boxed{7}", "<think>\nx\n</think><summary>b={}</summary>"
    episodes = [episode(group, [final]) for group in range(9) for _ in range(3)]
    episodes[4] = episode(1, [summary.format(1), summary.format(2), final + "y" * 2 * CHARACTERS])
    episodes[0] = episode(0, [], StopReason.FAILED)
    totals = [1.0] * len(episodes)
    totals[:3] = [math.nan] * 3
    totals[3:6] = [0.0, 0.5, 0.25]
    totals[6:9] = [1.0, -1.0, math.nan]
    scores = Scores(totals, {"answer": totals, "length": [None] * len(episodes)})
    columns, rows = table_of(5, episodes, scores, torch.zeros(len(episodes)))
    rows = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["episode"] for row in rows] == [6, 7, 4, 3, 0, 9, 12, 15, 18, 21, 24]
    assert rows[0]["reward"] == 1.0 and rows[4]["reward"] is None and rows[4]["output"] == ""
    assert rows[2]["summaries"] == "round 1: b=1\n\nround 2: b=2" and rows[2]["rounds"] == 3
    assert "characters …]" in rows[2]["output"] and len(rows[2]["output"]) < CHARACTERS + 40
    many = [episode(group, [final]) for group in range(20) for _ in range(2)]
    assert len(table_of(0, many, Scores([0.0, 1.0] * 20), [0.0] * 40)[1]) == ROWS


class Own(WandbCallback):
    """A user's."""


def make(tiny_model, tokenizer, tmp_path, name, callbacks=None, **settings):
    args = EpisodeGRPOConfig(
        output_dir=str(tmp_path / name), run_name=name, per_device_train_batch_size=4, num_generations=2, max_steps=1,
        bf16=False, use_cpu=True, save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
        max_completion_length=4, logging_steps=1, **settings,
    )  # fmt: skip
    return EpisodeGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), lambda completions, **_: [1.0] * 4,
        args, Dataset.from_list([{"prompt": "a=1 b+2 ?"}, {"prompt": "c=5 d*3 ?"}]), processing_class=tokenizer,
        callbacks=callbacks,
    )  # fmt: skip


def test_two_trainings_of_one_process_are_two_runs(tiny_model, tokenizer, tmp_path, monkeypatch):
    import wandb

    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "boards"))
    for name in ("first", "second"):
        make(tiny_model, tokenizer, tmp_path, name, report_to=["wandb", "tensorboard"]).train()
        assert wandb.run is None
        names = {r.run.display_name for r in wandb_records(tmp_path / name) if r.HasField("run")}
        assert names == {name}
    assert {path.name for path in (tmp_path / "boards").iterdir()} == {"first", "second"}
    make(tiny_model, tokenizer, tmp_path, "untrained", report_to="tensorboard").log({"x": 1.0})
    assert [e.value for e in EventAccumulator(str(tmp_path / "boards/untrained")).Reload().Scalars("x")] == [1.0]
    with wandb.init(dir=tmp_path) as own:
        make(tiny_model, tokenizer, tmp_path, "third", report_to="wandb").train()
        assert wandb.run is own and own.summary["reward/mean"] == 1.0


def test_a_users_own_callback_and_arguments_stay(tiny_model, tokenizer, tmp_path):
    own = Own()
    trainer = make(tiny_model, tokenizer, tmp_path, "own", [own], report_to=["tensorboard", "trackio"])
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert own in trainer.callback_handler.callbacks
    assert {trackers.TensorBoard, trackers.Trackio} <= {*kinds}
    assert not {*kinds} & {TensorBoardCallback, WandbCallback, TrackioCallback}
    assert trainer.args.report_to == ["tensorboard"]  # TRL's own calls to the others


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("log_completions=true", "name wandb or trackio in rl.report_to"),
        ("num_completions_to_print=4", "rl.num_completions_to_print is not supported"),
        ("log_unique_prompts=true", "rl.log_unique_prompts is not supported"),
        ("log_completions_hub_repo=me/x", "rl.log_completions_hub_repo is not supported"),
    ],
)
def test_what_the_table_does_not_do_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT / "configs/demo.yaml", [f"--rl.{setting}"])


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    config = load_config(ROOT / "configs/demo.yaml", ["--rl.report_to=[wandb, tensorboard]", "--rl.run_name=mine"])
    assert config.trainer_settings("rl")["run_name"] == "mine"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert config.trainer_settings("sft")["run_name"] == "demo-sft"
    with pytest.raises(ConfigError, match=r"rl.report_to names wandb, which is not installed here: pip install wandb"):
        config.trainer_settings("rl")
