"""Configs: checks, overrides, and every config in the repo."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rl.app.run_config import load_config
from rl.settings.schema import ConfigError, library_fields

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_of_the_repo_is_valid(path):
    config = load_config(path)
    assert yaml.safe_load(config.to_yaml())["name"] == config.name


def test_fields_read_from_source_are_the_real_ones():
    from trl import SFTConfig

    from rl.config import EpisodeGRPOConfig

    for name, config in (("SFTConfig", SFTConfig), ("EpisodeGRPOConfig", EpisodeGRPOConfig)):
        assert set(library_fields(name)) == {f.name for f in dataclasses.fields(config) if f.init}


def test_overrides():
    config = load_config(CONFIGS[0], ["--rl.learning_rate=1e-6", "--rewards.0.weight=0.5", "--protocol.max_rounds=7"])
    assert config.rl["learning_rate"] == 1e-6
    assert config.rewards[0]["weight"] == 0.5
    assert config.protocol.max_rounds == 7


def test_old_spellings_are_accepted_and_shown_as_the_new_ones():
    config = load_config(CONFIGS[0], ["--eval.who=examples/chains/task.py:summarize", "--eval.when=[model, fixed:16]"])
    assert config.eval.summarizer == "examples/chains/task.py:summarize"
    assert "summarize_at:\n  - model\n  - fixed:16" in config.to_yaml() and "  who:" not in config.to_yaml()
    with pytest.raises(ConfigError, match=r"eval\.who is the old name of eval\.summarizer: leave one"):
        load_config(CONFIGS[0], ["--eval.who=a", "--eval.summarizer=b"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--rl.learning_rat=1", "unknown key 'rl.learning_rat': did you mean 'learning_rate'?"),
        ("--rewrads=1", "unknown key 'rewrads': did you mean 'rewards'?"),
        ("--model.pth=x", "unknown key 'model.pth': did you mean 'path'?"),
        ("--protocol.max_round=3", "unknown key 'protocol.max_round': did you mean 'max_rounds'?"),
        ("--rl.learning_rate=fast", "rl.learning_rate is 'fast'; it must be a number"),
        ("--rl.max_steps=1.5", "rl.max_steps is 1.5; it must be a whole number"),
        ("--sft.packing=maybe", "sft.packing is 'maybe'; it must be true or false"),
        ("--protocol.name=infty", "known protocols: inftythink, vanilla, delethink"),
        ("--rollout.engine=sglang", "rollout.engine is 'sglang'; it must be one of vllm, transformers"),
        ("--rl.output_dir=x", "rl.output_dir is set by the run itself"),
        ("--rl.use_vllm=true", "rl.use_vllm is set by rollout.engine"),
        ("--data.segment_tokens_choices=[9, 3000]", "data.segment_tokens_choices contains 3000"),
        ("--rewards.7.weight=1", "is not an index into a list"),
        ("--rl", "write --section.key=value"),
        ("--name=a/b", "it can't contain a slash"),
    ],
)
def test_mistakes_are_one_clear_line(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(CONFIGS[0], [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "rl.app.cli", *arguments], cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no config"), ("a: [1", "is not YAML"), ("- 1", "contain sections"), ("name: x", "model.path")],
)
def test_bad_files_stop_the_command(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    result = run("rl", str(path))
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_help_and_dry_run_answer_at_once_because_they_import_nothing_heavy():
    assert "GRPO over whole episodes" in run("--help").stdout
    dry_run = f"""
import sys
from rl.app.cli import main
assert main(["run", {str(CONFIGS[0])!r}, "--dry-run", "--seed=5"]) == 0
print("heavy:", sorted({{"torch", "transformers", "trl", "vllm", "datasets", "deepspeed", "peft"}} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", dry_run], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.count("seed: 5") == 1 and "heavy: []" in out


def test_a_missing_data_file_and_an_empty_one(tmp_path):
    settings = ["data", str(ROOT / "configs/demo.yaml")]
    result = run(*settings, "--data.traces=nowhere.jsonl", cwd=tmp_path)
    message = "sawtooth: data.traces: data file nowhere.jsonl does not exist"
    assert (result.returncode, result.stderr.strip()) == (2, message)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    result = run(*settings, "--data.traces=empty.jsonl", cwd=tmp_path)
    assert result.returncode == 2 and "is empty" in result.stderr
