"""Runs of fewer stages than all: RL of a bare instruct checkpoint, SFT alone, evaluation alone; changed settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rl.app.cli import main
from rl.app.run_config import load_config
from rl.app.stage_settings import settings_of
from rl.app.stages import run_stage
from rl.monitor.runs import Run
from rollout.store import read_episodes
from tests.bpe_model import build_model, build_tokenizer

ROOT = Path(__file__).resolve().parents[1]
LORA = "{r: 4, target_modules: all-linear}"
CONFIGS = {
    "grpo": f"""
model: {{path: instruct, dtype: float32, lora: {LORA}}}
protocol: {{name: vanilla}}
data: {{questions: questions.jsonl}}
rl:
  max_steps: 2
  per_device_train_batch_size: 8
  num_generations: 4
  max_completion_length: 12
  learning_rate: 1.0e-2
  report_to: none
rollout: {{engine: transformers, max_model_len: 256}}
rewards: [{{fn: "letters.py:letters"}}]
""",
    "sft": """
model: {path: instruct, dtype: float32}
protocol: {name: vanilla, segment_tokens: 64, summary_tokens: 8}
data: {traces: traces.jsonl, duplicates: keep, verify: never}
summarizer: {checks: [shorter]}
sft: {max_steps: 2, logging_steps: 1, per_device_train_batch_size: 4, report_to: none}
rl: null
""",
    "eval": """
model: {path: instruct, dtype: float32}
protocol: {name: vanilla}
data: {eval: {easy: questions.jsonl}}
eval: {samples: 2, max_tokens: 1, cache: none}
rollout: {engine: transformers}
""",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint as people have them (a chat template, no token of ours), questions, traces, a reward."""
    folder = tmp_path_factory.mktemp("chain")
    texts = [f"The sum of {n} and {n + 1} is {2 * n + 1}. We add them up and write it down." for n in range(30)]
    build_tokenizer(folder / "instruct", texts, 400)
    build_model(folder / "instruct", texts, 20)
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(12)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        row |= {"reasoning": f"We add 1 to {row['question'][8]}.", "response": f"It is \\boxed{{{row['answer']}}}."}
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = "def letters(completions, **_):\n    return [float(str(c).count('e')) for c in completions]\n"
    (folder / "letters.py").write_text(reward)
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def steps(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(row["stage"], row["step"]) for row in rows if "loss" in row]


