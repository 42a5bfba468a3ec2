"""Refuses settings of TRL and transformers that episodes can't honor, in one line each, instead of ignoring them.

It has no slow imports, so that a config is checked before anything starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rl.settings.library_source import cache_implementations, generation_settings
from rl.settings.schema import ConfigError, check_value
from rl.settings.trainer_rules import check_bound, check_choice

AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")
_OWN_ENGINE = {
    "vllm_gpu_memory_utilization": (0.3, "rollout.settings.gpu_memory_utilization"),
    "vllm_max_model_length": (None, "rollout.max_model_len"),
    "vllm_model_impl": ("vllm", "rollout.settings.model_impl"),
}
"""Used if the trainer starts vLLM itself: TRL's default, and the setting of a run that does the same."""

_SERVER = "servers are `rollout.engine: server` of a run, or rollout.remote.engine.ServerEngine as the trainer's engine"
_LOOP = "the protocol decides how an episode continues"
_REFUSED: dict[str, tuple[Any, str]] = {
    "vllm_mode": ("colocate", _SERVER),
    "vllm_server_base_url": (None, _SERVER),
    "vllm_server_host": ("0.0.0.0", _SERVER),
    "vllm_server_port": (8000, _SERVER),
    "vllm_server_timeout": (240.0, _SERVER),
    "vllm_group_port": (51216, _SERVER),
    "vllm_tensor_parallel_size": (
        1, "vLLM in the trainer's process runs on one device; `rollout.engine: server` shards it over several"
    ),
    "vllm_enable_sleep_mode": (False, "vLLM keeps its memory during the update; give it a smaller share of the GPU"),
    "vllm_structured_outputs_regex": (None, _LOOP),
    "use_transformers_continuous_batching": (False, "use vLLM, or transformers' plain `generate`"),
    "use_transformers_paged": (False, "use vLLM, or transformers' plain `generate`"),
    "transformers_continuous_batching_config": (None, "use vLLM, or transformers' plain `generate`"),
    "max_tool_calling_iterations": (None, f"episodes call no tools: {_LOOP}"),
    "fsdp": (None, "shard with DeepSpeed: deepspeed: configs/deepspeed/zero3.json"),
    "fsdp_config": (None, "shard with DeepSpeed: deepspeed: configs/deepspeed/zero3.json"),
    "parallelism_config": (None, "shard with DeepSpeed: deepspeed: configs/deepspeed/zero3.json"),
    "ds3_gather_for_generation": (True, "weights go to the engine whole, tensor by tensor"),
}  # fmt: skip
"""Each with the default that changes nothing, and what to do instead."""

_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "prefill_context_parallel_size")


def refuse_settings(where: str, settings: Mapping[str, Any], starts_vllm: bool = False) -> None:
    """Checks the settings of `EpisodeGRPOConfig`, either the given ones or all.

    Args:
        where: prefix of a setting's name in a message: "rl.", or empty.
        starts_vllm: whether the trainer starts vLLM with these settings; a run uses its section `rollout` instead.

    Raises:
        ConfigError: a value can't be honored.
    """
    for name, (default, instead) in _REFUSED.items():
        value = settings.get(name, default)
        if not _same(value, default) and (value or default):
            raise ConfigError(f"{where}{name} is {_shown(value)}, which is not supported: {instead}")
    for name, (default, instead) in _OWN_ENGINE.items():
        if not starts_vllm and not _same(settings.get(name, default), default):
            raise ConfigError(
                f"{where}{name} is {_shown(settings[name])}, which would have no effect: a run sets {instead}; from "
                "Python, it needs use_vllm=True and no engine"
            )
    aggregation = settings.get("multi_objective_aggregation", AGGREGATIONS[0])
    if aggregation not in AGGREGATIONS:
        raise ConfigError(
            f"{where}multi_objective_aggregation is {_shown(aggregation)}; it must be {' or '.join(AGGREGATIONS)}"
        )
    given = settings.get("generation_kwargs")
    if given is not None:
        read_generation_kwargs(where, given, settings.get("temperature", 1.0))


def refuse_engine_settings(where: str, engine: str, settings: Mapping[str, Any]) -> None:
    """Checks the settings of an engine that receives the policy's weights at every step.

    Raises:
        ConfigError: vLLM would use several devices inside the trainer's process.
    """
    for name in _PARALLEL if engine == "vllm" else ():
        if settings.get(name, 1) not in (None, 1):
            raise ConfigError(
                f"{where}{name} is {_shown(settings[name])}: vLLM in the trainer's process runs on one device. Start "
                f"`sawtooth serve-rollouts` with it and name the server in rollout.urls"
            )


