"""The engine that a run's config names, for a checkpoint."""

from __future__ import annotations

import os
from typing import Any

from tqdm import tqdm

from rl.run_config import RunConfig
from rollout.engines import make_engine
from rollout.types import Engine


def engine_for(config: RunConfig, model_path: str, tokenizer: Any, model: Any = None) -> Engine:
    """Starts (or connects to) what `rollout` says, with the weights in `model_path`. Each rank has its own."""
    rank = int(os.environ.get("RANK", "0"))
    settings: dict[str, Any] = dict(config.rollout.settings)
    if config.rollout.engine == "server":
        settings |= {
            "urls": config.rollout.urls,
            "weights_dir": config.rollout.weights_dir or config.folder / "weights",
            "writer": rank == 0,
            "log": tqdm.write,
        }
    else:
        settings |= {"seed": config.seed + rank, "max_model_len": config.rollout.max_model_len}
    return make_engine(
        config.rollout.engine,
        model_path=model_path,
        model=model,
        tokenizer=tokenizer,
        dtype=config.model.dtype if model is None else str(model.dtype).removeprefix("torch."),
        **settings,
    )