def weights(path):
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def test_grpo_of_a_bare_instruct_checkpoint_by_the_one_command(folder):
    """`sawtooth run`: RL and export are all its stages; LoRA and dtype hold in the first of them."""
    command = [sys.executable, "-P", "-m", "rl.app.cli", "run", "grpo.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    run = folder / "runs/grpo"
    assert sorted(p.name for p in run.iterdir() if p.is_dir()) == ["episodes", "export", "rl"]
    assert (run / "rl/checkpoint-2/adapter_model.safetensors").exists()
    episodes = read_episodes(run / "episodes")
    assert len(episodes) == 16 and {row["num_rounds"] for row in episodes} == {1}
    before, after = weights(folder / "instruct"), weights(run / "export/model")
    assert before.keys() == after.keys()
    moved = [name for name in before if not before[name].equal(after[name])]
    assert moved and all("proj" in name for name in moved)  # the adapter's, merged
    assert json.loads((run / "export/model/protocol.json").read_text())["name"] == "vanilla"
    assert "Not evaluated." in (run / "export/model/README.md").read_text()
    kept = (run / "config.yaml").read_text()
    command = [sys.executable, "-P", "-m", "rl.app.cli", "export", "grpo.yaml", "rollout.engine=vllm"]  # another
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0 and "config.yaml is not updated" in result.stdout, result.stderr[-4000:]
    assert (run / "config.yaml").read_text() == kept


def test_a_checkpoint_that_does_not_know_the_rounds_is_refused_for_them(here, capsys):
    message = "instruct does not know <summary>: SFT teaches a model the rounds"
    assert main(["rl", "grpo.yaml", "protocol.name=inftythink", "name=other"]) == 2
    assert message in capsys.readouterr().err
    (here / "instruct/tokenizer.json").rename(here / "instruct/hidden.json")  # as on the Hub: nothing to look into
    config = load_config("grpo.yaml", ["protocol.name=inftythink", "name=other"])
    (here / "instruct/hidden.json").rename(here / "instruct/tokenizer.json")
    with pytest.raises(ValueError, match=message):
        run_stage("rl", config)
    assert not (here / "runs/other/rl/done.json").exists()


def test_a_context_beyond_the_model_is_refused_before_an_engine_starts(here):
    config = load_config("grpo.yaml", ["rollout.max_model_len=5000", "name=long"])
    with pytest.raises(ValueError, match=r"max_model_len is 5000, above the context of instruct, which is 4096"):
        run_stage("rl", config)


def another_checkpoint(here, name, change):
    """A copy of the checkpoint with a changed `tokenizer_config.json`."""
    shutil.copytree(here / "instruct", here / name, dirs_exist_ok=True)
    path = here / name / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    return f"model.path={name}", f"name={name}"


def test_a_tokenizer_without_eos_and_pad_trains_in_every_stage(here, capsys):
    change = another_checkpoint(here, "endless", lambda s: [s.pop(key) for key in ("eos_token", "pad_token")])
    (here / "endless/generation_config.json").unlink(missing_ok=True)
    for stage, config in (("data", "sft"), ("sft", "sft"), ("export", "sft"), ("rl", "grpo"), ("export", "grpo")):
        name = f"name=endless-{config}"
        assert main([stage, f"{config}.yaml", *change, name]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("<|im_end|>' (1), the tokenizer has no eos: rows end with") == 2
    for config in ("sft", "grpo"):
        model = here / f"runs/endless-{config}/export/model"
        assert json.loads((model / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
        assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == 1


@pytest.mark.parametrize(
    ("stages", "change", "said"),
    [
        ("rl", {"pad_token": "<pad>"}, "the tokenizer's '<pad>' is token 33"),
        ("data rl", {"chat_template": "{{ raise_exception('no') }}"}, "template can't render this question: no"),
        ("data rl", {"chat_template": "Answer:"}, "the chat template drops the question"),
    ],
)
def test_what_no_stage_could_train_is_one_line_before_it(here, stages, change, said, capsys):
    (here / "odd").exists() and shutil.rmtree(here / "odd")
    arguments = another_checkpoint(here, "odd", lambda settings: settings.update(change))
    if "chat_template" in change:
        (here / "odd/chat_template.jinja").write_text(change["chat_template"])
    for stage in stages.split():
        assert main([stage, f"{'grpo' if stage == 'rl' else 'sft'}.yaml", *arguments, f"name=odd-{stage}"]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sawtooth: ")]
        assert said in line and not (here / f"runs/odd-{stage}/{stage}/done.json").exists()


def test_sft_alone_and_what_was_changed_after_its_data(here, capsys):
    for stage in ("data", "sft", "export"):
        assert main([stage, "sft.yaml"]) == 0, capsys.readouterr().err
    run = here / "runs/sft"
    assert steps(run)[-1][0] == "sft" and json.loads((run / "sft/done.json").read_text())
    assert not (run / "rl").exists() and (run / "export/model/model.safetensors").exists()
    assert Run("sft", run).state() == "finished"
    kept = (run / "config.yaml").read_text()
    for change, was in (
        ("summarizer.checks=[copy]", "summarizer.checks (['shorter'] then, ['copy'] now)"),
        ("data.verify=always", "data.verify ('never' then, 'always' now)"),
        ("sft.max_steps=3", "sft.max_steps (2 then, 3 now)"),
    ):
        for stage in ("sft", "export"):
            capsys.readouterr()
            assert main([stage, "sft.yaml", change]) == 2
            assert f"runs/sft was made with another {was}" in capsys.readouterr().err
    shutil.rmtree(run / "data")  # the earlier stage alone is made again: what was made of the old one is not its result
    assert main(["data", "sft.yaml", "data.verify=always"]) == 2
    assert "another data.verify ('never' then, 'always' now): choose a new --name, or delete runs/sft/sft and" in (
        capsys.readouterr().err
    )
    assert (run / "config.yaml").read_text() == kept
    assert main(["data", "sft.yaml"]) == 0
    assert main(["sft", "sft.yaml", "summarizer.timeout=9", "data.workers=1"]) == 0  # nothing depends on them


def test_evaluation_alone(here, capsys):
    assert main(["eval", "eval.yaml"]) == 0
    out = capsys.readouterr().out
    (row,) = json.loads((here / "runs/eval/eval/summary.json").read_text())
    assert (row["stage"], row["questions"], row["samples"], row["protocol"]) == ("base", 12, 2, "vanilla")
    assert row["stops"]["truncated"] == 1.0 and "| truncated % |" in out and "| 100.0 |" in out
    assert "24 of 24 episodes truncated at the token limit of a round: base, vanilla, easy" in out
    for stage in ("rl", "export"):
        assert main([stage, "eval.yaml"]) == 2
        assert f"eval has no stage {stage}" in capsys.readouterr().err


def test_the_start_of_rl_is_one_of_its_settings(here, capsys):
    """A run whose RL began with the checkpoint itself does not go on as one with SFT before it."""
    (here / "runs/start/rl/final").mkdir(parents=True)
    config = load_config("grpo.yaml", ["name=start"])
    (here / "runs/start/rl/settings.json").write_text(json.dumps(settings_of("rl", config.to_dict())))
    assert main(["rl", "grpo.yaml", "name=start", "data.traces=traces.jsonl"]) == 2
    assert "made with another start ('model.path' then, 'sft' now)" in capsys.readouterr().err
