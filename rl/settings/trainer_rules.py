"""Checks the sections `sft:`, `rl:` and `model.lora`: choices, bounds of numbers, and combinations.

TRL and transformers check a part of this hours later, when a stage builds its trainer, or in its first step.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from rl.settings.library_source import library_source
from rl.settings.schema import ConfigError, check_section, library_fields, quotes_hint

_MOST_SHOWN = 16  # choices in a message; if there are more, the nearest

_RULES: dict[str, Callable[[float], bool]] = {
    "at least 0": lambda x: x >= 0,
    "at least 1": lambda x: x >= 1,
    "at least 2": lambda x: x >= 2,
    "above 0": lambda x: x > 0,
    "from 0 to 1": lambda x: 0 <= x <= 1,
    "at least 0 and below 1": lambda x: 0 <= x < 1,
    "above 0, and 1 at most": lambda x: 0 < x <= 1,
    "at least 1, or -1 for as many as num_train_epochs give": lambda x: x >= 1 or x == -1,
    "at least 1, or 0 for all tokens": lambda x: x >= 0 or x == -1,
    "a share below 1, or a whole number": lambda x: 0 < x < 1 or (x >= 1 and x == int(x)),
    "from 0 to 4294967295": lambda x: 0 <= x < 2**32,
}

_BOUNDS = {
    "at least 0": (
        "learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps", "beta", "epsilon",
        "epsilon_high", "dataloader_num_workers", "save_total_limit", "max_refills", "eval_delay",
        "neftune_noise_alpha", "router_aux_loss_coef", "off_policy_mask_threshold", "vespo_k_pos", "vespo_k_neg",
        "vespo_lambda_pos", "vespo_lambda_neg", "vllm_importance_sampling_clip_min", "num_completions_to_print",
    ),
    "at least 1": (
        "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "num_iterations",
        "steps_per_generation", "generation_batch_size", "max_completion_length", "max_tokens_per_microbatch",
        "max_length", "ref_model_sync_steps", "dataloader_prefetch_factor", "eval_accumulation_steps",
        "torch_empty_cache_steps", "ddp_timeout", "dataset_num_proc", "pad_to_multiple_of", "ddp_bucket_cap_mb", "r",
        "lora_alpha",
        "max_num_seqs", "kv_cache_memory_bytes", "batch_size",
    ),
    "at least 2": ("num_generations", "num_generations_eval"),
    "above 0": (
        "num_train_epochs", "temperature", "repetition_penalty", "delta", "sapo_temperature_neg",
        "sapo_temperature_pos", "vllm_importance_sampling_clip_max", "vllm_importance_sampling_cap",
    ),
    "from 0 to 1": ("min_p", "ref_model_mixup_alpha", "top_entropy_quantile"),
    "at least 0 and below 1": ("adam_beta1", "adam_beta2", "label_smoothing_factor", "lora_dropout"),
    "above 0, and 1 at most": ("top_p", "vllm_gpu_memory_utilization", "gpu_memory_utilization"),
    "at least 1, or -1 for as many as num_train_epochs give": ("max_steps",),
    "at least 1, or 0 for all tokens": ("top_k",),
    "a share below 1, or a whole number": ("logging_steps", "save_steps"),
    "from 0 to 4294967295": ("seed", "data_seed"),
}  # fmt: skip
_BOUND_OF = {key: rule for rule, keys in _BOUNDS.items() for key in keys}

CHOICES: dict[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "importance_sampling_level": ("token", "sequence"),
    "vllm_importance_sampling_mode": ("token_mask", "token_truncate", "sequence_mask", "sequence_truncate"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
"""Of `rl`, as TRL's GRPO trainer reads them (its config lists none)."""

SURE = {
    *_BOUND_OF, "report_to", "output_dir", "scale_rewards", "log_completions", "log_completions_hub_repo",
    "disable_tqdm", "auto_find_batch_size", "vllm_importance_sampling_correction", "deepspeed", "do_eval",
    "eval_strategy", "load_best_model_at_end",
}  # fmt: skip
"""Fields that libraries' constructors check, but that need no constructor: the checks here (or elsewhere) decide."""

