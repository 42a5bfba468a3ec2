"""Silences useless library output before the libraries are imported. Errors are still printed."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_LIBRARIES = "torch|transformers|trl|peft|accelerate|datasets|deepspeed|vllm|triton|tokenizers|huggingface_hub"

ENVIRONMENT = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # vLLM's CPU build prints the NUMA nodes to which its memory is bound
    "VLLM_LOGGING_LEVEL": "ERROR",
    "LMEVAL_LOG_LEVEL": "ERROR",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",  # else it warns at each fork
}

_NEEDLESS = {
    "DeepSpeed": r"Setting accelerator to CPU",
    "transformers.trainer_utils": r"mtime may not be reliable",
}
"""Logger -> pattern of its messages that are not useful."""


@cache
def keep_libraries_quiet() -> None:
    """Silences libraries; call it before any of them is imported. Environment variables that are set are kept."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module=rf"({_LIBRARIES})(\.|$)")
    warnings.filterwarnings("ignore", category=UserWarning, module="_distutils_hack")  # DeepSpeed builds an extension
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())  # before vLLM sets it by itself
    for name, pattern in _NEEDLESS.items():
        logging.getLogger(name).addFilter(lambda record, p=re.compile(pattern): not p.match(record.getMessage()))


@contextmanager
def no_syntax_warnings() -> Iterator[None]:
    """Wraps the import of a library whose first compilation raises SyntaxWarnings (reasoning-gym's cellpylib)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        yield


def hide_loading_bars() -> None:
    """Hides progress bars of loading and saving weights; those of downloads stay. Imports transformers."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    shown = not are_progress_bars_disabled()
    disable_progress_bar()
    if shown:
        enable_progress_bars()
