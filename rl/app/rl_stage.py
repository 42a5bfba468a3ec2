"""Runs the stage `rl`: passes the config's values to `run_rl`, and uploads exports during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.trainer_callback import TrainerCallback

from rewards.load import load_rewards
from rl.app.engine import engine_for
from rl.app.run_config import RunConfig
from rl.exporting.export_callback import ExportCallback
from rl.settings.checkpoint import check_context
from rl.settings.dtypes import trained_dtype
from rl.train import run_rl
from rollout.errors import loading
from rollout.protocol import RoundProtocol


def run_rl_stage(
    config: RunConfig, questions: list[dict[str, Any]], model_path: str, callbacks: list[TrainerCallback]
) -> Path | None:
    """Trains on `questions`. Returns the final model; None after SIGTERM.

    Args:
        model_path: folder of our SFT's model, or, if the run has no SFT, any checkpoint: folder or Hub id.

    Raises:
        InputError: one line on why it can't be trained.
    """
    protocol = config.protocol
    if config.sft is not None:
        protocol = RoundProtocol.load(model_path).replace(max_rounds=config.protocol.max_rounds)
    with loading(f"model {model_path}"):
        model_config = AutoConfig.from_pretrained(model_path).to_dict()
    check_context(model_config, config.rollout, model_path)
    exports = ExportCallback(config, protocol)
    try:
        final = run_rl(
            questions,
            config.folder / "rl",
            model_path,
            protocol,
            load_rewards(config.rewards, protocol),
            {**config.trainer_settings("rl"), "async_steps": config.rollout.async_steps},
            start_engine=lambda model, tokenizer: engine_for(config, model_path, tokenizer, model),
            dtype=trained_dtype(config.model, config.rl, torch.cuda.is_available()),
            attn_implementation=config.model.attn_implementation,
            lora=config.model.lora,
            seed=config.seed,
            episodes_dir=config.folder / "episodes",
            callbacks=[*callbacks, exports],
        )
    except BaseException:
        exports.finish(wait=False)  # no upload outlives the training; the next start resumes it
        raise
    exports.finish(wait=final is not None)
    return final
