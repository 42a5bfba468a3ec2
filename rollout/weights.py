"""The policy's weights under the names of its checkpoint, as an engine loads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

_PEFT_PREFIX = "base_model.model."


@contextmanager
def policy_tensors(model: nn.Module) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """(name, tensor) of every weight, one by one. A LoRA adapter is merged meanwhile, and taken out at the end.

    Under ZeRO-3 each is gathered from all ranks as its turn comes, so every rank has to read them all.
    """
    if not isinstance(model, PeftModel):
        yield _gathered(model)
        return
    with _whole(model.parameters()):  # an adapter merges into whole weights only
        model.merge_adapter()
        try:
            yield (
                (name.removeprefix(_PEFT_PREFIX).replace(".base_layer", "").replace("modules_to_save.default.", ""), t)
                for name, t in model.state_dict().items()
                if model.prefix not in name and "original_module" not in name
            )
        finally:
            model.unmerge_adapter()


def _gathered(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    partitioned = {name: p for name, p in model.named_parameters(remove_duplicate=False) if hasattr(p, "ds_id")}
    for name, tensor in model.state_dict().items():
        if name not in partitioned:
            yield name, tensor
            continue
        with _whole([partitioned[name]]):
            whole = partitioned[name].data.clone()  # the engine may keep it longer than it stays gathered
        yield name, whole


def _whole(parameters: Iterable[nn.Parameter]) -> AbstractContextManager:
    """Within it, parameters that ZeRO-3 has spread over the ranks are whole on each."""
    spread = [p for p in parameters if hasattr(p, "ds_id")]
    if not spread:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(spread)


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
