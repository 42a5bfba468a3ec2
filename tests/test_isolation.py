"""Padding-free passes are only for models that keep packed rows apart; each is asked itself, in several kinds."""

from __future__ import annotations

import contextlib

import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from rl.config import EpisodeGRPOConfig, is_padding_free
from rl.trainer import EpisodeGRPOTrainer
from sft.isolation import rows_stay_apart
from sft.trainer_seam import RoundSFTTrainer

ENDS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
SHAPE = ENDS | {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "intermediate_size": 64,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
STATE = ENDS | {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
LINEAR = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads")} | {
    f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")
}
MODELS = {
    "Llama": (True, SHAPE),
    "Qwen3": (True, SHAPE),
    "Qwen3Moe": (True, SHAPE | EXPERTS),
    "Mistral": (True, SHAPE | {"sliding_window": 4}),
    "Gemma3Text": (True, SHAPE | {"sliding_window": 4}),
    "Mamba": (False, STATE),
    "Mamba2": (False, STATE | {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8}),
    "FalconH1": (
        False,
        SHAPE | {"num_hidden_layers": 2, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    ),
    "Qwen3Next": (False, SHAPE | EXPERTS | LINEAR | {"shared_expert_intermediate_size": 16}),
    "Lfm2": (
        False,
        {k: v for k, v in SHAPE.items() if k != "head_dim"} | {"layer_types": ["conv", "full_attention"] * 2},
    ),
    "RecurrentGemma": (
        False,
        SHAPE | {"num_hidden_layers": 3, "lru_width": 32, "block_types": ["recurrent", "recurrent", "attention"]},
    ),
    "Rwkv": (False, ENDS | {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64}),
}


def build(name, dtype=torch.float32):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name][1])
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_each_kind_of_layer(name, dtype):
    model = build(name, dtype).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert rows_stay_apart(model) is MODELS[name][0]
    assert model.training and not model.get_input_embeddings()._forward_hooks
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_under_flash_attention_a_model_with_a_state_is_padded_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr("rl.config.is_flash_attention_requested", lambda _: True)
    args, auto = EpisodeGRPOConfig("out", use_cpu=True, bf16=False), contextlib.nullcontext()
    assert is_padding_free(args, build("Llama"), auto) and not capsys.readouterr().out
    assert not is_padding_free(args, build("Mamba2"), auto)
    assert "passes are padded, because mamba2's layers carry a state" in capsys.readouterr().out
    args.padding_free = False
    assert not is_padding_free(args, build("Llama"), auto)


def test_where_it_is_asked_for_such_a_model_is_refused_before_it_trains(tokenizer, tmp_path):
    common = {"use_cpu": True, "bf16": False, "report_to": [], "max_steps": 1}
    args = EpisodeGRPOConfig(str(tmp_path), padding_free=True, **common)
    rows = Dataset.from_list([{"prompt": "a=1 b+1 ?"}] * 8)
    with pytest.raises(ValueError, match=r"padding_free: falcon_h1's layers carry a state from one row"):
        EpisodeGRPOTrainer(
            build("FalconH1"), [lambda completions, **_: [0.0] * len(completions)], args, rows,
            processing_class=tokenizer,
        )  # fmt: skip
    args = SFTConfig(str(tmp_path), padding_free=True, max_length=None, **common)
    rows = Dataset.from_list([{"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4]}] * 8)
    trainer = RoundSFTTrainer(build("FalconH1"), args, train_dataset=rows, processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"sft\.padding_free .* carry a state from one row"):
        trainer.train()
