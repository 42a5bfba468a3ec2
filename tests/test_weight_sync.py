"""Weights that do not reach the engine stop the run: a mixture of experts on vLLM's CPU build, by the real engine."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig

from rl.config import EpisodeGRPOConfig
from rl.trainer import EpisodeGRPOTrainer
from rl.weight_sync import LIMITS, is_probed, refuse_gap
from rollout.errors import UserError
from rollout.vllm_engine import VLLMEngine
from tests.conftest import build_model

SETTINGS = {"max_model_len": 96, "max_num_seqs": 16, "kv_cache_memory_bytes": 1 << 26}
QUESTIONS = [f"a={n} b+{n} ?" for n in range(8)]


@pytest.fixture(scope="module")
def mixture(tiny_model, tmp_path_factory) -> str:
    """A mixture of experts with the demo's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=None, pad_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("mixture"))
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train(path, folder, steps, dtype="float32", **settings):
    """Steps whose learning rate moves the weights far: the mean gaps of the batches."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    engine = VLLMEngine(path, dtype=dtype, **SETTINGS, **settings)
    try:
        trainer = EpisodeGRPOTrainer(
            model, [lambda completions, **_: [float(len(c) % 5) for c in completions]],
            EpisodeGRPOConfig(
                str(folder), max_steps=steps, per_device_train_batch_size=8, num_generations=4, use_cpu=True,
                bf16=False, max_completion_length=12, learning_rate=0.03, lr_scheduler_type="constant",
                gradient_checkpointing=False, report_to=[], logging_steps=1, disable_tqdm=True, save_strategy="no",
            ),
            Dataset.from_list([{"prompt": question} for question in QUESTIONS]),
            processing_class=AutoTokenizer.from_pretrained(path), engine=engine,
        )  # fmt: skip
        trainer.train()
        return [row["mismatch/logprob_diff/mean"] for row in trainer.state.log_history if "loss" in row]
    finally:
        engine.close()


@pytest.mark.slow
def test_a_mixture_of_experts_on_the_cpu_build_is_stopped_before_it_trains(mixture, tmp_path):
    with pytest.raises(UserError, match=r"does not have the trainer's weights: .* \(limit 0\.005, float32\)"):
        train(mixture, tmp_path, 1, load_format="dummy")


def test_also_where_the_engine_has_begun_with_the_same_weights(mixture, tmp_path):
    """Then nothing is seen until they have moved."""
    with pytest.raises(UserError, match="does not have the trainer's weights"):
        train(mixture, tmp_path, 8)


def test_weights_that_arrive_train_on(tmp_path):
    """The engine knows nothing but what the syncs bring: a tied head too, under the wider limit of half precision."""
    path = build_model(tmp_path / "model", hidden=64, tie_word_embeddings=True)
    gaps = train(path, tmp_path / "run", 3, "bfloat16", load_format="dummy")
    assert len(gaps) == 3 and max(gaps) < 2e-2


def test_the_limit_is_over_all_ranks_and_a_gap_that_is_no_number_is_above_it():
    refuse_gap([(0.0, 0), (0.0, 0)], "float32")
    refuse_gap([(1.0, 10), (0.0, 1000)], "float32")
    for gaps in ([(9.0, 1000), (0.0, 100)], [(float("nan"), 10), (0.0, 10)]):
        with pytest.raises(UserError, match=r"limit 0\.005"):
            refuse_gap(gaps, "float32")
    refuse_gap([(LIMITS["half"] * 10, 10)], "half")
    assert [n for n in range(1, 20) if is_probed(n)] == [1, 2, 4, 8, 16]
