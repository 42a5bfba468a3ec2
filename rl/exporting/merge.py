"""Merge a LoRA adapter into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rollout.errors import InputError, loading
from rollout.weights import policy_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge_adapter(folder: Path, base: str | None, dtype: str, vocabulary: int) -> PreTrainedModel:
    """Return the base model with the adapter merged into its weights.

    The sum is rounded once to the base's dtype, as in the rollouts during training. If the base ties embeddings and
    output head and the adapter changes only one of them, the merged model is untied.

    Args:
        vocabulary: tokens of the adapter's tokenizer; the embeddings grow if the base has fewer.

    Raises:
        InputError: no base is known or found, or the embeddings of added tokens are missing.
    """
    from peft import PeftConfig, PeftModel

    with loading(f"the adapter in {folder}"):
        config = PeftConfig.from_pretrained(str(folder))
    model = _load_base(folder, base or config.base_model_name_or_path, dtype)
    embeddings = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    name = next(name for name, module in model.named_modules() if module is embeddings)
    stored = _stored_rows(folder, f".{name}.weight")
    trained = vocabulary if getattr(config, "trainable_token_indices", None) else 0
    grown = max(rows, stored, trained)
    if vocabulary > grown:
        raise InputError(
            f"the adapter in {folder} has {vocabulary} tokens, but its base has {rows} embeddings and its own file "
            "none for the rest: give the base that it was trained on with --base"
        )
    if grown > rows:
        model.resize_token_embeddings(grown, mean_resizing=False)  # the adapter's file fills them
    with loading(f"the adapter in {folder}"):
        adapted = PeftModel.from_pretrained(model, str(folder))
    with policy_tensors(adapted) as tensors:
        weights = dict(tensors)
    plain = adapted.unload()
    _untie_unless_equal(plain, weights)
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    return plain.requires_grad_(False).eval()


def _untie_unless_equal(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> None:
    inside, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or not model.config.get_text_config().tie_word_embeddings:
        return
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    first, second = (weights[names[id(layer)]] for layer in (inside, head))
    if not torch.equal(first, second):
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def _load_base(folder: Path, source: str | None, dtype: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    if not source:
        raise InputError(f"{folder}/adapter_config.json names no base model: give it with --base MODEL")
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the adapter's base model {source} can't be loaded ({reason}): give it with --base"
        ) from error


def _stored_rows(folder: Path, ending: str) -> int:
    """Return the rows of the embeddings in the adapter's file; 0 if it has none."""
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return next((file.get_slice(key).get_shape()[0] for key in file.keys() if key.endswith(ending)), 0)  # noqa: SIM118
