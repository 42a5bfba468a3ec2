"""The policy's weights under their checkpoint names, as an engine loads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import nn

from rollout.errors import InputError
from rollout.trainable_rows import gathered


@contextmanager
def policy_tensors(model: nn.Module) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """Yields (name, tensor) of every weight, one by one; those that a LoRA adapter changes as merged copies.

    The model's own weights are only read. Under ZeRO-3 each one is gathered from all ranks when it is read, so every
    rank has to read all of them.

    Raises:
        InputError: the adapter is of a kind that can't be merged.
    """
    yield _tensors(model.get_base_model() if isinstance(model, PeftModel) else model, "")


def _tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    layer = module.token_adapter if isinstance(module, TrainableTokensWrapper) else module
    if isinstance(layer, BaseTunerLayer):
        yield from _merged(layer, prefix)
        return
    if isinstance(module, ModulesToSaveWrapper):
        module = module.modules_to_save[module.active_adapters[0]]
    own: dict[str, Any] = {}
    module._save_to_state_dict(own, prefix, keep_vars=True)
    for name, tensor in own.items():
        with gathered([tensor]):  # a gathered tensor may outlive the block, so it is copied
            whole = tensor.detach().clone() if hasattr(tensor, "ds_id") else tensor.detach()
        yield name, whole
    for name, child in module.named_children():
        yield from _tensors(child, f"{prefix}{name}.")


def _merged(layer: BaseTunerLayer, prefix: str) -> list[tuple[str, torch.Tensor]]:
    """Returns the weights of a layer with its adapter merged: their sum in float32, rounded once.

    peft merges into copies that temporarily replace the weights, because merging in place and unmerging leaves a
    rounding error each time.
    """
    base = layer.get_base_layer()
    with gathered(layer.parameters()), torch.no_grad():
        own = {p: p.data for p in base.parameters()}
        try:
            for parameter, data in own.items():
                short = data.is_floating_point() and data.itemsize < 4
                parameter.data = data.to(torch.float32 if short else data.dtype, copy=True)
            on_it = layer
            while isinstance(on_it, BaseTunerLayer):  # several adapters on one layer: parameters of an expert layer
                on_it.merge()
                on_it.merged_adapters.clear()
                on_it = on_it.base_layer
            merged = base.state_dict(prefix=prefix)
            dtypes = {name: own[p].dtype for name, p in base.named_parameters(prefix=prefix[:-1])}
            return [(name, tensor.to(dtypes.get(name, tensor.dtype))) for name, tensor in merged.items()]
        except NotImplementedError as error:
            raise InputError(f"model.lora: this kind of adapter can't be merged into the model ({error})") from error
        finally:
            for parameter, data in own.items():
                parameter.data = data


def write_checkpoint(weights: Mapping[str, torch.Tensor], folder: Path, model_path: Path) -> None:
    """Atomically writes a folder that engines load: `weights`, and the config and tokenizer of `model_path`."""
    from safetensors.torch import save_file

    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(_unshared(weights), part / "model.safetensors", metadata={"format": "pt"})
    for path in model_path.glob("*.json"):
        if not path.name.startswith(("model.safetensors", "training_")):
            shutil.copy(path, part)
    part.rename(folder)


def _unshared(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keeps tied weights once, under their first name, as a safetensors file requires."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor
    return kept