_LEVELS = ("debug", "info", "warning", "error", "critical", "detail", "passive")
_COMMON_CHOICES: dict[str, tuple[Any, ...]] = {
    "log_level": _LEVELS,
    "log_level_replica": _LEVELS,
    "include_num_input_tokens_seen": ("all", "non_padding", "no", True, False),
}
_RECOMPUTE = {
    "use_reentrant": "bool", "preserve_rng_state": "bool", "determinism_check": "str", "debug": "bool",
    "early_stop": "bool",
}  # fmt: skip
"""Arguments of torch.utils.checkpoint."""
TRACKERS = (
    "all", "none", "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "kubeflow", "mlflow",
    "neptune", "swanlab", "tensorboard", "trackio", "wandb",
)  # fmt: skip
"""Names that `report_to` accepts."""

_NO_EVALUATION = "the trainers have no evaluation data: use the stage `eval`"
_MADE_BEFORE = "the data stage makes the rows, with the tokens of `protocol` and the model's own template"
_BY_PATH = "`model` says how the checkpoint is loaded"
_ELSEWHERE = {
    "output_dir": "`name` picks the folder",
    "seed": "use the top-level `seed`",
    "resume_from_checkpoint": "a stage always resumes from its last checkpoint",
    "save_only_model": "a stage resumes from its checkpoints, which need the optimizer",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint without it",
    "push_to_hub": "use `export`",
    "hub_model_id": "use `export.repo_id`",
    "hub_token": "use the Hub's own login",
    "hub_strategy": "use `export.every_steps`",
    "model_init_kwargs": _BY_PATH,
    "trust_remote_code": _BY_PATH,
    "local_rank": "--nproc and torchrun set it",
    "do_predict": _NO_EVALUATION,
    **dict.fromkeys(("hub_private_repo", "hub_always_push", "hub_revision"), "use `export`"),
    **dict.fromkeys(
        (
            "do_eval", "eval_strategy", "load_best_model_at_end", "eval_steps", "eval_on_start", "eval_delay",
            "eval_packing", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object",
            "per_device_eval_batch_size", "num_generations_eval", "metric_for_best_model", "greater_is_better",
            "prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval",
            "label_names",
        ),
        _NO_EVALUATION,
    ),
}  # fmt: skip
_ELSEWHERE_SFT = {
    "dataset_text_field": _MADE_BEFORE,
    "dataset_kwargs": _MADE_BEFORE,
    "dataset_num_proc": _MADE_BEFORE,
    "chat_template_path": _MADE_BEFORE,
    "eos_token": _MADE_BEFORE,
    "completion_only_loss": "the loss is on the outputs only",
    "assistant_only_loss": "the loss is on the outputs only",
    "truncation_mode": "a row over sft.max_length is left out, not cut",
}
_ELSEWHERE_RL = {
    "use_vllm": "rollout.engine",
    "vllm_mode": "rollout.engine",
    "async_steps": "rollout.async_steps",
}
_OF_OTHER_TRAINERS = ("label_smoothing_factor", "train_sampling_strategy", "length_column_name")
"""Fields that GRPO's own loss and sampler ignore."""
_OFF = {
    "eval_strategy": "no", "eval_delay": 0, "eval_do_concat_batches": True, "local_rank": -1,
    **dict.fromkeys((
        "save_only_model", "enable_jit_checkpoint", "do_eval", "load_best_model_at_end", "push_to_hub",
        "trust_remote_code", "do_predict", "hub_always_push", "eval_on_start",
        "prediction_loss_only", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval",
        "eval_use_gather_object",
    ), False),
    **dict.fromkeys((
        "eval_steps", "eval_packing", "eval_accumulation_steps", "num_generations_eval", "metric_for_best_model",
        "greater_is_better", "hub_private_repo", "hub_revision", "label_names",
    )),
}  # fmt: skip
"""Values of the above that have no effect."""


def check_bound(where: str, key: str, value: Any) -> None:
    """Checks a number against the bound of its key, if it has one. null passes."""
    rule = _BOUND_OF.get(key)
    if rule and isinstance(value, int | float) and not isinstance(value, bool) and not _RULES[rule](value):
        raise ConfigError(f"{where} is {value!r}; it must be {rule}")


