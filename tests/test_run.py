"""The real command, end to end on a model of 140,000 parameters: killed in SFT and in RL, gone on with, exported."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollout.store import read_episodes
from tests.quiet import as_a_user, foreign

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = [
    "--model.build_args={hidden: 64, layers: 2, heads: 2, context: 128}",
    "--data.traces.count=200", "--data.questions.count=40",
    "--data.eval.held_out.count=6", "--data.eval.harder.count=4",
    "--sft.max_steps=40", "--sft.save_steps=4", "--sft.logging_steps=2", "--sft.per_device_train_batch_size=4",
    "--rl.max_steps=6", "--rl.save_steps=1", "--rl.per_device_train_batch_size=8", "--rl.num_generations=4",
    "--rl.seeded_rollouts=true",
    "--rollout.max_model_len=128", "--rollout.settings={max_num_seqs: 16, kv_cache_memory_bytes: 67108864}",
    "--eval.samples=2", "--eval.cache=none",
]  # fmt: skip


SAWTOOTH = [sys.executable, "-P", "-m", "rl.app.cli"]


def command(stage):
    return [*SAWTOOTH, stage, str(ROOT / "configs/demo.yaml"), *OVERRIDES]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def run(stage, workdir):
    """Runs a stage to its end, as in a user's shell. Returns what it printed, which are its own lines only."""
    said = {"capture_output": True, "text": True, "timeout": 400}
    result = subprocess.run(command(stage), cwd=workdir, env=as_a_user(), **said)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert not foreign(result.stderr)
    said = result.stdout.replace("sft: warning: the model has not learned", "")  # ours: 40 steps are few
    assert not re.search(r"warning|\bINFO\b|deepspeed|triton|numa", said, re.IGNORECASE), result.stdout
    return result.stdout


