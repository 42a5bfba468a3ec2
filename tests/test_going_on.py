"""A stage goes on only with what it began with, and from a checkpoint that is what it says; else one line says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig
from trl import SFTConfig

from rl.app.cli import main
from rl.app.disk import WriteError, named_write_errors
from rl.app.run_config import load_config
from rl.app.run_files import is_done
from rl.app.run_lock import run_lock
from rl.app.stage_inputs import inputs_of
from rl.app.stage_settings import settings_of
from rollout.atomic import atomic
from sft.adapter import lora_config
from sft.train import RoundSFTTrainer
from tests.bpe_model import build_model, build_tokenizer

CONFIG = """
model: {path: model, dtype: float32}
protocol: {name: vanilla}
data: {questions: q.jsonl}
rl: {per_device_train_batch_size: 4, num_generations: 4, max_completion_length: 8, report_to: none}
rollout: {engine: transformers, max_model_len: 256}
rewards: [{fn: "mine.py:paid"}]
"""
REWARD = "import helper\n\n\ndef paid(completions, **_):\n    return [helper.of(c) for c in completions]\n"
HELPER = "def of(text):\n    return 1.0\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build_tokenizer(folder, ["We add one to two and write it down."], 280)
    build_model(folder, ["We add one to two and write it down. That is all of it, and no more."], 1)
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "q.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def begun(work):
    """An RL stage that was stopped after a checkpoint."""
    config, folder = load_config("x.yaml"), work / "runs/x/rl"
    (folder / "checkpoint-1").mkdir(parents=True)
    settings = settings_of("rl", config.to_dict()) | inputs_of("rl", config, "model")
    (folder / "settings.json").write_text(json.dumps(settings))
    return settings


def change(path, text):
    return lambda work: (work / path).write_text(text)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (change("mine.py", REWARD.replace("helper.of(c)", "0.0")), "mine.py (it has changed since)"),
        (change("helper.py", HELPER.replace("1.0", "2.0")), "mine.py (it has changed since)"),
        (change("q.jsonl", '{"question": "1 + 2?", "answer": "3"}\n'), "q.jsonl (it has changed since)"),
        (lambda work: (work / "model").unlink() or (work / "model").mkdir() or
         (work / "model/config.json").write_text('{"model_type": "qwen3"}'), "model (it has changed since)"),
    ],
    ids=["reward", "helper", "questions", "model"],
)  # fmt: skip
def test_a_file_that_changed_while_it_was_stopped(work, capsys, make, key):
    begun(work)
    make(work)
    assert main(["rl", "x.yaml"]) == 2
    line = capsys.readouterr().err
    assert f"sawtooth: runs/x/rl was started with another {key}: it can only resume with its original inputs" in line
    assert line.count("\n") == 1


def test_another_number_of_ranks(work, capsys, monkeypatch):
    begun(work)
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 2), ("MASTER_ADDR", "::1"), ("MASTER_PORT", 1)):
        monkeypatch.setenv(name, str(value))
    assert main(["rl", "x.yaml"]) == 2
    assert "another number of ranks (1 then, 2 now: --nproc)" in capsys.readouterr().err


def test_what_changes_nothing_is_no_change(work):
    settings = begun(work)
    (work / "mine.py").write_text("# paid for all\n" + REWARD.replace("\n\n\n", "\n"))
    assert inputs_of("rl", load_config("x.yaml", ["rl.save_steps=7"]), "model") == {
        key: settings[key] for key in ("ranks", "files")
    }


def test_docstrings_do_not_count_and_other_strings_do(work):
    files = begun(work)["files"]
    (work / "mine.py").write_text('"""Pays."""\n' + REWARD.replace(":\n", ':\n    """Pays for all."""\n'))
    (work / "helper.py").write_text(HELPER.replace(":\n", ':\n    """The price."""\n'))
    assert inputs_of("rl", load_config("x.yaml"), "model")["files"] == files
    (work / "mine.py").write_text(REWARD + 'NOTE = "Pays."\n')
    assert inputs_of("rl", load_config("x.yaml"), "model")["files"] != files


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_settings_that_cannot_be_read(work, capsys, text):
    begun(work)
    (work / "runs/x/rl/settings.json").write_text(text)
    assert main(["rl", "x.yaml"]) == 2
    assert "runs/x/rl/settings.json is damaged (" in capsys.readouterr().err


def test_only_a_whole_marker_says_that_a_stage_is_done(tmp_path):
    marker = tmp_path / "done.json"
    for text, done in (("", False), ("{", False), ("null", False), ("[]", False), ('{"stage": "rl"}', True)):
        marker.write_text(text)
        assert is_done(tmp_path) == done
    marker.unlink()
    marker.symlink_to("gone")
    assert not is_done(tmp_path)
    marker.unlink()
    marker.mkdir()
    assert not is_done(tmp_path)


@pytest.mark.parametrize(("name", "make"), [("done.json", Path.mkdir), (".lock", Path.mkdir), ("rl", Path.touch)])
def test_something_else_in_a_files_place(work, capsys, name, make):
    make(work / name)
    said = f"{name}.* (is a folder but must be a file|is not a folder)"
    with pytest.raises(WriteError, match=said), named_write_errors(work), run_lock(work, "test"):
        with atomic(work / "done.json") as path:
            path.write_text("{}")
        (work / "rl").mkdir()


def harm(path, how):
    weights = load_file(path)
    name = next(name for name in weights if "up_proj" in name)
    if how == "shape":
        weights[name] = weights[name][:, :-1].clone()
    elif how == "nan":
        weights[name][0, 0] = torch.nan
    elif how == "lacks":
        del weights[name]
    elif how == "foreign":
        weights[name.replace("up_proj", "other")] = torch.zeros(2)
    save_file(weights, path)


def make_trainer(model, folder, lora=None):
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    args = SFTConfig(output_dir=str(folder), max_length=None, use_cpu=True, bf16=False, report_to="none")
    return RoundSFTTrainer(
        model, args, train_dataset=Dataset.from_list([{"input_ids": [1, 2], "labels": [1, 2]}]),
        processing_class=tokenizer, peft_config=lora_config(lora, model, []) if lora else None,
    )  # fmt: skip


def save(trainer, folder):
    trainer.save_model(str(folder))
    (folder / "trainer_state.json").write_text('{"global_step": 1}')


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": "all-linear"}], ids=["full", "lora"])
def test_weights_that_are_not_the_models(model, tmp_path, lora):
    trainer = make_trainer(AutoModelForCausalLM.from_pretrained(model), tmp_path, lora)
    path = tmp_path / "checkpoint-1" / ("adapter_model.safetensors" if lora else "model.safetensors")
    for how, why in (
        ("shape", "size mismatch for"),
        ("nan", "contains nan or infinite numbers"),
        ("lacks", " is missing"),
        ("foreign", " is unexpected"),
        ("as saved", None),
    ):
        save(trainer, path.parent)
        harm(path, how)
        if why:
            with pytest.raises(ValueError, match=why) as error:
                trainer._load_from_checkpoint(str(path.parent))
            assert "checkpoint-1 can't be resumed from (" in str(error.value) and "\n" not in str(error.value)
            trainer.model.load_state_dict({name: torch.nan_to_num(w) for name, w in trainer.model.state_dict().items()})
        else:
            trainer._load_from_checkpoint(str(path.parent))


def test_experts_are_saved_one_by_one_and_loaded_as_one(model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(model)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    experts = AutoModelForCausalLM.from_config(config)
    experts.name_or_path = str(model)
    trainer, weights = make_trainer(experts, tmp_path), {n: w.clone() for n, w in experts.state_dict().items()}
    save(trainer, tmp_path / "checkpoint-1")
    for weight in experts.parameters():
        weight.data.zero_()
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(weight, weights[name]) for name, weight in experts.state_dict().items())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model.safetensors", "", "model.safetensors is truncated or not a safetensors file (0 bytes)"),
        ("generation_config.json", "{", "generation_config.json is truncated or not JSON"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "b"}}', "b is missing"),
    ],
)
def test_a_model_whose_files_are_damaged(work, capsys, model, name, text, message):
    (work / "model").unlink()
    shutil.copytree(model, work / "model")
    (work / "model" / name).write_text(text)
    assert main(["rl", "x.yaml", "--dry-run"]) == 2
    assert capsys.readouterr().err == f"sawtooth: model.path model: {message}\n"


def test_a_model_that_cannot_be_loaded(work, capsys, model):
    (work / "model").unlink()
    shutil.copytree(model, work / "model")
    (work / "model/tokenizer.json").write_text("{}")
    assert main(["rl", "x.yaml", "--nproc", "1"]) == 2
    assert "sawtooth: model model can't be loaded: KeyError: 'added_tokens'\n" in capsys.readouterr().err


def test_missing_settings_are_said_once(work, capsys, model):
    begun(work)
    (work / "runs/x/rl/settings.json").unlink()
    (work / "runs/x/rl/checkpoint-1").rename(work / "runs/x/rl/checkpoint-x")
    (work / "mine.py").write_text(REWARD.replace("paid", "unpaid"))  # to stop there
    assert main(["rl", "x.yaml", "--checked", "--nproc", "1"]) == 2
    assert capsys.readouterr().out.count("settings.json is missing, ") == 1
