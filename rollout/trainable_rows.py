"""Patches peft's trainable token rows to work with ZeRO-3 and with TRL's fused head.

peft 0.21's own code reads rows of ZeRO-3 weights only over CUDA, and rows of unpartitioned weights not at all; uses the
whole embedding in a forward pass without gathering it; loses an output head's bias, which TRL's fused head reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from torch import nn

_merged_weights = TrainableTokensLayer.get_merged_weights
_forward = TrainableTokensLayer.forward_adapters
_hasattr, _getattr = TrainableTokensWrapper._hasattr_wrapped, TrainableTokensWrapper._getattr_wrapped


def gathered(parameters: Iterable[nn.Parameter | None], writer: int | None = None) -> AbstractContextManager:
    """Gathers parameters that ZeRO-3 has partitioned, so that every rank has them whole inside the block.

    Args:
        writer: rank whose changes are broadcast afterwards; None: changes are lost.
    """
    spread = [p for p in parameters if hasattr(p, "ds_id")]
    if not spread:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(spread, modifier_rank=writer)


def _rows(self: Any, weight: torch.Tensor, rows: list[int], width: int) -> torch.Tensor:
    with gathered([weight]):
        return weight.detach()[rows].clone()


def _weights(self: Any, active_adapters: list[str]) -> torch.Tensor:
    weight = self.base_layer.weight
    spread = hasattr(weight, "ds_id") and weight.ds_status.name == "NOT_AVAILABLE"
    with gathered([weight] if spread else []):
        return _merged_weights(self, active_adapters)


def _with_bias(self: Any, x: torch.Tensor, active_adapters: list[str], *args: Any, **kwargs: Any) -> torch.Tensor:
    result = _forward(self, x, active_adapters, *args, **kwargs)
    bias = getattr(self.base_layer, "bias", None)
    replaced = active_adapters and not self.disable_adapters and not self.merged  # else the layer itself added it
    return result + bias if bias is not None and replaced else result


def _has(self: Any, name: str, modules: Any) -> bool:
    return name == "bias" or _hasattr(self, name, modules)


def _get(self: Any, name: str, modules: Any) -> Any:
    base = modules["token_adapter"].base_layer
    if name == "bias":
        return getattr(base, "bias", None)
    found = _getattr(self, name, modules)
    if hasattr(base.weight, "ds_status"):  # TRL's fused head checks whether to gather them; they are whole here
        found.ds_status = type(base.weight.ds_status).AVAILABLE
    return found


TrainableTokensLayer._collect_token_weights = _rows
TrainableTokensLayer.get_merged_weights = _weights
TrainableTokensLayer.forward_adapters = _with_bias
TrainableTokensWrapper._hasattr_wrapped = _has
TrainableTokensWrapper._getattr_wrapped = _get
