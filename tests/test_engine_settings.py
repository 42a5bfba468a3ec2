"""Settings of engines: what one does not have is refused in one line, and none is dropped without a word."""

from __future__ import annotations

import inspect

import pytest
from transformers import AutoModelForCausalLM

from rl.app.preflight import _BY_THE_RUN, _ENGINE_SETTINGS
from rollout.engines import make_engine
from rollout.errors import ConfigError
from rollout.hf_engine import TransformersEngine
from rollout.remote.engine import ServerEngine
from rollout.types import Sampling


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        ("transformers", {"batchsize": 3}, "the transformers engine has no setting 'batchsize': did you mean"),
        ("transformers", {"seed": 0}, "the transformers engine has no setting 'seed'"),
        ("server", {"tires": 3}, "`sawtooth serve-rollouts`) has no setting 'tires': did you mean 'tries'?"),
        ("vllm", {"gpu_memory_utilisation": 1}, "'gpu_memory_utilisation': did you mean 'gpu_memory_utilization'?"),
        ("vllm", {"logprobs_mode": "raw_logprobs"}, "vLLM has no setting 'logprobs_mode'"),
        ("vlm", {}, "rollout.engine is 'vlm'; known engines: vllm, transformers, server"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_one(tiny_model, tokenizer, kind, setting, message):
    with pytest.raises(ConfigError) as error:
        make_engine(kind, model_path=tiny_model, tokenizer=tokenizer, **setting)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_config_is_checked_by_what_the_engines_take():
    for kind, engine in (("transformers", TransformersEngine), ("server", ServerEngine)):
        given = {*_BY_THE_RUN, "log", "ends"}
        assert inspect.signature(engine).parameters.keys() - given == {*_ENGINE_SETTINGS[kind]}


def test_transformers_keeps_to_max_model_len(tiny_model, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    engine = make_engine("transformers", model_path=tiny_model, model=model, tokenizer=tokenizer, max_model_len=9)
    ids = tokenizer.encode("a=1 ?") * 9
    engine.submit(0, ids[:6], Sampling(max_tokens=20, seed=0, banned_ids=engine.ends))
    assert len(engine.poll()[0].token_ids) == 3
    with pytest.raises(ValueError, match="a prompt of 9 tokens leaves no room in a context of 9"):
        engine.submit(1, ids[:9], Sampling())
