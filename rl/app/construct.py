"""`python -m rl.app.construct RANKS CONFIG [OVERRIDES]`: makes the trainers' arguments as the stages will, and stops.

Slow (it imports trl), and it changes the process, so `rl.app.preflight` asks for it only where our own rules do not
decide.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from rollout.errors import InputError, UserError


def construct(stage: str, settings: dict[str, Any], ranks: int) -> None:
    """Makes the arguments of `sft` or `rl`.

    Args:
        ranks: there is one here, so the batch of all of them is its own.

    Raises:
        InputError: one line on why the library refuses them.
    """
    from trl import SFTConfig

    from rl.config import EpisodeGRPOConfig
    from sft.device import device_defaults, make_arguments

    given = {key: value for key, value in settings.items() if key != "deepspeed"}  # it would set up ranks
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        given[key] = (given.get(key) or 8) * ranks
    with tempfile.TemporaryDirectory() as folder:
        kind = {"sft": SFTConfig, "rl": EpisodeGRPOConfig}[stage]
        args = make_arguments(kind, stage, output_dir=folder, **device_defaults(given))
    _try_optimizer(stage, args)


def _try_optimizer(stage: str, args: Any) -> None:
    """Makes optimizer and scheduler of one small layer: what they lack or don't take, they say."""
    import torch
    from transformers import Trainer, get_scheduler

    layer = torch.nn.Linear(2, 2)
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, layer)
        if not args.optim_target_modules and not {"model", "optimizer_dict"} & settings.keys():  # they want the model
            kind(layer.parameters(), **{key: value for key, value in settings.items() if key != "params"})
        get_scheduler(
            args.lr_scheduler_type, torch.optim.SGD(layer.parameters(), lr=0.1), num_warmup_steps=1,
            num_training_steps=10, scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )  # fmt: skip
    except Exception as error:  # a library's: whatever it does
        raise InputError(
            f"{stage}.optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def main(arguments: list[str]) -> int:
    from rl.app.run_config import load_config

    ranks, path, *overrides = arguments
    config = load_config(path, overrides)
    try:
        for stage in config.trained:
            construct(stage, getattr(config, stage), int(ranks))
    except UserError as error:
        print(f"sawtooth: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
