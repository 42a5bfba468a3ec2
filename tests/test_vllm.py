"""Real vLLM on this machine: logprobs equal the trainer's before and after weight syncs, with tied and untied heads."""

from __future__ import annotations

import random

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl.app.plan_model import model_size
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.protocol import get_protocol
from rollout.types import Sampling, Task
from rollout.vllm_engine import VLLMEngine
from rollout.weights import policy_tensors
from sft.adapter import lora_config
from tests.conftest import build_model

SETTINGS = {"max_model_len": 96, "max_num_seqs": 16, "kv_cache_memory_bytes": 1 << 26}


def serve(engine, prompts, sampling):
    for index, prompt in enumerate(prompts):
        engine.submit(index, prompt, sampling)
    done = {}
    while len(done) < len(prompts):
        done |= {c.request_id: c for c in engine.poll()}
    return [done[index] for index in range(len(prompts))]


def mean_gap(model, prompts, completions):
    gaps = []
    with torch.no_grad():
        for prompt, completion in zip(prompts, completions, strict=True):
            logps = model(input_ids=torch.tensor([prompt + completion.token_ids])).logits[0].log_softmax(-1)
            for offset, (token, logprob) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
                gaps.append(abs(logps[len(prompt) + offset - 1, token].item() - logprob))
    return sum(gaps) / len(gaps)


def check_logprobs_over_syncs(engine, model, prompts, sampling):
    """The engine's logprobs are the model's, at the start and after each of two weight syncs."""
    assert mean_gap(model, prompts, serve(engine, prompts, sampling)) < 1e-6
    for _ in range(2):
        for parameter in model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        with policy_tensors(model) as tensors:
            engine.sync_weights(tensors)
        assert mean_gap(model, prompts, serve(engine, prompts, sampling)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_logprobs_follow_the_weights(tmp_path, tied):
    path = build_model(tmp_path / "model", tie_word_embeddings=tied, hidden=64)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    engine = VLLMEngine(path, dtype="float32", **SETTINGS)
    rng = random.Random(0)
    prompts = [[rng.randrange(20, 200) for _ in range(rng.randrange(3, 30))] for _ in range(12)]
    sampling = Sampling(max_tokens=16)
    try:
        # `sawtooth plan` counts the cache as vLLM does: so many float32 tokens in 64 MiB.
        cache = engine._llm.llm_engine.vllm_config.cache_config
        planned = SETTINGS["kv_cache_memory_bytes"] // (model_size(model.config).kv_elements * 4)
        assert 0 <= planned - cache.num_gpu_blocks * cache.block_size < cache.block_size

        check_logprobs_over_syncs(engine, model, prompts, sampling)

        # Greedy episodes are those of the transformers engine.
        protocol = get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=2)
        tasks = [Task("a=1 b+2 ?"), Task("c=5 d*3 e-1 ?")]
        greedy = Sampling(max_tokens=12, temperature=0.0)
        ours = run_episodes(tasks, engine, protocol, tokenizer, greedy)
        theirs = run_episodes(tasks, TransformersEngine(model, tokenizer), protocol, tokenizer, greedy)
        assert [e.final_text for e in ours] == [e.final_text for e in theirs]

        # A prompt without room is a failed episode, not a dead run.
        (long,) = run_episodes([Task("a" * 200)], engine, protocol, tokenizer, greedy)
        assert long.stop_reason == "failed" and "leaves no room" in long.error

        # A LoRA adapter arrives merged, and with it the rows that are trained beside it.
        config = lora_config({"r": 4, "init_lora_weights": False}, model, list(range(20, 60)))
        lora = get_peft_model(model, config)
        for name, parameter in lora.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.data.add_(0.2 * torch.randn_like(parameter))
        with policy_tensors(lora) as tensors:
            engine.sync_weights(tensors)
        assert mean_gap(lora, prompts, serve(engine, prompts, sampling)) < 1e-5
    finally:
        engine.close()
