"""Dtypes of a run: of the weights that are trained, and of the engine's copy of them.

Full fine-tuning keeps float32 weights and computes in bfloat16 by autocast: an update of 1e-6 of a weight is less than
bfloat16 can tell apart. DeepSpeed has float32 copies of its own, and a LoRA's adapter is float32 on a frozen base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.errors import ConfigError

HALVES = ("bfloat16", "float16")
_ENGINE = ("float32", *HALVES)


def mixed_dtype(section: Mapping[str, Any], on_card: bool) -> str | None:
    """What mixed precision computes in by the settings of `sft` or `rl`; None: there is none. A card has bfloat16."""
    if section.get("fp16"):
        return "float16"
    return "bfloat16" if section.get("bf16", on_card) else None


def trained_dtype(model: Any, section: Mapping[str, Any], on_card: bool) -> str:
    """Dtype that the policy is loaded in: what `model.dtype` says, or float32 for auto. It stays auto, which is the
    checkpoint's, under a LoRA and under DeepSpeed's mixed precision.

    Args:
        model: the config's section.
        section: settings of `sft` or `rl`.

    Raises:
        ConfigError: weights and AdamW would be in half precision, and the config doesn't ask for that by name.
    """
    if model.lora or (section.get("deepspeed") and mixed_dtype(section, on_card)):
        return model.dtype
    if model.dtype in HALVES and not model.half_adamw:
        raise ConfigError(
            f"model.dtype is {model.dtype}: full fine-tuning would keep weights and AdamW in it, which rounds small "
            "updates away. Leave it out (float32 weights, computed with in bfloat16 on a card), or set "
            "model.half_adamw=true"
        )
    return "float32" if model.dtype == "auto" else model.dtype


def engine_dtype(weights: str, mixed: str | None, on_card: bool) -> str:
    """Dtype of an engine beside such weights: on a card what mixed precision computes in, else the weights' own."""
    return mixed if mixed and on_card else weights


def rollout_dtype(config: Any, weights: str, on_card: bool) -> str:
    """Dtype of the engine of a run's config: `rollout.dtype`, or what goes with the trainer's `weights`."""
    return config.rollout.dtype or engine_dtype(weights, mixed_dtype(config.rl or {}, on_card), on_card)


def check_dtypes(config: Any) -> None:
    """Raises:
    ConfigError: what `trained_dtype` refuses on any machine, or a dtype for an engine that takes none here.
    """
    for section in (config.sft, config.rl):
        if section is not None:
            trained_dtype(config.model, section, on_card=True)
    rollout = config.rollout
    if "dtype" in rollout.settings:
        raise ConfigError("rollout.settings.dtype is set by rollout.dtype: write it there")
    if rollout.dtype is None:
        return
    if rollout.dtype not in _ENGINE:
        raise ConfigError(f"rollout.dtype is {rollout.dtype!r}; it must be one of {', '.join(_ENGINE)}")
    instead = {"server": "give --dtype to `sawtooth serve-rollouts`", "transformers": "it is the policy itself"}
    if rollout.engine in instead:
        raise ConfigError(f"rollout.dtype says nothing to `engine: {rollout.engine}`: {instead[rollout.engine]}")
