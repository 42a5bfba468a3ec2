"""What the check of a config knows: the libraries' choices, the model's context, the stages, any value in any field."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import yaml

from rl.app import preflight
from rl.app.preflight import check_run
from rl.app.run_config import _SECTIONS, load_config, parse_config
from rl.settings.library_source import engine_arguments, library_source
from rl.settings.schema import ConfigError
from rl.settings.trainer_rules import CHOICES, SURE, TRACKERS
from rollout.protocol import SPECIAL_TOKENS, RoundProtocol
from tests.test_bad_configs import GOOD, work, write  # noqa: F401 -- a fixture


@pytest.mark.parametrize("section", ["sft", "rl"])
@pytest.mark.parametrize(
    "key", ["output_dir", "seed", "push_to_hub", "hub_token", "model_init_kwargs", "eval_strategy"]
)
def test_what_the_run_sets_itself(section, key):
    raw = {"name": "x", "model": {"path": "m"}, "data": {"traces": "t", "questions": "q"}, section: {key: "x"}}
    with pytest.raises(ConfigError, match=f"{section}.{key} is set by the run itself: leave it out"):
        parse_config(raw)


def test_settings_of_sft_that_nothing_would_read():
    for key in ("dataset_text_field", "chat_template_path", "assistant_only_loss", "truncation_mode"):
        with pytest.raises(ConfigError, match=f"sft.{key} is set by the run itself"):
            parse_config({"name": "x", "model": {"path": "m"}, "data": {"traces": "t"}, "sft": {key: "x"}})


def test_paths_are_written_out(work, monkeypatch):  # noqa: F811
    monkeypatch.setenv("HOME", str(work))
    monkeypatch.setenv("DATA", "q")
    config = load_config(
        write(work), ["model.path=~/model", "data.questions=${DATA}.jsonl", "rewards.0.fn=~/mine.py:paid"]
    )
    assert (config.model.path, config.data.questions) == (f"{work}/model", "q.jsonl")
    assert config.rewards[0]["fn"] == f"{work}/mine.py:paid"
    check_run(config, "x.yaml", [], 2)


def test_the_choices_are_those_of_the_libraries():
    def source(package, file):
        return (Path(importlib.util.find_spec(package).submodule_search_locations[0]) / file).read_text()

    integrations = source("transformers", "integrations/integration_utils.py")
    callbacks = integrations.partition("INTEGRATION_TO_CALLBACK = {")[2].partition("}")[0]
    assert {*TRACKERS} == {"all", "none", *re.findall(r'"(\w+)":', callbacks)}
    trainer = source("trl", "trainer/grpo_trainer.py")
    for key in ("loss_type", "importance_sampling_level", "vllm_importance_sampling_mode"):
        compared = re.findall(rf"\.{key} (?:==|in|not in) (\[[^\]]*\]|\"\w+\")", trainer)
        assert {*re.findall(r'"(\w+)"', " ".join(compared))} == {*CHOICES[key]}, key
    fields = library_source("SFTConfig").fields.keys() | library_source("EpisodeGRPOConfig").fields
    others = library_source("LoraConfig").fields.keys() | engine_arguments().keys() | {"batch_size"}
    assert not {*CHOICES} - fields and not SURE - fields - others


def fields_of_all_sections():
    own = {name: [f.name for f in dataclasses.fields(kind)] for name, kind in _SECTIONS.items()}
    own |= {"protocol": [f.name for f in dataclasses.fields(RoundProtocol)]}
    own |= {"sft": [*library_source("SFTConfig").fields], "rl": [*library_source("EpisodeGRPOConfig").fields]}
    own |= {"rewards": ["fn", "weight", "combine", "name", "gate", "time_limit", "verifier", "further"]}
    return own


ODD = [None, True, -1, 0, 1.5, math.nan, math.inf, 10**400, "", "x", [], {}, [None], [[1]], [{}], {"a": None}, {1: 2}]


def test_whatever_stands_in_a_field_it_is_taken_or_refused_in_one_line(work, monkeypatch):  # noqa: F811
    monkeypatch.setattr(preflight, "_ask_libraries", lambda *_: None)  # ten seconds each
    base = yaml.safe_load(GOOD) | {"name": "x"}
    base["data"] |= {"traces": "q.jsonl"}
    refusals = 0
    for section, names in fields_of_all_sections().items():
        for name in names:
            for value in ODD:
                raw = copy.deepcopy(base)
                (raw["rewards"][0] if section == "rewards" else raw.setdefault(section, {}))[name] = value
                try:
                    config = parse_config(raw)
                    check_run(config, "x.yaml", [], 1)
                    if value in ("x", 1.5):
                        assert parse_config(yaml.safe_load(config.to_yaml())) == config  # as a run folder keeps it
                except ValueError as error:
                    refusals += 1
                    assert "\n" not in str(error), (section, name, value)
    assert refusals > 3000


def test_a_model_that_knows_the_rounds_needs_no_sft(work):  # noqa: F811
    tokens = {"added_tokens": [{"content": token} for token in SPECIAL_TOKENS], "model": {"vocab": {}}}
    (work / "model/tokenizer.json").write_text(json.dumps(tokens))
    check_run(load_config(write(work), ["protocol.name=inftythink"]), "x.yaml", [], 1)


@pytest.mark.parametrize(
    ("rope", "fits"),
    [
        (None, False),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}, True),
        ({"rope_type": "linear", "factor": 2.0}, True),
        ({"rope_type": "llama3", "factor": 8.0}, False),
    ],
)
def test_a_stretched_context_counts(work, rope, fits):  # noqa: F811
    settings = {"max_position_embeddings": 512, "rope_scaling": rope}
    (work / "model/config.json").write_text(json.dumps({"text_config": settings}))
    config = load_config(write(work), ["rollout.max_model_len=1024"])
    if fits:
        check_run(config, "x.yaml", [], 1)
    else:
        with pytest.raises(ConfigError, match="above the context of model, which is 512"):
            check_run(config, "x.yaml", [], 1)


def test_the_stages_follow_from_what_is_there():
    def stages(data, **raw):
        config = parse_config({"name": "x", "model": {"path": "m"}, "data": data, **raw})
        return config.stages, config.eval.stages

    both = {"traces": "t", "questions": "q", "eval": {"a": "e"}}
    assert stages(both) == (["data", "sft", "rl", "eval", "export"], ["sft", "rl"])
    assert stages(both, sft=None) == (["data", "rl", "eval", "export"], ["base", "rl"])
    assert stages(both, rl=None) == (["data", "sft", "eval", "export"], ["base", "sft"])
    assert stages({**both, "traces": None}) == (["rl", "eval", "export"], ["base", "rl"])
    assert stages({"eval": {"a": "e"}}) == (["eval"], ["base"])
    assert stages({"prepared": "p"}) == (["data", "sft", "export"], ["base", "sft"])
    assert stages({}) == ([], ["base"])
    assert stages(both, sft=None, rl={}, eval={"stages": ["rl"]})[1] == ["rl"]