def refuse_rewards(where: str, settings: Mapping[str, Any], rewards: list[Any]) -> None:
    """Checks the settings that apply to a run's list of rewards (its entries, or `Reward`s).

    Raises:
        ConfigError: `reward_weights` in addition to a reward's own weight, or not one per reward; or each reward is to
            be normalized separately, but one multiplies the others.
    """

    def part(reward: Any, key: str, default: Any) -> Any:
        return reward.get(key, default) if isinstance(reward, Mapping) else getattr(reward, key, default)

    weights = settings.get("reward_weights")
    if weights is not None:
        if len(weights) != len(rewards):
            raise ConfigError(
                f"{where}reward_weights contains {len(weights)} weights for {len(rewards)} rewards: give one per reward"
            )
        for number, reward in enumerate(rewards):
            if not _same(part(reward, "weight", 1.0), 1.0):
                raise ConfigError(
                    f"reward {number + 1} has its own weight next to {where}reward_weights: leave one of them out"
                )
    if settings.get("multi_objective_aggregation", "sum_then_normalize") == "normalize_then_sum":
        for number, reward in enumerate(rewards):
            if part(reward, "combine", "add") != "add":
                raise ConfigError(
                    f"reward {number + 1} multiplies the others, which {where}multi_objective_aggregation: "
                    "normalize_then_sum does not do: it normalizes each reward by itself, then adds them"
                )


def refuse_in_run(rl: Mapping[str, Any], engine: str, engine_settings: Mapping[str, Any], rewards: list[Any]) -> None:
    """Runs all these checks on the sections `rl`, `rollout` and `rewards` of a run's config.

    Raises:
        ConfigError: the first setting that can't be honored.
    """
    refuse_settings("rl.", rl)
    refuse_engine_settings("rollout.settings.", engine, engine_settings)
    refuse_rewards("rl.", rl, rewards)
    known = set(generation_settings()) | {*_FIELDS} if engine == "transformers" else VLLM_SETTINGS
    read_generation_kwargs("rl.", rl.get("generation_kwargs"), rl.get("temperature", 1.0), known)
    if rl.get("cache_implementation") is not None and engine != "transformers":
        raise ConfigError("rl.cache_implementation needs `rollout.engine: transformers`, whose setting it is")
    if rl.get("cache_implementation") is not None:
        check_choice("rl.cache_implementation", rl["cache_implementation"], cache_implementations())
    if rl.get("chat_template_kwargs"):
        raise ConfigError("rl.chat_template_kwargs would apply only to RL: set protocol.chat_template_kwargs")


_SET_ELSEWHERE = {
    **dict.fromkeys(("max_tokens", "max_new_tokens", "max_length"), "max_completion_length"),
    **dict.fromkeys(("n", "best_of", "num_return_sequences"), "num_generations"),
    "seed": "seeded_rollouts",
}
_OF_THE_LOOP = {
    "stop", "stop_strings", "stop_token_ids", "eos_token_id", "pad_token_id", "bos_token_id", "logprobs", "echo",
    "prompt_logprobs", "flat_logprobs", "logprob_token_ids", "detokenize", "skip_special_tokens", "output_kind",
    "output_scores", "output_logits", "return_dict_in_generate", "include_stop_str_in_output", "stream", "prompt",
    "truncate_prompt_tokens", "return_token_ids", "watermarking",
}  # fmt: skip
_FIELDS = ("top_p", "top_k", "min_p", "repetition_penalty")
VLLM_SETTINGS = {
    *_FIELDS, "temperature", "presence_penalty", "frequency_penalty", "ignore_eos", "min_tokens", "logit_bias",
    "allowed_token_ids", "bad_words", "thinking_token_budget", "spaces_between_special_tokens",
}  # fmt: skip
"""Settings that `generation_kwargs` may contain for vLLM, in this process and as a server."""


def read_generation_kwargs(
    where: str, given: Any, temperature: float, known: set[str] | None = None
) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """Reads TRL's `generation_kwargs`, which override the settings of the same names.

    Args:
        given: a mapping, or its JSON.
        known: names that the engine takes; None: not known here.

    Returns:
        fields of `Sampling`, and further settings under the engine's own names.

    Raises:
        ConfigError: a name that the episode loop sets itself, or that the engine doesn't know.
    """
    where = f"{where}generation_kwargs"
    try:
        given = json.loads(given) if isinstance(given, str) else given or {}
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is {given!r}, which is not JSON: {error}") from error
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} is {_shown(given)}; it must contain settings, such as {{min_tokens: 4}}")
    fields: dict[str, Any] = {}
    further: dict[str, Any] = {}
    for name, value in given.items():
        if name == "temperature" and value == temperature:
            continue
        if name == "temperature":
            raise ConfigError(f"{where}.temperature is {_shown(value)}: set temperature, which the loss uses too")
        if name in _SET_ELSEWHERE:
            raise ConfigError(f"{where}.{name} is not supported: set {_SET_ELSEWHERE[name]}")
        if name in _OF_THE_LOOP:
            raise ConfigError(f"{where}.{name} is not supported: the episode loop sets it itself")
        if known is not None and name not in known:
            raise ConfigError(
                f"{where}.{name} is not a setting of this engine; it takes {', '.join(sorted(known)[:40])}"
            )
        if name in _FIELDS:
            value = check_value(f"{where}.{name}", value, "int" if name == "top_k" else "float")
            check_bound(f"{where}.{name}", name, value)
            fields[name] = value
        else:
            further[name] = value
    return fields, tuple(further.items())


def _same(value: Any, default: Any) -> bool:
    return value is default or (value == default and isinstance(value, bool) == isinstance(default, bool))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
