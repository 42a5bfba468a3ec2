"""A LoRA adapter merged into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge_adapter(folder: Path, base: str | None, dtype: str, vocabulary: int) -> PreTrainedModel:
    """The base model with the adapter's change in its weights.

    peft holds the adapter in float32 and rounds their sum to the base's dtype, as the rollouts of its training did.

    Args:
        vocabulary: tokens of the adapter's tokenizer; the embeddings grow where the base has fewer.

    Raises:
        ValueError: no base is known or found, or the embeddings of added tokens are nowhere.
    """
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    model = _load_base(folder, base or config.base_model_name_or_path, dtype)
    embeddings = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    name = next(name for name, module in model.named_modules() if module is embeddings)
    stored = _stored_rows(folder, f".{name}.weight")
    trained = vocabulary if getattr(config, "trainable_token_indices", None) else 0
    grown = max(rows, stored, trained)
    if vocabulary > grown:
        raise ValueError(
            f"the adapter in {folder} has {vocabulary} tokens, but its base has {rows} embeddings and its own file "
            "none for the others: name the base that it was trained on with --base"
        )
    if grown > rows:
        model.resize_token_embeddings(grown, mean_resizing=False)  # the adapter's file fills them
    adapted = PeftModel.from_pretrained(model, str(folder))
    return adapted.merge_and_unload(safe_merge=True).eval()


def _load_base(folder: Path, source: str | None, dtype: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    if not source:
        raise ValueError(f"{folder}/adapter_config.json names no base model: give it with --base MODEL")
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the adapter's base model {source} can't be loaded ({reason}): give it with --base"
        ) from error


def _stored_rows(folder: Path, ending: str) -> int:
    """Rows of the embeddings that came with the adapter; 0 where they did not."""
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        return 0
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return next((file.get_slice(key).get_shape()[0] for key in file.keys() if key.endswith(ending)), 0)  # noqa: SIM118
