"""Dtypes of a run: of the trained weights, and of the engine's copy of them.

Full fine-tuning keeps float32 weights and computes in bfloat16 by autocast: an update of 1e-6 of a weight is below
bfloat16's resolution. DeepSpeed has its own float32 copies, and a LoRA adapter is float32 on a frozen base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollout.errors import ConfigError

HALVES = ("bfloat16", "float16")
_ENGINE = ("float32", *HALVES)


def mixed_dtype(section: Mapping[str, Any], on_card: bool) -> str | None:
    """Returns the dtype of mixed precision for the settings of `sft` or `rl`; None: off. Default on a GPU: bfloat16."""
    if section.get("fp16"):
        return "float16"
    return "bfloat16" if section.get("bf16", on_card) else None


def trained_dtype(model: Any, section: Mapping[str, Any], on_card: bool) -> str:
    """Returns the dtype that the policy is loaded in: `model.dtype`, or float32 for auto. With LoRA or DeepSpeed's
    mixed precision, auto is kept, which is the checkpoint's dtype.

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
            "updates away. Leave it out (float32 weights; a GPU computes in bfloat16), or set "
            "model.half_adamw=true"
        )
    return "float32" if model.dtype == "auto" else model.dtype


def engine_dtype(weights: str, mixed: str | None, on_card: bool) -> str:
    """Returns the dtype of an engine for these weights: on a GPU that of mixed precision, else the weights' own."""
    return mixed if mixed and on_card else weights


def rollout_dtype(config: Any, weights: str, on_card: bool) -> str:
    """Returns the dtype of the engine of a run's config: `rollout.dtype`, or the one for the trainer's `weights`."""
    return config.rollout.dtype or engine_dtype(weights, mixed_dtype(config.rl or {}, on_card), on_card)


def check_dtypes(config: Any) -> None:
    """Raises ConfigError for a dtype that `trained_dtype` refuses on any machine, or that the engine does not take."""
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
        raise ConfigError(f"rollout.dtype has no effect with `engine: {rollout.engine}`: {instead[rollout.engine]}")
