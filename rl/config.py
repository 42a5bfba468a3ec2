"""`EpisodeGRPOConfig`: `trl.GRPOConfig` with the defaults of InftyThink+ and the settings that episodes need."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from transformers import ProcessorMixin
from transformers.utils.generic import is_flash_attention_requested
from trl import GRPOConfig

from rl.settings.schema import ConfigError, check_table
from rl.settings.unsupported import refuse_settings
from sft.isolation import rows_stay_apart


@dataclass
class EpisodeGRPOConfig(GRPOConfig):
    """All fields of `trl.GRPOConfig`. Batch sizes count episodes, `max_completion_length` limits one round's tokens.

    Defaults that differ from TRL's are the paper's (arXiv 2602.06960, section 4 and appendix): clip 0.20/0.26,
    IcePop with 0.5 and 5.
    """

    epsilon: float = field(default=0.2, metadata={"help": "The ratio is clipped at 1 - epsilon."})
    epsilon_high: float | None = field(default=0.26, metadata={"help": "The ratio is clipped at 1 + epsilon_high."})
    vllm_importance_sampling_mode: str = field(
        default="token_mask", metadata={"help": "token_mask is IcePop: a token's loss times k, or 0 outside the range."}
    )
    vllm_importance_sampling_clip_min: float | None = field(default=0.5, metadata={"help": "Minimum k of IcePop."})
    vllm_importance_sampling_clip_max: float | None = field(default=5.0, metadata={"help": "Maximum k of IcePop."})
    dynamic_sampling: bool = field(
        default=False,
        metadata={"help": "Leave out groups that are all right or all wrong, and roll out other questions for them."},
    )
    max_refills: int = field(default=3, metadata={"help": "Maximum number of such refills in one step."})
    async_steps: int = field(
        default=0,
        metadata={
            "help": "Generation batches that roll out while one trains (servers only). They are that many batches old "
            "when they are trained on; 0: strictly on-policy."
        },
    )
    seeded_rollouts: bool = field(
        default=False,
        metadata={"help": "Every request has its own seed: a resumed run equals an uninterrupted one."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "A nan loss is not hidden, and stops the run."}
    )
    max_tokens_per_microbatch: int = field(
        default=32768,
        metadata={"help": "Bound on the tokens of one forward pass, with its padding. The loss does not depend on it."},
    )
    padding_free: bool | None = field(
        default=None,
        metadata={
            "help": "Rows of a forward pass are concatenated, without padding. None: if the model's "
            "attention is FlashAttention, which treats them as separate sequences; others build a mask over all. "
            "A model whose layers carry a state over positions (Mamba, convolutions, …) is padded."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.async_steps < 0:
            raise ConfigError(f"async_steps is {self.async_steps}; it must be 0 or more")
        if self.max_tokens_per_microbatch < 1:
            raise ConfigError(f"max_tokens_per_microbatch is {self.max_tokens_per_microbatch}; it must be at least 1")


def is_padding_free(args: Any, model: Any, autocast: AbstractContextManager) -> bool:
    """Returns `padding_free` if it is set, else whether the model uses FlashAttention and keeps packed rows separate.

    Raises:
        InputError: it is set to True, but the model would mix packed rows.
    """
    wanted = getattr(args, "padding_free", None)
    if not (is_flash_attention_requested(model.config) if wanted is None else wanted):
        return False
    if rows_stay_apart(model, autocast):
        return True
    why = f"{model.config.model_type}'s layers carry a state from one row of a padding-free pass into the next"
    if wanted:
        raise ConfigError(f"padding_free: {why}; leave it out to pad the passes")
    print(f"rl: passes are padded, because {why}")
    return False


def refuse_unsupported(args: Any, given: Mapping[str, Any], starts_vllm: bool) -> None:
    """Raises ConfigError for options of TRL that episodes can't honor, instead of ignoring them.

    Args:
        given: the trainer's other arguments, by name.
        starts_vllm: whether the trainer starts vLLM with the settings in `args`.
    """
    for name in ("tools", "rollout_func", "environment_factory"):
        if given.get(name):
            raise ConfigError(
                f"EpisodeGRPOTrainer does not support {name}: the protocol decides how an episode continues"
            )
    if isinstance(given.get("processing_class"), ProcessorMixin):
        raise ConfigError("EpisodeGRPOTrainer trains text only: give a tokenizer, not a processor for images")
    columns = getattr(given.get("train_dataset"), "column_names", None) or ()
    if {"image", "images"} & {*columns}:
        raise ConfigError("EpisodeGRPOTrainer trains text only: the dataset has a column of images")
    refuse_settings("", vars(args), starts_vllm)
    check_table("", vars(args) | {"log_completions": False})  # without a tracker, episodes are stored in a folder
