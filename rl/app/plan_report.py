"""Prints the output of `sawtooth plan`: memory needed and available, counts, and lower bounds of times."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig
from transformers.configuration_utils import PretrainedConfig

from rl.app.plan import GIB, StagePlan, make_plan
from rl.app.plan_model import ModelSize, model_size
from rl.app.run_config import ConfigError, RunConfig
from rollout.plugins import load_function

CARDS = {  # GiB, dense bf16 TFLOP/s, TB/s: the vendors' figures
    "a100": (80, 312, 2.0),
    "h100": (80, 989, 3.35),
    "h200": (141, 989, 4.8),
    "l40s": (48, 362, 0.86),
    "rtx4090": (24, 165, 1.01),
}


def print_plan(config: RunConfig, ranks: int, card: str | None, gib: float | None, tokens: int | None) -> None:
    """Prints the plan of a run.

    Args:
        card: one of `CARDS`; None: this machine's own.
        gib: memory of a GPU; None: the card's.
        tokens: generated tokens per episode, for the times; None: the maximum possible.

    Raises:
        ConfigError: it can't fit.
    """
    memory, where = _memory(ranks, card, gib)
    on_cpu = card is None and gib is None and not torch.cuda.is_available()
    model_config = _model_config(config)
    stages = make_plan(config, model_config, ranks, memory, on_cpu)
    size = model_size(model_config, config.model.lora)
    print(f"{size.parameters / 1e6:,.1f} million parameters, {size.trainable / 1e6:,.1f} trained; {where}\n")
    print(report(stages, memory, ranks))
    if not stages:
        print("no training stage: no memory is planned")
    if card and config.rl is not None:
        tokens = tokens or config.protocol.max_rounds * (config.rl or {}).get("max_completion_length", 256)
        print(f"\nminimum seconds per generation batch at {tokens:,} tokens per episode ({card}, the vendor's figures)")
        for part, seconds in least_seconds(config, size, card, tokens).items():
            print(f"  {part:<42}{seconds:>8.1f}")
    refuse_what_cannot_fit(stages, memory)


def _memory(ranks: int, card: str | None, gib: float | None) -> tuple[int, str]:
    if gib is not None:
        return int(gib * GIB), f"GPUs of {gib:g} GiB"
    if card is not None:
        return CARDS[card][0] * GIB, f"{card} of {CARDS[card][0]} GiB"
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(0)
    return psutil.virtual_memory().total // ranks, "no GPU here: a rank's share of the main memory (--card, --memory)"


def _model_config(config: RunConfig) -> PretrainedConfig:
    """Returns the model's config.json. No other file of the model is read."""
    if config.model.path and not config.model.build:
        try:
            return AutoConfig.from_pretrained(config.model.path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model.path {config.model.path!r}: {str(error).splitlines()[0]}") from error
    with tempfile.TemporaryDirectory() as name:
        load_function(config.model.build)(name, **config.model.build_args)
        return AutoConfig.from_pretrained(Path(name))


def least_seconds(config: RunConfig, size: ModelSize, card: str, tokens: float) -> dict[str, float]:
    """Returns lower bounds of one RL generation batch, in seconds, for episodes of `tokens` generated tokens.

    Update: 2 FLOP per parameter and token for the forward pass, for each backward pass (one with an adapter, else two)
    and for the recomputation of gradient checkpointing. Rollout: every decoding step reads the weights once. Attention,
    prompts, communication and everything else are not included.
    """
    _, teraflops, terabytes = CARDS[card]
    rl = config.rl
    mine = rl.get("per_device_train_batch_size", 8) * (
        rl.get("steps_per_generation") or rl.get("gradient_accumulation_steps", 1)
    )
    passes = 1 + (1 if config.model.lora else 2) + bool(rl.get("gradient_checkpointing", True))
    update = 2 * passes * size.parameters * mine * tokens / (teraflops * 1e12)
    compute = 2 * size.parameters * mine * tokens / (teraflops * 1e12)
    read = 2 * size.parameters * tokens / (terabytes * 1e12)
    return {"update": update, "rollout": max(compute, read)}


def report(stages: list[StagePlan], memory: int, ranks: int) -> str:
    """Returns the plan as text, one table per stage."""
    lines = []
    for stage in stages:
        lines += ["", f"{stage.name}: one of {ranks} rank{'s' * (ranks > 1)}, GiB"]
        lines += [f"  {part:<42}{size / GIB:>8.2f}" for part, size in stage.parts.items()]
        lines += [f"  {'total':<42}{stage.total / GIB:>8.2f}  of {memory / GIB:.1f}"]
        if stage.host:
            lines += [f"  {'in main memory':<42}{stage.host / GIB:>8.2f}"]
        lines += [f"  {what:<42}  {count}" for what, count in stage.counts.items()]
        lines += [f"  note: {note}" for note in stage.notes]
    return "\n".join(lines[1:])


def refuse_what_cannot_fit(stages: list[StagePlan], memory: int) -> None:
    """Raises ConfigError if a stage needs more than a GPU has, naming the largest part that can be made smaller."""
    for stage in stages:
        if stage.total > memory:
            part = max(stage.remedies, key=lambda name: stage.parts.get(name, 0))
            raise ConfigError(
                f"{stage.name} needs {stage.total / GIB:.1f} GiB of a GPU's {memory / GIB:.1f}; {part} take "
                f"{stage.parts[part] / GIB:.1f}: {stage.remedies[part]}"
            )
