"""A run folder takes one command at a time, goes on with its own settings only, and says why it can't be written to."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rl.app.disk import WriteError, describe, named_write_errors
from rl.app.run_files import find_run
from rl.app.run_lock import run_lock
from rl.app.stage_settings import first_change, settings_of
from rl.settings.schema import ConfigError

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys
from contextlib import closing
from pathlib import Path
from rl.app.run_lock import run_lock
from rl.app.run_files import find_run
with run_lock(Path(sys.argv[1]), "sawtooth rl"):
    print("held", flush=True)
    sys.stdin.read()
"""
STARTER = f"""
import subprocess, sys
from pathlib import Path
from rl.app.run_lock import run_lock
from rl.app.run_files import find_run
with run_lock(Path(sys.argv[1]), "sawtooth run"):
    child = subprocess.Popen([sys.executable, "-c", {HOLD!r}, sys.argv[1]])
    child.wait()
"""


def start(code, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def refused(folder):
    with pytest.raises(ConfigError) as error, run_lock(folder, "sawtooth sft"):
        pass
    return str(error.value)


def test_a_second_command_is_refused_until_the_first_is_gone(tmp_path):
    first = start(HOLD, tmp_path)
    line = refused(tmp_path)
    assert f"is in use by sawtooth rl (process {first.pid} on " in line and "\n" not in line
    with run_lock(tmp_path / "other", "sawtooth sft"):
        pass
    first.kill()
    first.wait()
    with run_lock(tmp_path, "sawtooth sft"):
        pass


def test_the_processes_of_a_run_share_its_lock_and_outlive_its_starter(tmp_path):
    starter = start(STARTER, tmp_path)
    assert f"sawtooth run (process {starter.pid}" in refused(tmp_path)
    starter.kill()  # the child goes on: the pipe of its input is ours
    starter.wait()
    assert f"sawtooth run (process {starter.pid}" in refused(tmp_path)
    starter.stdin.close()  # now the child ends
    while starter.stdout.read():
        pass
    for _ in range(600):
        try:
            with run_lock(tmp_path, "sawtooth sft"):
                return
        except ConfigError:
            signal.sigtimedwait([], 0.1)
    pytest.fail("the lock outlives its processes")


def test_the_command_itself(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    holder = start(HOLD, tmp_path / "runs/demo")
    command = [sys.executable, "-P", "-m", "rl.app.cli"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for stage in ("data", "run"):
        result = subprocess.run(
            [*command, stage, str(ROOT / "configs/demo.yaml")], cwd=tmp_path, env=environment, capture_output=True,
            text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 2 and result.stdout == ""
        assert "runs/demo is in use by sawtooth rl" in result.stderr and "Traceback" not in result.stderr
    holder.kill()
    holder.wait()
    assert not (tmp_path / "runs/demo/data").exists()


def test_a_run_is_found_by_its_folder_or_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/one", "runs/two", "two", "elsewhere/three"):
        Path(folder).mkdir(parents=True)
    Path("runs/two/config.yaml").touch()
    given = ("one", "two", "elsewhere/three", "none")
    assert [str(find_run(run)) for run in given] == ["runs/one", "runs/two", "elsewhere/three", "none"]


WHOLE = {
    "seed": 0,
    "model": {"path": "m", "dtype": "float32", "lora": None, "attn_implementation": None, "new": 0},
    "protocol": {"new": 0, "name": "inftythink", "max_rounds": 5, "segment_tokens": 32},
    "sft": {"learning_rate": 1e-3, "save_steps": 10},
    "rl": {"beta": 0.0, "max_completion_length": 8},
    "rollout": {"engine": "vllm", "urls": [], "weights_dir": None, "max_model_len": 64, "settings": {"dtype": "auto"}},
    "rewards": [{"fn": "answer"}],
    "data": {"questions": "q.jsonl", "eval": {"held_out": "e.jsonl"}, "workers": None, "verify": "never", "new": 0},
    "summarizer": {"url": "", "new": 0},
    "new": 0,
    "eval": {"samples": 4, "cache": None},
}


def changed(stage, **settings):
    other = json.loads(json.dumps(WHOLE))
    for path, value in settings.items():
        *parents, last = path.split("__")
        node = other
        for key in parents:
            node = node[key]
        node[last] = value
    return first_change(settings_of(stage, WHOLE), settings_of(stage, other))


@pytest.mark.parametrize(
    ("stage", "path", "value"),
    [
        ("sft", "sft__learning_rate", 1.0), ("sft", "sft__weight_decay", 0.1), ("sft", "model__lora", {"r": 8}),
        ("sft", "protocol__segment_tokens", 64), ("sft", "seed", 1),
        ("rl", "protocol__max_rounds", 6), ("rl", "seed", 1), ("rl", "model__dtype", "bfloat16"),
        ("rl", "model__lora", {"r": 8}), ("rl", "rollout__engine", "transformers"), ("rl", "rl__beta", 0.1),
        ("rl", "rollout__settings", {"dtype": "bfloat16"}), ("rl", "rollout__max_model_len", 32),
        ("rl", "data__questions", "p.jsonl"), ("rl", "rewards", [{"fn": "other"}]),
        ("eval", "eval__samples", 8), ("eval", "seed", 1), ("eval", "protocol__max_rounds", 6),
        ("eval", "rollout__engine", "transformers"), ("eval", "rl__max_completion_length", 9),
        ("sft", "data__verify", "always"), ("rl", "sft__learning_rate", 1.0), ("eval", "rl__beta", 0.1),
        *((stage, key, 1) for stage in ("data", "sft", "rl", "eval") for key in (  # before them; of later versions
            "model__new", "protocol__new", "data__new", "summarizer__new", "new",
        )),
    ],
)  # fmt: skip
def test_what_a_result_depends_on_is_compared(stage, path, value):
    assert changed(stage, **{path: value}).startswith(path.replace("__", "."))


@pytest.mark.parametrize(
    ("stage", "path", "value"),
    [
        ("sft", "sft__save_steps", 5), ("sft", "sft__logging_steps", 1), ("sft", "sft__report_to", "none"),
        ("rl", "rollout__urls", ["http://h:1"]), ("rl", "rollout__weights_dir", "/mnt"), ("rl", "rl__save_steps", 3),
        ("rl", "rollout__settings", {"dtype": "auto", "gpu_memory_utilization": 0.4}), ("eval", "eval__cache", "none"),
        ("sft", "rl__beta", 1.0), ("rl", "eval__samples", 8), ("rl", "rl__max_tokens_per_microbatch", 99),
        ("data", "sft__learning_rate", 1.0), ("data", "model__dtype", "bfloat16"), ("data", "protocol__max_rounds", 9),
        ("sft", "data__eval", {}), ("eval", "summarizer__url", "http://h"), ("eval", "data__workers", 1),
    ],
)  # fmt: skip
def test_what_it_does_not_depend_on_may_change(stage, path, value):
    assert changed(stage, **{path: value}) is None


def test_save_steps_matter_where_the_best_checkpoint_is_picked():
    now = json.loads(json.dumps(WHOLE))
    now["sft"] |= {"load_best_model_at_end": True}
    before = json.loads(json.dumps(now))
    now["sft"]["save_steps"] = 5
    assert first_change(settings_of("sft", before), settings_of("sft", now)).startswith("sft.save_steps (10 then, 5")


def write_torch(folder):
    torch.save({"a": torch.zeros(1 << 20)}, folder / "optimizer.pt")


def write_safetensors(folder):
    save_file({"a": torch.zeros(1 << 20)}, folder / "model.safetensors")


def write_text(folder):
    (folder / "metrics.jsonl").write_text("x" * (1 << 22))


def write_parquet(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": list(range(1 << 19))}), folder / "a.parquet", use_dictionary=False)


def write_database(folder):
    with closing(sqlite3.connect(folder / "a.sqlite")) as database:
        database.execute("CREATE TABLE a (b TEXT)")
        database.execute("INSERT INTO a VALUES (?)", ("x" * (1 << 22),))
        database.commit()


WRITERS = [write_torch, write_safetensors, write_text, write_parquet, write_database]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_may_not_grow_is_named(tmp_path, write):
    """Stands for a full disk where nothing can be mounted: the same libraries hide it in the same way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(WriteError) as error, named_write_errors(tmp_path):
            write(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path) in str(error.value) and "MiB free there)" in str(error.value)


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_named(small_disk, write):
    for path in small_disk.iterdir():
        path.unlink()
    with pytest.raises(WriteError, match=r"^the disk is full") as error, named_write_errors(small_disk):
        write(small_disk)
    assert str(small_disk) in str(error.value)


def test_a_file_in_the_way_and_a_read_only_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(WriteError, match=r"runs is not a folder$"), named_write_errors(tmp_path / "runs/demo"):
        (tmp_path / "runs/demo").mkdir(parents=True)
    error = OSError(errno.EACCES, "Permission denied", str(tmp_path / "runs"))
    assert describe(error, tmp_path) is None  # it can be written: that was something else
    assert describe(ValueError("no"), tmp_path) is None


def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    closed = tmp_path / "runs"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", closed], capture_output=True)
        if mounted.returncode:
            pytest.skip("this user may write everywhere, and nothing can be mounted")
    try:
        result = subprocess.run(
            [sys.executable, "-P", "-m", "rl.app.cli", "data", str(ROOT / "configs/demo.yaml")], cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", closed], capture_output=True)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "runs/demo can't be written" in line
    shutil.rmtree(closed)
