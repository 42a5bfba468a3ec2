"""Which engine a run uses."""

from __future__ import annotations

import inspect
from typing import Any

from rollout.endings import further_ends, listed_ends
from rollout.types import Engine

ENGINES = ("vllm", "transformers", "server")


def make_engine(
    kind: str, *, model_path: str, model: Any = None, tokenizer: Any = None, dtype: str = "auto", **settings: Any
) -> Engine:
    """An engine by name.

    Args:
        kind: "vllm" (in this process), "transformers", or "server" (any number of `sawtooth serve-rollouts`).
        model_path: checkpoint that vLLM loads, and transformers where no `model` is given.
        model: the live policy, for transformers.
        settings: further arguments of `vllm.LLM`, or `batch_size` of the transformers engine, or those of
            `ServerEngine`; None leaves a default.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    if kind == "vllm":
        from rollout.vllm_engine import VLLMEngine

        return VLLMEngine(model_path, dtype=dtype, **settings)
    if kind == "transformers":
        from transformers import AutoModelForCausalLM

        from rollout.hf_engine import TransformersEngine

        batch = {"batch_size": settings["batch_size"]} if "batch_size" in settings else {}
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype)
        return TransformersEngine(model, tokenizer, **batch)
    if kind == "server":
        from rollout.remote.engine import ServerEngine

        unknown = sorted(settings.keys() - (inspect.signature(ServerEngine).parameters.keys() - {"ends"}))
        if unknown:
            raise ValueError(
                f"rollout.settings.{unknown[0]} is not a setting of the server engine: give it to the server"
            )
        ends = [] if tokenizer is None else further_ends(tokenizer, listed_ends(model_path))
        return ServerEngine(model_path=model_path, ends=ends, **settings)
    raise ValueError(f"rollout.engine is {kind!r}; known engines: {', '.join(ENGINES)}")
