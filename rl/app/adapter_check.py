"""Checks that `model.lora` fits the model, built from its own code on the meta device, before anything trains."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from rl.settings.schema import ConfigError
from sft.adapter import lora_config

_MOST_SHOWN = 12
_FORMS = {
    "target_modules": r"(.*\.)?{}",
    "exclude_modules": r"(.*\.)?{}",
    "modules_to_save": r".*{}",
    "rank_pattern": r"(.*\.)?({})",
    "alpha_pattern": r"(.*\.)?({})",
}
"""Names of modules that each of them stands for, as peft looks for them."""
_NEW_TOKENS = 4  # the round tokens' rows, which are added later


def check_adapter(lora: dict[str, Any], path: str) -> None:
    """Adds the adapter to the model of a folder (or of the Hub, if it is cached on this machine).

    Raises:
        ConfigError: a name is not in the model (peft would ignore it), or peft fails.
    """
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError):  # not here yet, or the stage that loads it reports the error
        return
    names = [name for name, _ in model.named_modules() if name]
    for key, form in _FORMS.items():
        given = lora.get(key)
        if isinstance(given, str) and given.replace("_", "-") != "all-linear":
            _check_names(key, [given], names, model, "{}")  # one pattern that matches whole names
        elif not isinstance(given, str):
            _check_names(key, given or (), names, model, form, plain=isinstance(given, list))
    layers, rows = config.get_text_config().num_hidden_layers, model.get_input_embeddings().num_embeddings
    _check_numbers("layers_to_transform", lora.get("layers_to_transform"), layers, "layers")
    _check_numbers("trainable_token_indices", lora.get("trainable_token_indices"), rows + _NEW_TOKENS, "tokens")
    adapter = lora_config(lora, model, [])
    adapter.init_lora_weights = True  # other methods read the weights, which don't exist
    try:
        get_peft_model(model, adapter, low_cpu_mem_usage=True)
    except Exception as error:  # peft may raise anything
        raise ConfigError(f"model.lora: {' '.join(str(error).split())[:300]}") from error


def _check_names(key: str, given: Iterable[str], names: list[str], model: Any, form: str, plain: bool = False) -> None:
    """Raises ConfigError if a name matches no module. `plain`: names, not patterns."""
    for name in given:
        try:
            pattern = re.compile(form.format(re.escape(name) if plain else name))
        except re.error as error:
            raise ConfigError(
                f"model.lora.{key} contains {name!r}, which is not a regular expression: {error}"
            ) from error
        if not any(pattern.fullmatch(module) for module in names):
            linear = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
            known = ", ".join(list(dict.fromkeys(n.rpartition(".")[2] for n in linear))[:_MOST_SHOWN])
            raise ConfigError(f"model.lora.{key}: the model has no {name!r}; its linear layers are {known}")


def _check_numbers(key: str, given: Any, most: int, what: str) -> None:
    numbers = [given] if isinstance(given, int) else given or ()
    if isinstance(numbers, dict):
        numbers = [number for part in numbers.values() for number in part]
    for number in numbers:
        if not isinstance(number, int) or not 0 <= number < most:
            raise ConfigError(f"model.lora.{key} contains {number!r}; the model has {most} {what}, counted from 0")
