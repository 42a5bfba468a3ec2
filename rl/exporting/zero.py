"""Consolidate the ranks' weight shards of a DeepSpeed checkpoint into one state dict."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch

from rollout.errors import InputError


def has_shards(folder: Path) -> bool:
    """Return True for a trainer's checkpoint with DeepSpeed's shards."""
    latest = folder / "latest"
    return latest.exists() and (folder / latest.read_text().strip()).is_dir()


def consolidate(folder: Path) -> dict[str, torch.Tensor]:
    """Return all weights of a ZeRO-1, 2 or 3 checkpoint in float32: the optimizer's copies, consolidated by DeepSpeed.

    The files are pickles: read those of your own runs only.

    Raises:
        InputError: a rank's file is missing.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return get_fp32_state_dict_from_zero_checkpoint(str(folder))
        except (ValueError, FileNotFoundError) as error:
            raise InputError(f"the ZeRO shards in {folder} are incomplete: {error}") from error
