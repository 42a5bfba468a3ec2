"""The policy's weights under the names of its checkpoint, as an engine loads them."""

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
    """(name, tensor) of every weight, one by one; those that a LoRA adapter changes as merged copies.

    The model's own weights are only read. Under ZeRO-3 each is gathered from all ranks as its turn comes, so every
    rank has to read them all.

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
        with gathered([tensor]):  # what was gathered may be kept longer than it stays so
            whole = tensor.detach().clone() if hasattr(tensor, "ds_id") else tensor.detach()
        yield name, whole
    for name, child in module.named_children():
        yield from _tensors(child, f"{prefix}{name}.")


def _merged(layer: BaseTunerLayer, prefix: str) -> list[tuple[str, torch.Tensor]]:
    """Weights of the layer that an adapter lies on, with its change: their sum in float32, rounded once.

    peft merges into copies that stand in the place of the weights meanwhile: merging in place and taking out again
    leaves a rounding error in them each time.
    """
    base = layer.get_base_layer()
    with gathered(layer.parameters()), torch.no_grad():
        own = {p: p.data for p in base.parameters()}
        try:
            for parameter, data in own.items():
                short = data.is_floating_point() and data.itemsize < 4
                parameter.data = data.to(torch.float32 if short else data.dtype, copy=True)
            on_it = layer
            while isinstance(on_it, BaseTunerLayer):  # several on one: parameters of a layer of experts
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
    """A folder that engines load: `weights`, with the config and tokenizer of `model_path`. It appears whole."""
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
    """Tied weights stand once in a safetensors file, under the name that comes first."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor
    return kept
