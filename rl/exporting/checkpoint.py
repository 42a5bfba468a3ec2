"""Load a checkpoint of any kind as one whole model: plain, a LoRA adapter, or ZeRO shards.

folder -> kind -> weights (consolidated, merged) -> model, tokenizer
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rl.exporting.zero import consolidate, has_shards
from rollout.errors import InputError, loading

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")


def check_checkpoint(folder: Path) -> None:
    """Check, without reading any weights, that this is a checkpoint.

    Raises:
        InputError: it is not; the message is one line.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if _is_adapter(folder):
        if not _has(folder, _ADAPTER):
            raise InputError(f"{folder} has an adapter_config.json but no {_ADAPTER[0]}")
    elif not (folder / "config.json").exists() or not (_has(folder, _WEIGHTS) or has_shards(folder)):
        inside = sorted(p.name for p in folder.iterdir() if p.name == "final" or p.name.startswith("checkpoint-"))
        hint = f"; name one of those in it: {', '.join(inside)}" if inside else ""
        raise InputError(f"{folder} is not a model: no config.json with weights, no LoRA adapter, no ZeRO shards{hint}")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError(f"{folder} has no tokenizer: copy the tokenizer's files of its base model into it")


def load_checkpoint(
    folder: Path, base: str | None = None, dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the whole model in a checkpoint's folder, and its tokenizer.

    Args:
        base: base model of a LoRA adapter; None: the one in its adapter_config.json.
        dtype: of the weights; "auto" keeps the checkpoint's own (for an adapter, its base's).

    Raises:
        InputError: it is not a checkpoint, or an adapter without its base or its embeddings.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_checkpoint(folder)
    if base and not _is_adapter(folder):
        raise InputError(f"{folder} is a whole model: leave out --base, which is for a LoRA adapter")
    with loading(f"the tokenizer of {folder}"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if _is_adapter(folder):
        from rl.exporting.merge import merge_adapter

        return merge_adapter(folder, base, dtype, len(tokenizer)), tokenizer
    if _has(folder, _WEIGHTS):
        with loading(f"model {folder}"):
            return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), tokenizer
    return _from_shards(folder, dtype), tokenizer


def _from_shards(folder: Path, dtype: str) -> PreTrainedModel:
    """Load a checkpoint from its config and the ranks' shards, in its training dtype by default."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with loading(f"model {folder}"):
        config = AutoConfig.from_pretrained(folder)
    wanted = config.dtype if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=wanted or torch.float32)
    weights = consolidate(folder)
    lacking = {name for name, _ in model.named_parameters()} - weights.keys()  # of tied weights, the first name counts
    foreign = weights.keys() - model.state_dict().keys()
    if lacking or foreign:
        what = f"they lack {min(lacking)}" if lacking else f"{min(foreign)} is not one of its weights"
        raise InputError(f"the ZeRO shards in {folder} don't fit its config.json: {what}")
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)
