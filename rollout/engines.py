"""Creates the engine of a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from rollout.endings import further_ends, listed_ends
from rollout.errors import ConfigError, loading, refuse_unknown
from rollout.types import Engine

ENGINES = ("vllm", "transformers", "server")


def channel_of(engine: Engine) -> Engine:
    """Returns a channel for one caller's requests if the engine serves several callers at once, else the engine."""
    channel = getattr(engine, "channel", None)
    return engine if channel is None else channel()


def make_engine(
    kind: str, *, model_path: str, model: Any = None, tokenizer: Any = None, dtype: str = "auto", **settings: Any
) -> Engine:
    """Creates an engine by name.

    Args:
        kind: "vllm" (in this process), "transformers", or "server" (any number of `sawtooth serve-rollouts`).
        model_path: checkpoint that vLLM loads, and transformers if no `model` is given.
        model: the live policy, for transformers.
        settings: further arguments of `vllm.LLM`, `TransformersEngine` or `ServerEngine`; None keeps a default.

    Raises:
        ConfigError: the engine does not exist, or does not have a setting.
    """
    if kind not in ENGINES:
        raise ConfigError(f"rollout.engine is {kind!r}; known engines: {', '.join(ENGINES)}")
    settings = {key: value for key, value in settings.items() if value is not None}
    check_settings(kind, settings)
    if kind == "vllm":
        from rollout.vllm_engine import VLLMEngine

        return VLLMEngine(model_path, dtype=dtype, **settings)
    if kind == "server":
        from rollout.remote.engine import ServerEngine

        ends = [] if tokenizer is None else further_ends(tokenizer, listed_ends(model_path))
        return ServerEngine(model_path=model_path, ends=ends, **settings)
    from transformers import AutoModelForCausalLM

    from rollout.hf_engine import TransformersEngine

    if model is None:
        with loading(f"model {model_path}"):
            model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype)
    return TransformersEngine(model, tokenizer, **settings)


def check_settings(kind: str, names: Iterable[str]) -> None:
    """Checks the names of settings before an engine starts. vLLM checks its own.

    Raises:
        ConfigError: the engine does not have a setting.
    """
    if kind == "server":
        from rollout.remote.engine import ServerEngine as engine

        what = "the server engine (pass vLLM's own to `sawtooth serve-rollouts`)"
    elif kind == "transformers":
        from rollout.hf_engine import TransformersEngine as engine

        what = "the transformers engine"
    else:
        return
    own = ("model", "tokenizer", "model_path", "ends")  # given by name above
    refuse_unknown(what, names, [name for name in inspect.signature(engine).parameters if name not in own])