def check_rule(where: str, value: Any, rule: str) -> None:
    """Checks a number against a rule of this module, such as "at least 1". null passes."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not _RULES[rule](value)):
        raise ConfigError(f"{where} is {value!r}; it must be {rule}")


def check_finite(where: str, value: Any) -> None:
    """Raises ConfigError if a number in `value`, at any depth, is nan or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value!r}; it must be a number")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        check_finite(f"{where}.{key}" if where else str(key), item)


def check_choice(where: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raises ConfigError if `value` is not in `known`. 1 is not True."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in known):
        words = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in known]
        near = difflib.get_close_matches(str(value), words, n=5, cutoff=0.3) if len(words) > _MOST_SHOWN else words
        shown = ", ".join(near or words) + (", …" if len(near) < len(words) else "")
        hint = quotes_hint(value) if isinstance(value, bool) and not any(isinstance(c, bool) for c in known) else ""
        raise ConfigError(f"{where} is {value!r}; it must be one of {shown}{hint}")


def check_trainer(stage: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section `sft` or `rl` with every value converted to its field's type.

    Raises:
        ConfigError: one line on the first mistake.
    """
    name = "SFTConfig" if stage == "sft" else "EpisodeGRPOConfig"
    for key, instead in (_ELSEWHERE | (_ELSEWHERE_SFT if stage == "sft" else {})).items():
        if key in section and section[key] != _OFF.get(key, ...):
            raise ConfigError(f"{stage}.{key} is set by the run itself: leave it out ({instead})")
    for key, place in _ELSEWHERE_RL.items() if stage == "rl" else ():
        if key in section:
            raise ConfigError(f"rl.{key} is set by {place}: leave it out")
    checked = check_section(stage, dict(section), library_fields(name))
    for key in _OF_OTHER_TRAINERS if stage == "rl" else ():
        if checked.get(key) not in (None, 0, "random"):
            raise ConfigError(f"rl.{key} is {checked[key]!r}, which RL does not use: leave it out")
    if stage == "rl" and checked.get("remove_unused_columns"):
        raise ConfigError("rl.remove_unused_columns would remove the columns that the rewards read: leave it out")
    for key in ("num_generations", "max_completion_length"):
        if checked.get(key, 1) is None:
            raise ConfigError(f"{stage}.{key} is None; it must be a whole number")
    recompute = checked.get("gradient_checkpointing_kwargs")
    if isinstance(recompute, dict):
        check_section(f"{stage}.gradient_checkpointing_kwargs", recompute, _RECOMPUTE)
    for key, value in checked.items():
        choices = library_source(name).fields[key].choices or _COMMON_CHOICES.get(key, ())
        choices = choices or (CHOICES.get(key, ()) if stage == "rl" else ())
        if choices and value is not None:
            check_choice(f"{stage}.{key}", value, choices)
        check_bound(f"{stage}.{key}", key, value)
    trackers = checked.get("report_to")
    trackers = [trackers] if isinstance(trackers, str) else trackers or []
    for name in trackers:
        check_choice(f"{stage}.report_to", name, TRACKERS)
    if len(trackers) > 1 and {"all", "none"} & {*trackers}:
        raise ConfigError(f"{stage}.report_to is {trackers}: all and none can't be combined with others")
    if checked.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
        raise ConfigError(
            f"{stage}.lr_scheduler_type is {checked['lr_scheduler_type']!r}, which needs an evaluation: "
            f"{_NO_EVALUATION}"
        )
    if checked.get("save_strategy") == "best":
        raise ConfigError(f"{stage}.save_strategy is 'best', which needs an evaluation: {_NO_EVALUATION}")
    if checked.get("fp16") and checked.get("bf16"):
        raise ConfigError(f"{stage}.fp16 and {stage}.bf16 are mutually exclusive")
    _check_read(stage, checked)
    if stage == "rl":
        _check_groups(checked)
    return checked


def _check_read(stage: str, checked: Mapping[str, Any]) -> None:
    """Checks settings that require another one. Alone, they are not read, or torch fails on them in the first step."""
    for key in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if checked.get(key) and not checked.get("dataloader_num_workers"):
            raise ConfigError(
                f"{stage}.{key} needs {stage}.dataloader_num_workers of at least 1: set it, or leave this out"
            )
    schedule, optim = checked.get("lr_scheduler_type"), str(checked.get("optim"))
    if checked.get("lr_scheduler_kwargs") and schedule in ("constant", "constant_with_warmup"):
        raise ConfigError(f"{stage}.lr_scheduler_kwargs has no effect with lr_scheduler_type {schedule}: leave it out")
    if checked.get("optim_target_modules") and not optim.startswith(("galore", "apollo")):
        raise ConfigError(f"{stage}.optim_target_modules is for GaLore's and APOLLO's optimizers: leave it out")
    if checked.get("liger_kernel_config") and not checked.get("use_liger_kernel"):
        raise ConfigError(f"{stage}.liger_kernel_config needs {stage}.use_liger_kernel: set it, or leave it out")


def _check_groups(rl: Mapping[str, Any]) -> None:
    """Checks combinations of settings that don't depend on the number of ranks."""
    if rl.get("generation_batch_size") is not None and rl.get("steps_per_generation") is not None:
        raise ConfigError(
            "rl.generation_batch_size and rl.steps_per_generation are mutually exclusive: each determines the other"
        )
    low, high = (
        rl.get(f"vllm_importance_sampling_clip_{end}", default) for end, default in (("min", 0.5), ("max", 5.0))
    )
    if low is not None and high is not None and low >= high:
        raise ConfigError(
            f"rl.vllm_importance_sampling_clip_min ({low:g}) must be below vllm_importance_sampling_clip_max ({high:g})"
        )
    if rl.get("auto_find_batch_size"):
        raise ConfigError("rl.auto_find_batch_size would split groups: lower rl.max_tokens_per_microbatch instead")


def check_batch(rl: Mapping[str, Any], ranks: int) -> None:
    """Checks that a generation batch contains whole groups.

    Args:
        ranks: processes that train.

    Raises:
        ConfigError: it can't be divided.
    """
    slots = rl.get("steps_per_generation") or rl.get("gradient_accumulation_steps") or 1
    mine, group = rl.get("per_device_train_batch_size") or 8, rl.get("num_generations") or 8
    batch = rl.get("generation_batch_size") or mine * slots * ranks
    if batch % (mine * ranks):
        raise ConfigError(
            f"rl.generation_batch_size ({batch}) must be a multiple of the {mine * ranks} episodes of all ranks "
            f"(rl.per_device_train_batch_size {mine} x {ranks})"
        )
    if batch % group:
        raise ConfigError(
            f"a generation batch of {batch} episodes (rl.per_device_train_batch_size {mine} x {slots} x {ranks} ranks) "
            f"is not a multiple of rl.num_generations={group}: change one of them or --nproc"
        )


_LORA_SET = {"task_type": "CAUSAL_LM", "peft_type": "LORA", "inference_mode": False}


def check_lora(lora: Mapping[str, Any] | None) -> None:
    """Checks `model.lora`: fields of `peft.LoraConfig`.

    Raises:
        ConfigError: one line on the first mistake.
    """
    if (lora or {}).get("target_modules") in ([], ""):
        raise ConfigError("model.lora.target_modules is empty: name modules, or all-linear, or leave it out")
    if lora is not None and not lora:
        raise ConfigError("model.lora is empty: name its rank, as {r: 16}, or leave it out to train all weights")
    fields = library_source("LoraConfig").fields
    for key in ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "inference_mode"):
        if key in (lora or {}) and lora[key] != _LORA_SET.get(key):
            raise ConfigError(f"model.lora.{key} is set by the run itself: leave it out")
    for key, value in check_section("model.lora", dict(lora or {}), library_fields("LoraConfig")).items():
        if fields[key].choices:
            check_choice(f"model.lora.{key}", value, fields[key].choices)
        check_bound(f"model.lora.{key}", key, value)
