"""Starts the engine that a run's config names, for a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from rl.app.run_config import RunConfig
from rl.settings.dtypes import rollout_dtype, trained_dtype
from rollout.engines import make_engine
from rollout.processes import rank
from rollout.types import Engine


def dtype_for(config: RunConfig, model: Any = None) -> str:
    """Returns the dtype of the engine for the policy `model` or, without one, of the engine for evaluation."""
    on_card, section = torch.cuda.is_available(), config.sft if config.rl is None else config.rl
    if model is not None:
        weights = str(model.dtype).removeprefix("torch.")
    else:
        weights = config.model.dtype if section is None else trained_dtype(config.model, section, on_card)
    return rollout_dtype(config, weights, on_card)


def engine_for(config: RunConfig, model_path: str, tokenizer: Any, model: Any = None) -> Engine:
    """Starts (or connects to) the engine of `rollout`, with the weights in `model_path`. Each rank has its own.

    With a `model`, vLLM starts with random weights. Only the first weight sync brings the real ones, and the probe of
    `rl.weight_sync` detects any that it missed.
    """
    settings: dict[str, Any] = dict(config.rollout.settings)
    if config.rollout.engine == "server":
        settings |= {
            "urls": config.rollout.urls,
            "weights_dir": config.rollout.weights_dir or config.folder / "weights",
            "writer": rank() == 0,
            "log": tqdm.write,
        }
    else:
        settings["max_model_len"] = config.rollout.max_model_len
    if config.rollout.engine == "vllm":
        settings["seed"] = config.seed + rank()
        own = settings.keys() & {"quantization", "speculative_config"}  # made from the weights at startup
        if model is not None and not own:
            settings.setdefault("load_format", "dummy")
    return make_engine(
        config.rollout.engine,
        model_path=model_path,
        model=model,
        tokenizer=tokenizer,
        dtype=dtype_for(config, model),
        **settings,
    )
