"""The served model: tokenizer, protocol and sampling defaults of a checkpoint. The engine has the weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.endings import further_ends, listed_ends
from rollout.errors import InputError
from rollout.protocol import PROTOCOL_FILE, RoundProtocol, get_protocol
from rollout.types import Sampling

_DEFAULTS = ("temperature", "top_p", "top_k", "min_p")


@dataclass(frozen=True)
class ServedModel:
    name: str  # that requests give
    tokenizer: Any
    protocol: RoundProtocol
    defaults: Sampling  # if a request sets nothing: from the model's generation_config.json, with its end tokens

    @property
    def chats(self) -> bool:
        """Whether it takes messages, not only one plain text."""
        return self.protocol.chat and bool(getattr(self.tokenizer, "chat_template", None))


def load_model(model: str, *, name: str | None = None, protocol: str | None = None) -> ServedModel:
    """Loads a model from a folder or Hub id, without its weights.

    Args:
        name: under which it is served (default: `model`).
        protocol: name of a protocol, in place of the model's own protocol.json.

    Raises:
        InputError: no such model, or its protocol is unknown.
    """
    own = load_protocol(model)
    if own is None and protocol is None:
        raise InputError(f"{model} has no {PROTOCOL_FILE}: give --protocol vanilla, inftythink or delethink")
    from transformers import AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(f"{model} has no tokenizer that can be loaded: {str(error).splitlines()[0]}") from error
    try:
        generation = GenerationConfig.from_pretrained(model).to_diff_dict()
    except OSError:
        generation = {}
    given = {key: generation[key] for key in _DEFAULTS if generation.get(key) is not None}
    given["stop_ids"] = further_ends(tokenizer, listed_ends(model))
    served = own if protocol in (None, own and own.name) else get_protocol(protocol)
    return ServedModel(name or model, tokenizer, served, Sampling(**given))


def load_protocol(model: str) -> RoundProtocol | None:
    """Returns the model's protocol.json; None if it has none.

    Raises:
        InputError: no such model.
    """
    if Path(model).is_dir():
        return RoundProtocol.load(model) if (Path(model) / PROTOCOL_FILE).exists() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return RoundProtocol.load(Path(hf_hub_download(model, PROTOCOL_FILE)).parent)
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        reason = str(error).splitlines()[0]
        raise InputError(f"{model} is neither a folder nor a model on the Hub that can be reached: {reason}") from error
