"""Trainer settings that fit the machine: a GPU, a CPU, or several ranks on a CPU."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import torch

from rollout.errors import InputError
from rollout.processes import ranks


def device_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Completes `settings` of a `TrainingArguments` with defaults for the machine.

    Without a GPU: float32 on the CPU, and gloo between ranks. DeepSpeed on the CPU takes its ranks only from a
    process group that exists before the arguments are made, and `use_cpu` would silently switch it off.
    """
    defaults: dict[str, Any] = {"logging_nan_inf_filter": False}  # a nan loss must be visible: `sft.trainer_seam`
    if torch.cuda.is_available():
        return defaults | settings
    defaults |= {"bf16": False, "dataloader_pin_memory": False}
    if not settings.get("deepspeed"):
        return defaults | {"use_cpu": True, "ddp_backend": "gloo" if ranks() > 1 else None} | settings
    from accelerate import PartialState

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", "29510")
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed reports an extension that it has built
        PartialState(backend="gloo")
    return defaults | {"optim": "adamw_torch", "accelerator_config": {"use_configured_state": True}} | settings


def make_arguments(kind: type, where: str, **settings: Any) -> Any:
    """Creates a `TrainingArguments`, or raises its error as one line.

    Args:
        where: the config's section, for the message.
    """
    try:
        return kind(**settings)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from error
