# ruff: noqa: E501, F811 -- a message is one line; a fixture is imported
"""What only the libraries and the model's own code can judge of a config is put before them, before the first stage."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from rl.app import preflight
from rl.app.adapter_check import check_adapter
from rl.app.construct import construct
from rl.app.run_config import load_config, parse_config
from tests.test_bad_configs import said, work, write  # noqa: F401 -- a fixture

ROOT = Path(__file__).resolve().parents[1]
NOT_FOUND = "; its linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("target_modules: [q_proj, q_prj]", "target_modules: the model has no 'q_prj'" + NOT_FOUND),
        ("target_modules: '.*nothing'", "target_modules: the model has no '.*nothing'" + NOT_FOUND),
        ("target_modules: '(['", "target_modules contains '([', which is not a regular expression: unterminated character set at position 1"),
        ("target_modules: all-linear, modules_to_save: [haed]", "modules_to_save: the model has no 'haed'" + NOT_FOUND),
        ("target_modules: all-linear, rank_pattern: {q_prj: 4}", "rank_pattern: the model has no 'q_prj'" + NOT_FOUND),
        ("target_modules: [q_proj], layers_to_transform: [0, 99]", "layers_to_transform contains 99; the model has 2 layers, counted from 0"),
        ("target_modules: all-linear, trainable_token_indices: [999]", "trainable_token_indices contains 999; the model has 104 tokens, counted from 0"),
        ("target_modules: [lm_head]", "target_modules: lm_head can't have a LoRA here, because model.embed_tokens and lm_head share their weights; take it out, and name the rows to train in model.lora.trainable_token_indices"),
        ("target_modules: [q_proj], r: 4", None),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_the_model(work, override, message):
    small = {"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 100, "head_dim": 4,
             "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}  # fmt: skip
    (work / "model/config.json").write_text(json.dumps(small))
    lora = yaml.safe_load(f"{{{override}}}")
    if message is None:
        check_adapter(lora, "model")
    else:
        with pytest.raises(ValueError) as error:
            check_adapter(lora, "model")
        assert str(error.value) == f"model.lora.{message}"


@pytest.mark.parametrize(
    ("stage", "override", "message"),
    [
        ("sft", {"optim_args": "beta9=1"}, "sft.optim_args: adamw_torch_fused does not read 'beta9': leave it out"),
        ("sft", {"optim": "rmsprop", "optim_args": "momentum=0.5"}, None),
        ("rl", {"torch_compile": True, "torch_compile_mode": "fast"}, "rl.torch_compile_backend or torch_compile_mode: Unrecognized mode=fast"),
        ("rl", {"report_to": "comet_ml"}, "rl.report_to names comet_ml: CometCallback requires"),
        ("sft", {"deepspeed": {"zero_optimization": {"stage": 7}}}, "sft.deepspeed.zero_optimization.stage is 7: Input should be 0, 1, 2"),
        ("sft", {"deepspeed": {"train_micro_batch_size_per_gpu": 3}}, "sft.deepspeed contradicts sft: ds train_micro_batch_size_per_gpu=3 vs hf per_device_train_batch_size=8"),
        ("rl", {"deepspeed": str(ROOT / "configs/deepspeed/zero3.json")}, None),
    ],
)  # fmt: skip
def test_what_only_the_libraries_know(stage, override, message):
    if message is None:
        construct(stage, override, 2)
    else:
        with pytest.raises(ValueError, match=re.escape(message)):
            construct(stage, override, 2)


@pytest.mark.slow
def test_every_lora_that_names_parts_of_a_model_is_put_on_it(work, capsys):
    code, err = said(capsys, "rl", write(work), "--dry-run", "model.lora={r: 8, target_modules: [q_prj]}")
    assert code == 2 and err.startswith("sawtooth: model.lora.target_modules: the model has no 'q_prj'; its linear")
    assert err.count("\n") == 1


def test_what_yaml_reads_otherwise_than_people(work):
    overrides = ["eval.vote=16:4", "name=2026-01-01", "seed=1_000", "rl.learning_rate=1e-5", "rl.log_completions=off"]
    config = load_config(write(work), overrides)
    assert (config.eval.vote, config.name, config.seed) == ("16:4", "2026-01-01", 1000)
    assert (config.rl["learning_rate"], config.rl["log_completions"]) == (1e-5, False)
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


def test_fields_that_only_the_library_can_judge_are_put_before_it(work, capsys):
    assert preflight.unsure("rl", {"max_steps": 2, "learning_rate": 1.0, "bf16": False}) == []
    message = "rl: AcceleratorConfig.__init__() got an unexpected keyword argument 'bad'"
    code, err = said(capsys, "rl", write(work), "--dry-run", "rl.accelerator_config={bad: 1}")
    assert (code, err) == (2, f"sawtooth: {message}\n")
