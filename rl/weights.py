"""The policy's weights under the names of its checkpoint, as an engine loads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

_PEFT_PREFIX = "base_model.model."


@contextmanager
def policy_tensors(model: nn.Module) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """(name, tensor) of every weight. A LoRA adapter is merged meanwhile, and taken out again at the end."""
    if not isinstance(model, PeftModel):
        yield list(model.state_dict().items())
        return
    model.merge_adapter()
    try:
        yield [
            (name.removeprefix(_PEFT_PREFIX).replace(".base_layer", "").replace("modules_to_save.default.", ""), tensor)
            for name, tensor in model.state_dict().items()
            if model.prefix not in name and "original_module" not in name
        ]
    finally:
        model.unmerge_adapter()
