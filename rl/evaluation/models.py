"""The models of an evaluation: a folder or a Hub id becomes a folder, a name for tables, and a hash of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rl.evaluation.names import short_path, unique_names
from rollout.errors import InputError, loading
from rollout.protocol import PROTOCOL_FILE, RoundProtocol

_WEIGHTS = ("*.safetensors", "*.bin")
_BESIDE = (
    "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "chat_template*", "*.model",
)  # fmt: skip
"""Files that an episode depends on beside the weights. The protocol is not among them: it is keyed by itself."""

_NO_WEIGHTS = ("training_args.bin",)
_LEFT_ON_THE_HUB = ["*.pth", "*.pt", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.md", "original/*", "*.png"]


@dataclass(frozen=True)
class EvalModel:
    """A model to be evaluated."""

    name: str  # in tables and file names
    folder: Path
    protocol: RoundProtocol | None  # its own; None: it was not made by Sawtooth
    identity: str  # hash of weights, config and tokenizer

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        with loading(f"model {self.folder}"):
            return AutoTokenizer.from_pretrained(self.folder)

    def under(self, protocol: RoundProtocol) -> EvalModel:
        """Returns the model with this protocol in place of its own."""
        return replace(self, protocol=protocol)

    def shape(self) -> dict[str, Any]:
        """Returns architecture, sizes, end tokens: an engine can sync weights between models of equal shape."""
        config = json.loads((self.folder / "config.json").read_text())
        loose = ("_name_or_path", "transformers_version", "use_cache", "bos_token_id", "eos_token_id", "pad_token_id")
        return {key: value for key, value in config.items() if key not in loose} | {"ends": self._ends(config)}

    def _ends(self, config: dict[str, Any]) -> Any:
        """Returns the tokens that end a completion, which vLLM reads only at startup."""
        generation = self.folder / "generation_config.json"
        own = (json.loads(generation.read_text()) if generation.exists() else config).get("eos_token_id")
        settings = self.folder / "tokenizer_config.json"
        token = json.loads(settings.read_text()).get("eos_token") if settings.exists() else None
        return own if isinstance(own, list) else [own], token["content"] if isinstance(token, dict) else token


def open_models(specs: Sequence[str], digest: Callable[[Path], str], names: Sequence[str] = ()) -> list[EvalModel]:
    """Opens models by folder or Hub id, with unique names.

    Args:
        digest: hash of a file.
        names: for tables; empty: made from the specs.
    """
    models = [open_model(spec, digest) for spec in specs]
    names = names or unique_names([model.name for model in models])
    return [replace(model, name=name) for model, name in zip(models, names, strict=True)]


def open_model(spec: str, digest: Callable[[Path], str]) -> EvalModel:
    """Opens a model by folder or Hub id. A Hub id is downloaded first, so the files that run are those hashed.

    Args:
        digest: hash of a file.

    Raises:
        InputError: there is no model.
    """
    folder, name = Path(spec), short_path(Path(spec))
    if not folder.exists():
        folder, name = _fetch(spec), spec.rpartition("/")[2]
    if not (folder / "config.json").exists():
        raise InputError(f"{spec} has no config.json: it is not a model that transformers can load")
    protocol = RoundProtocol.load(folder) if (folder / PROTOCOL_FILE).exists() else None
    return EvalModel(name, folder, protocol, fingerprint(folder, digest))


def fingerprint(folder: Path, digest: Callable[[Path], str]) -> str:
    """Returns a hash of weights, config and tokenizer.

    Raises:
        InputError: there are no weights.
    """
    weights = next((found for pattern in _WEIGHTS if (found := _matching(folder, pattern))), [])
    if not weights:
        raise InputError(f"{folder} has no weights (*.safetensors): merge an adapter with `sawtooth export` first")
    beside = {path for pattern in _BESIDE for path in _matching(folder, pattern)}
    lines = [f"{path.name} {digest(path)}" for path in sorted({*weights, *beside})]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _matching(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.glob(pattern) if path.is_file() and path.name not in _NO_WEIGHTS]


def _fetch(spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, ignore_patterns=_LEFT_ON_THE_HUB))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{spec} is not a local folder, and the Hub returns: {why}") from error
