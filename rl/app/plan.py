"""`sawtooth plan CONFIG`: memory per rank, rows and tokens per step, before anything starts.

Weights, gradients, optimizer states and KV cache are counted; activations come from a fake pass over the model
(`rl.app.plan_model`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.configuration_utils import PretrainedConfig

from rl.app.plan_model import ModelSize, model_size, pass_memory
from rl.app.run_config import ConfigError, RunConfig
from rl.settings.checkpoint import check_context, longest_context
from rl.settings.dtypes import rollout_dtype, trained_dtype
from rollout.vllm_engine import CPU_CACHE

GIB = 2**30
LIBRARIES = int(1.5 * GIB)  # CUDA context, NCCL, kernels; an estimate, not counted
VLLM_SHARE = 0.92  # vLLM's own default of gpu_memory_utilization


@dataclass
class StagePlan:
    """Needs of one stage on one rank. `host`: bytes in main memory; `notes`: assumptions, one per line."""

    name: str
    parts: dict[str, int] = field(default_factory=dict)  # bytes on the GPU
    host: int = 0
    counts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    remedies: dict[str, str] = field(default_factory=dict)  # part -> how to make it smaller

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def make_plan(
    config: RunConfig, model_config: PretrainedConfig, ranks: int, memory: int, on_cpu: bool = False
) -> list[StagePlan]:
    """Returns the plans of the stages that train: sft, rl, or one of them.

    Args:
        ranks: processes that train, one per GPU.
        memory: bytes of a GPU or, without one, of a rank's share of the main memory.
        on_cpu: no GPU: the engine's cache has the size that is set for it, and the trainers compute in float32.
    """
    if on_cpu:
        config = replace(config, **{stage: {"bf16": False, **getattr(config, stage)} for stage in config.trained})
    size = model_size(model_config, config.model.lora)
    check_context(model_config.to_dict(), config.rollout, config.model.path or "the model")
    longest = config.rollout.max_model_len or longest_context(model_config.to_dict())
    if longest is None:
        raise ConfigError("rollout.max_model_len is missing, and the model's config has no maximum length: set it")
    stages = {stage: StagePlan(stage) for stage in config.trained}
    if config.sft is not None:
        tokens = config.sft.get("per_device_train_batch_size", 8) * (config.sft.get("max_length") or longest)
        _training(stages["sft"], config.sft, config, model_config, size, ranks, tokens)
    if config.rl is not None:
        _plan_rl(stages["rl"], config, model_config, size, ranks, longest, None if on_cpu else memory)
    for stage in stages.values():
        stage.parts["libraries" if on_cpu else "CUDA and libraries"] = LIBRARIES
    return list(stages.values())


def _plan_rl(
    rl: StagePlan, config: RunConfig, model_config: PretrainedConfig, size: ModelSize, ranks: int, longest: int,
    memory: int | None,
) -> None:  # fmt: skip
    bound = config.rl.get("max_tokens_per_microbatch", 32768)
    if longest > bound:
        rl.notes.append(f"a row may have {longest} tokens, more than rl.max_tokens_per_microbatch ({bound})")
    _training(rl, config.rl, config, model_config, size, ranks, max(bound, longest))
    if config.rl.get("beta") and not config.model.lora:
        rl.parts["reference model"] = size.parameters * _weights(config, config.rl, model_config).itemsize
        rl.remedies["reference model"] = "set rl.beta=0, or train with model.lora"
    _rollouts(rl, config, model_config, size, ranks, longest, memory)


def _weights(config: RunConfig, section: dict[str, Any], model_config: PretrainedConfig) -> torch.dtype:
    """Returns the dtype of the weights that a rank trains. DeepSpeed converts them to bfloat16 if it trains in it."""
    if _deepspeed(section) and section.get("bf16", True):
        return torch.bfloat16
    name = trained_dtype(config.model, section, on_card=True)
    return (model_config.dtype or torch.float32) if name == "auto" else getattr(torch, name)


def _deepspeed(section: dict[str, Any]) -> dict[str, Any]:
    given = section.get("deepspeed") or {}
    if isinstance(given, str):
        if not Path(given).exists():
            raise ConfigError(f"there is no DeepSpeed config {given}")
        given = json.loads(Path(given).read_text())
    return given


def _training(
    stage: StagePlan, section: dict[str, Any], config: RunConfig, model_config: PretrainedConfig, size: ModelSize,
    ranks: int, tokens: int,
) -> None:  # fmt: skip
    deepspeed, dtype = _deepspeed(section), _weights(config, section, model_config)
    zero = deepspeed.get("zero_optimization", {})
    least = {"optimizer": 1, "gradients": 2, "weights": 3}  # ZeRO stage from which ranks shard them
    shared = {part: ranks if zero.get("stage", 0) >= level else 1 for part, level in least.items()}
    parts = stage.parts
    parts["weights"] = size.parameters * dtype.itemsize // shared["weights"]
    trained = 4 if config.model.lora else dtype.itemsize  # bytes per weight; PEFT keeps adapters in float32
    summed = 4 if deepspeed.get("data_types", {}).get("grad_accum_dtype") == "fp32" else trained
    parts["gradients"] = size.trainable * summed // shared["gradients"]
    # AdamW keeps two numbers per weight, in its dtype; DeepSpeed keeps them and a copy of the weights in float32.
    optimizer = size.trainable * (12 if zero else 2 * trained) // shared["optimizer"]
    if zero.get("offload_optimizer", {}).get("device") == "cpu":
        stage.host += optimizer
    else:
        parts["optimizer"] = optimizer
    if zero:
        bucket = min(int(zero.get("reduce_bucket_size", 500_000_000)), size.trainable)
        parts["communication"] = bucket * trained * (2 if zero.get("overlap_comm") else 1)
    elif ranks > 1:
        parts["communication"] = size.trainable * trained  # DDP's buckets
    checkpointing = section.get("gradient_checkpointing", True)
    parts["activations"] = pass_memory(
        model_config, tokens, weights=dtype, bf16=section.get("bf16", True), checkpointing=checkpointing,
        lora=config.model.lora,
    )  # fmt: skip
    stage.counts["maximum tokens per forward pass"] = f"{tokens:,}"
    name = stage.name
    fewer = {"rl": "rl.max_tokens_per_microbatch", "sft": "sft.per_device_train_batch_size or sft.max_length"}[name]
    stage.remedies["activations"] = f"lower {fewer}" + (
        "" if checkpointing else f", or set {name}.gradient_checkpointing"
    )
    for part, level in least.items():
        if zero.get("stage", 0) < level:
            path = f"configs/deepspeed/zero{max(2, level)}.json"
            stage.remedies[part] = f"set {name}.deepspeed={path} with several GPUs, or train with model.lora"
    if dtype == torch.bfloat16 and not zero and not config.model.lora:
        stage.notes.append("weights and AdamW in bfloat16: small updates are rounded away (model.half_adamw)")


def _rollouts(
    stage: StagePlan, config: RunConfig, model_config: PretrainedConfig, size: ModelSize, ranks: int, longest: int,
    memory: int | None,
) -> None:  # fmt: skip
    rl, settings = config.rl, config.rollout.settings
    accumulation = rl.get("gradient_accumulation_steps", 1)
    slots = rl.get("steps_per_generation") or accumulation
    mine = rl.get("per_device_train_batch_size", 8) * slots
    episodes = mine * ranks
    rounds, answer = config.protocol.max_rounds, rl.get("max_completion_length", 256)
    stage.counts["episodes per generation batch"] = (
        f"{episodes:,} ({episodes // rl.get('num_generations', 8):,} groups)"
    )
    stage.counts["optimizer steps per generation batch"] = f"{slots / accumulation * rl.get('num_iterations', 1):g}"
    stage.counts["maximum rows per generation batch"] = f"{episodes * rounds:,}"
    stage.counts["maximum generated tokens per batch"] = f"{episodes * rounds * answer:,}"
    name = rollout_dtype(config, trained_dtype(config.model, rl, on_card=True), on_card=True)
    dtype = torch.bfloat16 if name == "auto" else getattr(torch, name)
    token = size.kv_elements * dtype.itemsize
    stage.counts["KV cache per token"] = f"{token / 1024:g} KiB"
    if config.rollout.engine == "transformers":
        stage.parts["generation cache"] = settings.get("batch_size", 64) * longest * token
        stage.remedies["generation cache"] = "lower rollout.settings.batch_size"
        return
    weights = size.parameters * dtype.itemsize
    if config.rollout.engine == "server":
        stage.counts["weights on each server"] = (
            f"{weights / GIB:.1f} GiB, and {longest * token / GIB:.2f} GiB per full row"
        )
        return
    cache, enlarge = settings.get("kv_cache_memory_bytes"), "rollout.settings.kv_cache_memory_bytes"
    if memory is None:
        space = int(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 0) * GIB
        cache = space or cache or CPU_CACHE
    if cache is None:
        enlarge = "rollout.settings.gpu_memory_utilization"
        share = settings.get("gpu_memory_utilization", VLLM_SHARE)
        stage.parts["rollout engine"] = int(share * memory)
        stage.remedies["rollout engine"] = f"lower rollout.settings.gpu_memory_utilization ({share:g})"
        cache = int(share * memory) - weights - LIBRARIES
    else:
        stage.parts["rollout engine"] = weights + cache
        stage.remedies["rollout engine"] = "lower rollout.settings.kv_cache_memory_bytes"
    stage.counts["full-length rows that fit in its cache"] = f"{max(0, cache) / (longest * token):.1f} of {mine:,}"
    if cache < longest * token:
        raise ConfigError(
            f"the rollout engine's cache ({max(0, cache) / GIB:.1f} GiB) is too small for one row of {longest} tokens "
            f"({longest * token / GIB:.1f} GiB): raise {enlarge} or lower rollout.max_model_len"
        )
