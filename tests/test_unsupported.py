"""Settings of TRL that episodes can't honor: each is refused in one line, in a config and from Python."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from datasets import Dataset
from trl import GRPOConfig

from rl.app.run_config import load_config
from rl.config import EpisodeGRPOConfig
from rl.settings.schema import ConfigError
from rl.settings.unsupported import refuse_in_run, refuse_settings
from rl.trainer import EpisodeGRPOTrainer
from tests.test_trl_users import QUESTIONS, length, settings

REFUSED = {
    "vllm_mode": "server",
    "vllm_server_host": "other",
    "vllm_tensor_parallel_size": 4,
    "vllm_enable_sleep_mode": True,
    "vllm_gpu_memory_utilization": 0.5,
    "vllm_max_model_length": 512,
    "vllm_model_impl": "transformers",
    "vllm_structured_outputs_regex": "a+",
    "use_transformers_continuous_batching": True,
    "fsdp": "full_shard",
    "max_tool_calling_iterations": 3,
    "ds3_gather_for_generation": False,
    "log_unique_prompts": True,
    "generation_kwargs": {"num_return_sequences": 2},
    "cache_implementation": "static",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_nothing_honors_is_refused_in_one_line(tiny_model, tokenizer, tmp_path, name):
    args = GRPOConfig(**settings(tmp_path))
    setattr(args, name, REFUSED[name])
    given = Dataset.from_list([{"prompt": q} for q in QUESTIONS])
    with pytest.raises(ConfigError, match=name) as caught:
        EpisodeGRPOTrainer(tiny_model, length, args, given, processing_class=tokenizer, engine=object())
    assert "\n" not in str(caught.value)


def test_defaults_and_what_is_read_are_not_refused(tmp_path):
    for config in (GRPOConfig, EpisodeGRPOConfig):
        args = dataclasses.asdict(config(**settings(tmp_path)))
        refuse_settings("", args)
        refuse_settings("", args | {"vllm_gpu_memory_utilization": 0.5, "vllm_max_model_length": 64}, starts_vllm=True)


@pytest.mark.parametrize(
    ("rl", "engine", "engine_settings", "message"),
    [
        ({"vllm_gpu_memory_utilization": 0.5}, "vllm", {}, "rollout.settings.gpu_memory_utilization"),
        ({"multi_objective_aggregation": "sum"}, "vllm", {}, "multi_objective_aggregation is sum; it must be"),
        ({"fsdp": "full_shard"}, "vllm", {}, "rl.fsdp is full_shard"),
        ({}, "vllm", {"tensor_parallel_size": 2}, "rollout.settings.tensor_parallel_size is 2"),
        ({"generation_kwargs": {"num_beams": 2}}, "vllm", {}, "rl.generation_kwargs.num_beams is not a setting"),
        ({"generation_kwargs": {"max_tokens": 2}}, "server", {}, "set max_completion_length"),
        ({"generation_kwargs": {"temperature": 0.5}}, "server", {}, "set temperature"),
        ({"generation_kwargs": {"stop": "x"}}, "vllm", {}, "the episode loop sets it itself"),
        ({"reward_weights": [1.0]}, "vllm", {}, "1 weights for 2 rewards"),
        ({"reward_weights": [1.0, 2.0]}, "vllm", {}, "reward 2 has its own weight"),
        ({"chat_template_kwargs": {"a": 1}}, "vllm", {}, "set protocol.chat_template_kwargs"),
        ({"cache_implementation": "static"}, "vllm", {}, "rollout.engine: transformers"),
    ],
)
def test_a_runs_config_is_refused_before_anything_starts(rl, engine, engine_settings, message):
    with pytest.raises(ConfigError, match=message):
        refuse_in_run(rl, engine, engine_settings, [{"fn": "answer"}, {"fn": "kimi", "weight": 0.5}])


def test_a_config_says_so_too():
    config = next(iter(sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))))
    assert load_config(config, ["--rewards=[{model: some/judge, weight: 0.5}]"]).rewards[0]["model"] == "some/judge"
    with pytest.raises(ConfigError, match=r"rl\.fsdp is full_shard, which is not supported"):
        load_config(config, ["--rl.fsdp=full_shard"])
    with pytest.raises(ConfigError, match=r"which would have no effect: a run sets rollout\.settings\.model_impl"):
        load_config(config, ["--rl.vllm_model_impl=transformers"])


def test_what_an_engine_takes_in_a_run_passes():
    given = {"generation_kwargs": {"min_tokens": 4, "top_k": 5}, "reward_weights": [1, 0.5]}
    refuse_in_run(given, "vllm", {"tensor_parallel_size": 1, "gpu_memory_utilization": 0.4}, [{"fn": "answer"}] * 2)
    refuse_in_run({"generation_kwargs": {"num_beams": 2}}, "transformers", {}, [{"fn": "answer"}])


def test_tools_and_images_are_refused(tiny_model, tokenizer, tmp_path):
    def tool():
        pass

    for extra, rows in (
        ({"tools": [tool]}, [{"prompt": "a"}]),
        ({"rollout_func": tool}, [{"prompt": "a"}]),
        ({"environment_factory": tool}, [{"prompt": "a"}]),
        ({}, [{"prompt": "a", "image": "x"}]),
    ):
        args = GRPOConfig(**settings(tmp_path))
        with pytest.raises(ConfigError, match="|".join([*extra, "a column of images"])):
            EpisodeGRPOTrainer(tiny_model, length, args, Dataset.from_list(rows), processing_class=tokenizer, **extra)


def test_vllm_over_several_devices_is_refused_in_each_of_several_ranks(tiny_model, monkeypatch):
    from rollout.vllm_engine import VLLMEngine

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="tensor_parallel_size is 2, but each of several ranks"):
        VLLMEngine(tiny_model, tensor_parallel_size=2)
