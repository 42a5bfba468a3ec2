"""`python -m rl.app.construct RANKS CONFIG [OVERRIDES]`: builds the trainers' arguments as the stages will, and exits.

It is slow (it imports trl) and changes the process, so `rl.app.preflight` runs it only if our own rules can't decide.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

from rollout.errors import InputError, UserError


def construct(stage: str, settings: dict[str, Any], ranks: int) -> None:
    """Builds the arguments of `sft` or `rl`.

    Args:
        ranks: ranks of the run; there is one here, so it gets the batch of all of them.

    Raises:
        InputError: one line on why the library refuses them.
    """
    from trl import SFTConfig

    from rl.config import EpisodeGRPOConfig
    from sft.device import device_defaults, make_arguments

    given = {key: value for key, value in settings.items() if key != "deepspeed"}  # it would init torch.distributed
    batch = given.get("per_device_train_batch_size") or 8
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        given[key] = (given.get(key) or 8) * ranks
    with tempfile.TemporaryDirectory() as folder:
        kind = {"sft": SFTConfig, "rl": EpisodeGRPOConfig}[stage]
        args = make_arguments(kind, stage, output_dir=folder, **device_defaults(given))
    _try_optimizer(stage, args)
    _try_compiler(stage, args)
    _try_trackers(stage, args)
    if settings.get("deepspeed"):
        _try_deepspeed(stage, settings["deepspeed"], args, ranks, batch)


def _try_optimizer(stage: str, args: Any) -> None:
    """Builds optimizer and scheduler for one small layer, which raises for missing packages and wrong arguments."""
    import torch
    from transformers import Trainer, get_scheduler

    layer = torch.nn.Linear(2, 2)
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, layer)
        if not args.optim_target_modules and not {"model", "optimizer_dict"} & settings.keys():  # they need the model
            kind(layer.parameters(), **{key: value for key, value in settings.items() if key != "params"})
        get_scheduler(
            args.lr_scheduler_type, torch.optim.SGD(layer.parameters(), lr=0.1), num_warmup_steps=1,
            num_training_steps=10, scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )  # fmt: skip
    except Exception as error:  # a library may raise anything
        raise InputError(
            f"{stage}.optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
    for name in filter(None, (part.partition("=")[0].strip() for part in (args.optim_args or "").split(","))):
        if _optimizer_of(args, layer, f"{name}=0") == _optimizer_of(args, layer, f"{name}=1"):
            optim = getattr(args.optim, "value", args.optim)
            raise InputError(f"{stage}.optim_args: {optim} does not read {name!r}: leave it out")


def _optimizer_of(args: Any, layer: Any, optim_args: str) -> str:
    """Returns an optimizer's arguments as text, or the error, which shows that the setting is read."""
    from transformers import Trainer

    args = copy.copy(args)
    args.optim_args = optim_args
    try:
        return repr(Trainer.get_optimizer_cls_and_kwargs(args, layer)[1])
    except Exception as error:  # a library may raise anything
        return repr(error)


def _try_compiler(stage: str, args: Any) -> None:
    import torch

    if args.torch_compile:
        try:
            torch.compile(
                torch.nn.Linear(2, 2), backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode
            )
        except Exception as error:  # torch may raise anything
            why = " ".join(str(error).split())[:300]
            raise InputError(f"{stage}.torch_compile_backend or torch_compile_mode: {why}") from error


def _try_trackers(stage: str, args: Any) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in args.report_to:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except Exception as error:  # a library may raise anything
            raise InputError(f"{stage}.report_to names {name}: {' '.join(str(error).split())[:300]}") from error


def _try_deepspeed(stage: str, given: Any, args: Any, ranks: int, batch: int) -> None:
    """Checks the types of DeepSpeed's settings, and that they agree with the trainer's."""
    import torch
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    config = HfTrainerDeepSpeedConfig(given)
    zero = {key: value for key, value in config.config.get("zero_optimization", {}).items() if value != "auto"}
    try:
        DeepSpeedZeroConfig(**zero)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("zero_optimization", *first["loc"])))
        raise InputError(f"{stage}.deepspeed.{where} is {first['input']!r}: {first['msg']}") from error
    theirs = vars(args) | {"world_size": ranks, "per_device_train_batch_size": batch}
    config.trainer_config_process(SimpleNamespace(**theirs))
    on_card = torch.cuda.is_available()  # without a GPU, the defaults are the CPU's: no bfloat16
    wrong = [line.strip(" -") for line in config.mismatches if on_card or "16" not in line]
    if wrong:
        raise InputError(f"{stage}.deepspeed contradicts {stage}: {wrong[0]}; set it to auto there")


def main(arguments: list[str]) -> int:
    from rl.app.adapter_check import check_adapter
    from rl.app.run_config import load_config

    ranks, path, *overrides = arguments
    config = load_config(path, overrides)
    try:
        for stage in config.trained:
            construct(stage, getattr(config, stage), int(ranks))
        if config.model.lora and config.trained:
            check_adapter(config.model.lora, config.model.path or str(config.folder / "base"))
    except UserError as error:
        print(f"sawtooth: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