def kill_after(stage, workdir, checkpoint):
    """Starts a stage and kills it without warning as soon as it has begun to write a checkpoint."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command(stage), cwd=workdir, env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not checkpoint.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (workdir / "runs/demo" / stage / "done.json").exists()


def steps(workdir, stage):
    lines = (workdir / "runs/demo/metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["step"] for row in rows if row["stage"] == stage and "train_runtime" not in row]


@pytest.mark.slow
def test_killed_twice_the_run_ends_well(workdir):
    runs = workdir / "runs/demo"
    assert "kept" in run("data", workdir)
    kill_after("sft", workdir, runs / "sft/checkpoint-8")
    run("sft", workdir)
    assert steps(workdir, "sft") == list(range(2, 41, 2))
    assert (runs / "sft/final/protocol.json").exists() and (runs / "sft/checkpoint-40/protocol.json").exists()

    kill_after("rl", workdir, runs / "rl/checkpoint-3")
    run("rl", workdir)
    assert steps(workdir, "rl") == [1, 2, 3, 4, 5, 6]
    rows = [json.loads(line) for line in (runs / "metrics.jsonl").read_text().splitlines()]
    gaps = [row["mismatch/logprob_diff/mean"] for row in rows if "mismatch/logprob_diff/mean" in row]
    assert len(gaps) == 6 and max(gaps) < 1e-5
    episodes = read_episodes(runs / "episodes")
    assert len(episodes) == 6 * 8
    assert {row["step"] for row in episodes} == set(range(6))

    table = run("eval", workdir)
    assert table.count("| held_out |") == 2
    summary = json.loads((runs / "eval/summary.json").read_text())
    assert {(row["stage"], row["dataset"]) for row in summary} == {
        ("sft", "held_out"), ("sft", "harder"), ("rl", "held_out"), ("rl", "harder"),
    }  # fmt: skip
    fields = {
        "stage", "protocol", "dataset", "samples", "accuracy", "accuracy_ci95", "rounds_mean", "tokens_mean",
        "peak_context_mean", "latency_mean",
    }  # fmt: skip
    assert all(fields <= row.keys() and row["samples"] == 2 for row in summary)

    run("export", workdir)
    check_export(runs / "export/model")
    assert run("rl", workdir).startswith("rl: already done, kept")


@pytest.mark.slow  # of the run that the test before it has made
@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", str(ROOT / "configs/demo.yaml"), *OVERRIDES], ["top", "--once"], ["report", "demo"],
        ["data", "show", "demo"], ["rewards", "explain", "demo", "--step", "2"], ["rewards", "test", "answer"],
        ["export", "runs/demo/rl/final", "--out", "exported"],
        ["eval", "runs/demo/rl/final", "--data", "asked.csv", "--samples", "1"],
    ],
)  # fmt: skip
def test_commands_beside_the_run_print_only_their_own_lines(workdir, arguments):
    (workdir / "asked.csv").write_text("question,answer\nk=3 l+4 ?,7\n")
    result = subprocess.run([*SAWTOOTH, *arguments], cwd=workdir, env=as_a_user(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert not foreign(result.stderr)


@pytest.mark.slow
def test_sigterm_saves_and_both_interrupted_runs_are_the_same(workdir):
    """Interrupted after other steps than the run above: each is the uninterrupted run where the other was not."""
    demo, runs = workdir / "runs/demo", workdir / "runs/again"
    for part in ("base", "data", "sft"):
        shutil.copytree(demo / part, runs / part)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [*command("rl"), "--name=again"]
    with subprocess.Popen(arguments, cwd=workdir, env=environment, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not (runs / "rl/checkpoint-1").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "stopped by SIGTERM after step" in out
    assert not (runs / "rl/done.json").exists() and not (runs / "rl/checkpoint-6").exists()
    subprocess.run(arguments, cwd=workdir, env=environment, check=True, capture_output=True, timeout=400)
    for first, second in zip(logs(demo), logs(runs), strict=True):
        assert first["step"] == second["step"]
        for name, value in first.items():
            if name.partition("/")[0] in ("reward", "accuracy", "episode", "summary", "group"):
                assert second[name] == value, name
            if name in ("loss", "entropy", "grad_norm"):
                assert second[name] == pytest.approx(value, abs=1e-5), name


def logs(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == "rl" and "train_runtime" not in row]


def check_export(folder):
    """Plain transformers and plain vLLM load the folder, and the card's own code runs its rounds."""
    card = (folder / "README.md").read_text()
    assert "| held_out | rl |" in card and (folder / "protocol.json").exists() and (folder / "accuracy.png").exists()
    code = card.partition("```python\n")[2].partition("```")[0]
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-2000:]
    result = subprocess.run([sys.executable, "-c", PLAIN_VLLM], cwd=folder, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-2000:]


PLAIN_VLLM = """
import os
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM, SamplingParams
llm = LLM(model=".", max_model_len=128, enforce_eager=True, kv_cache_memory_bytes=1 << 26)
outputs = llm.chat([{"role": "user", "content": "k=3 l+4 ?"}], SamplingParams(max_tokens=8))
assert outputs[0].outputs[0].token_ids
"""


@pytest.mark.slow  # of the run that the test before it has made
def test_other_settings_are_refused(workdir):
    arguments = [*command("sft"), "--sft.learning_rate=1e-5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(arguments, cwd=workdir, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "sft.learning_rate (0.003 then, 1e-05 now)" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "reward 'mine' returned NoneType, not a list"),
        ("return [1.0]", "reward 'mine' returned 1 values for 8 episodes"),
        ("raise KeyError('level')", "reward 'mine' failed on every episode of 3 steps in a row: KeyError: 'level'"),
    ],
)
def test_a_broken_reward_stops_the_command_with_one_line(workdir, tmp_path, body, message):
    (tmp_path / "rewards.py").write_text(f"def mine(completions, **columns):\n    {body}\n")
    for part in ("base", "data", "sft"):
        shutil.copytree(workdir / "runs/demo" / part, tmp_path / "runs/demo" / part)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    arguments = [*command("rl"), "--rollout.engine=transformers", "--rollout.settings={}",
                 "--rewards=[{fn: 'rewards.py:mine'}]", "--rl.max_completion_length=8"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stderr[-2000:]
    last = result.stderr.strip().splitlines()[-1]
    assert f"sawtooth: {message}" in last
    assert "Traceback" not in result.stderr
