"""Dtypes of the trained weights and of the engine beside them, for every combination; and bfloat16 against float32."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.app.engine import dtype_for, engine_for
from rl.app.run_config import ConfigError, parse_config
from rl.settings.dtypes import trained_dtype
from rollout.types import Sampling
from rollout.vllm_engine import VLLMEngine
from rollout.weights import policy_tensors
from tests.conftest import build_model
from tests.test_vllm import SETTINGS, mean_gap, serve

ZERO = {"deepspeed": "configs/deepspeed/zero2.json"}
LORA = {"r": 8, "target_modules": "all-linear"}
FLOAT, HALF = "float32", "bfloat16"


def config(model=None, rl=None, rollout=None):
    rollout = {"max_model_len": 64, **(rollout or {})}
    return parse_config({"model": {"path": "m", **(model or {})}, "rl": rl or {}, "rollout": rollout, "name": "x"})


@pytest.fixture
def started(monkeypatch, tmp_path):
    """started(config, on_card, checkpoint dtype) -> dtype of the model that is loaded, arguments of its vLLM."""

    def start(made, on_card, stored):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: on_card)
        taken = {}
        monkeypatch.setattr("rollout.vllm_engine.VLLMEngine", lambda path, **arguments: taken.update(arguments))
        loaded = trained_dtype(made.model, made.rl, on_card)
        loaded = stored if loaded == "auto" else loaded
        model = torch.nn.Linear(1, 1, dtype=getattr(torch, loaded))
        model.dtype = model.weight.dtype
        engine_for(made, "m", None, model)
        return loaded, taken

    return start


@pytest.mark.parametrize("stored", [FLOAT, HALF])
@pytest.mark.parametrize(
    ("made", "on_card", "loaded", "engine"),
    [
        # Full fine-tuning: float32 weights; a card computes, and rolls out, in bfloat16.
        ({}, True, FLOAT, HALF),
        ({}, False, FLOAT, FLOAT),
        ({"model": {"dtype": FLOAT}}, True, FLOAT, HALF),
        ({"rl": {"bf16": False}}, True, FLOAT, FLOAT),
        ({"rl": {"bf16": True}}, True, FLOAT, HALF),
        ({"rl": {"bf16": False, "fp16": True}}, True, FLOAT, "float16"),
        # LoRA: the base stays as it is stored.
        ({"model": {"lora": LORA}}, True, None, HALF),
        ({"model": {"lora": LORA}}, False, None, None),
        ({"model": {"lora": LORA, "dtype": HALF}}, True, HALF, HALF),
        # DeepSpeed has float32 copies where it computes in bfloat16, as it does on a card only.
        ({"rl": ZERO}, True, None, HALF),
        ({"rl": ZERO}, False, FLOAT, FLOAT),
        ({"rl": ZERO | {"bf16": False}}, True, FLOAT, FLOAT),
        ({"rl": ZERO, "model": {"dtype": FLOAT}}, True, FLOAT, HALF),
        # What is asked for by name.
        ({"model": {"dtype": HALF, "half_adamw": True}}, True, HALF, HALF),
        ({"model": {"dtype": HALF, "half_adamw": True}}, False, HALF, HALF),
        ({"rollout": {"dtype": FLOAT}}, True, FLOAT, FLOAT),
        ({"rollout": {"dtype": HALF}}, False, FLOAT, HALF),
        ({"rollout": {"dtype": "float16"}, "model": {"lora": LORA}}, True, None, "float16"),
    ],
)
def test_every_combination(started, made, on_card, loaded, engine, stored):
    """None: as the checkpoint is stored."""
    weights, arguments = started(config(**made), on_card, stored)
    assert weights == (loaded or stored) and arguments["dtype"] == (engine or stored)
    assert arguments["load_format"] == "dummy"


def test_the_evaluation_of_a_run_rolls_out_as_its_training(monkeypatch):
    for on_card, dtype in ((True, HALF), (False, FLOAT)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda on_card=on_card: on_card)
        assert dtype_for(config()) == dtype
        assert dtype_for(config(rollout={"dtype": "float16"})) == "float16"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"model": {"dtype": HALF}}, r"model\.dtype is bfloat16: full fine-tuning .* model\.half_adamw=true"),
        ({"model": {"dtype": "float16"}, "rl": {"bf16": True}}, r"model\.dtype is float16"),
        ({"rollout": {"settings": {"dtype": HALF}}}, r"rollout\.settings\.dtype is set by rollout\.dtype"),
        ({"rollout": {"dtype": "fp32"}}, r"rollout\.dtype is 'fp32'; it must be one of float32, bfloat16, float16"),
        ({"rollout": {"dtype": HALF, "engine": "transformers"}}, "it is the policy itself"),
        ({"rollout": {"dtype": HALF, "engine": "server", "urls": ["http://a"]}}, "give --dtype to `sawtooth serve"),
    ],
)
def test_what_is_refused_in_one_line(made, message):
    with pytest.raises(ConfigError, match=message) as error:
        config(**made)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_bfloat16_engine_follows_float32_weights(tmp_path):
    path = build_model(tmp_path / "model", hidden=64)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    engine = VLLMEngine(path, dtype="bfloat16", load_format="dummy", **SETTINGS)
    rng = random.Random(0)
    prompts = [[rng.randrange(20, 200) for _ in range(rng.randrange(3, 30))] for _ in range(12)]
    try:
        for _ in range(2):
            torch.manual_seed(0)
            for parameter in model.parameters():
                parameter.data.add_(0.05 * torch.randn_like(parameter))
            with policy_tensors(model) as tensors:
                engine.sync_weights(tensors)
            assert 1e-6 < mean_gap(model, prompts, serve(engine, prompts, Sampling(max_tokens=16))) < 2e-2
    finally:
        engine.close()
