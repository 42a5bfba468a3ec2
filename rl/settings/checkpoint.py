"""Checks the checkpoint that training starts from, by its small files: context length, vocabulary."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from rl.settings.schema import ConfigError
from rollout.protocol import SPECIAL_TOKENS, RoundProtocol
from rollout.tokenizer_check import check_pad_token
from sft.damage import damage_at_sight

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_UNSCALED = ("default", "su", "longrope", "llama3", "mrope", "dynamic")  # the context already includes their factor


def longest_context(model_config: Mapping[str, Any]) -> int | None:
    """Returns a model's context length in tokens, by its `config.json`; None if it names no limit."""
    text = model_config.get("text_config") or model_config
    context = next((text[key] for key in _CONTEXT if isinstance(text.get(key), int)), None)
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if context and rope.get("rope_type", rope.get("type", "default")) not in _UNSCALED:
        start = rope.get("original_max_position_embeddings") or context
        context = max(context, int(start * (rope.get("factor") or 1)))
    return context


def check_context(model_config: Mapping[str, Any], rollout: Any, where: str) -> None:
    """Checks that rollouts have no more context than the model.

    Args:
        rollout: the config's section.
        where: name of the model, for the message.

    Raises:
        ConfigError: `rollout.max_model_len` is above it.
    """
    context, asked = longest_context(model_config), rollout.max_model_len
    forced = os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1" or "hf_overrides" in rollout.settings
    if context and asked and asked > context and not forced:
        raise ConfigError(
            f"rollout.max_model_len is {asked}, above the context of {where}, which is {context}: lower it"
        )


def check_vocabulary(vocabulary: Container[str], protocol: RoundProtocol, where: str) -> None:
    """Raises ConfigError if the protocol has summaries and the tokenizer does not know the tokens around them."""
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if protocol.name == "inftythink" and missing:
        raise ConfigError(
            f"{where} does not know {missing[0]}: SFT teaches a model the rounds (data.traces and a section `sft`); "
            "without it, set protocol.name to vanilla"
        )


def check_local(folder: Path, rollout: Any, protocol: RoundProtocol | None, pad_token: str | None = None) -> int | None:
    """Checks the folder of a checkpoint. Returns the model's context length, if it names one.

    Args:
        protocol: rounds that the model must already be able to write; None: SFT comes first.
        pad_token: `sft.pad_token`.

    Raises:
        ConfigError: it is not a checkpoint, or does not fit.
    """
    model_config = _read_json(folder / "config.json")
    if model_config is None:
        if (folder / "adapter_config.json").exists():
            raise ConfigError(f"model.path {folder} is an adapter: merge it first, with `sawtooth export {folder}`")
        raise ConfigError(f"model.path {folder} contains no config.json: it is not a model that transformers can load")
    check_context(model_config, rollout, str(folder))
    if fault := damage_at_sight(folder):
        raise ConfigError(f"model.path {folder}: {fault}")
    tokens = _read_json(folder / "tokenizer.json") or {}
    if tokens:
        known = {entry.get("content") for entry in tokens.get("added_tokens", ())}
        words = (tokens.get("model") or {}).get("vocab") or ()
        known |= {*words} if isinstance(words, dict) else {word for word, *_ in words}  # Unigram's entries have a score
        check_pad_token(known, pad_token, str(folder))
        if protocol is not None:
            check_vocabulary(known, protocol, str(folder))
    return longest_context(model_config)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return found
