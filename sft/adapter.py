"""Converts `model.lora` to peft's config: also trains the round tokens' rows, and refuses untrainable settings."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import PreTrainedModel

from rollout.errors import InputError


def lora_config(lora: dict[str, Any], model: PreTrainedModel, tokens: list[int]) -> LoraConfig:
    """Returns the adapter's config. A LoRA on linear layers does not change embeddings and head: new tokens need rows.

    Args:
        lora: any fields of `peft.LoraConfig`; modules and rows that it already trains are kept.
        tokens: ids whose rows, in embeddings and output head, are also trained.

    Raises:
        InputError: it would change only one of an output head and the embeddings that are tied to it; or the rows
            can't be trained with it.
    """
    config = LoraConfig(**{"task_type": "CAUSAL_LM", **lora})
    if config.alora_invocation_tokens or config.arrow_config:
        raise InputError("model.lora: aLoRA and Arrow adapters can't be merged into the model: leave them out")
    names = {id(module): name for name, module in model.named_modules()}
    inside, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [names[id(layer)] for layer in (inside, head) if layer is not None]
    tied = head is not None and head.weight is inside.weight
    if tied:
        _keep_tied(config, layers)
    if not tokens:
        return config
    own = config.trainable_token_indices or {}
    own = own if isinstance(own, dict) else {layers[0]: list(own)}
    rows = {_full_name(key, layers): list(ids) for key, ids in own.items()}
    for name in layers[:1] if tied else layers:
        if not _is_targeted(config, name) and not _is_saved(config, name):
            rows[name] = sorted({*rows.get(name, []), *tokens})
    if tied and layers[1] in rows:  # the head's rows are the embeddings' own
        rows[layers[0]] = sorted({*rows.get(layers[0], []), *rows.pop(layers[1])})
        if _is_saved(config, layers[0]):
            del rows[layers[0]]
    config.trainable_token_indices = rows or None
    return config


def _keep_tied(config: LoraConfig, layers: list[str]) -> None:
    for name in layers:
        if _is_targeted(config, name):
            raise InputError(
                f"model.lora.target_modules: {name} can't have a LoRA here, because {layers[0]} and {layers[1]} share "
                "their weights; take it out, and name the rows to train in model.lora.trainable_token_indices"
            )
    if any(_is_saved(config, name) for name in layers):
        others = [name for name in config.modules_to_save if not _is_one_of(layers, name)]
        config.modules_to_save, config.ensure_weight_tying = [*others, layers[0]], True


def _is_targeted(config: LoraConfig, name: str) -> bool:
    targets = config.target_modules
    return bool(targets) and targets != "all-linear" and bool(check_target_module_exists(config, name))


def _is_saved(config: LoraConfig, name: str) -> bool:
    return any(name.endswith(saved) for saved in config.modules_to_save or [])  # as peft looks them up


def _is_one_of(layers: list[str], name: str) -> bool:
    return any(layer.endswith(name) for layer in layers)


def _full_name(name: str, layers: list[str]) -> str:
    return next((layer for layer in layers if layer.endswith(name)), name)
