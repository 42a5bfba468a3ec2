"""All that can be known of a run before its first stage: `run`, each stage, `plan` and `--dry-run` say the same.

What one section shows is checked as the config is read (`rl.run_config`); here is what lies outside of it: functions,
files, the checkpoint, the number of ranks, and the libraries' own checks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rewards.load import load_rewards
from rl.checkpoint import check_local
from rl.library_source import engine_arguments, library_source
from rl.run_config import RunConfig
from rl.schema import ConfigError, check_installed, unknown_key
from rl.trainer_rules import CHOICES, SURE, check_batch, check_bound
from rollout.gym import PREFIX
from rollout.plugins import is_function_spec, load_function
from rollout.sources import check_settings, is_local_file

_OF_SETS = ("label", "prompt", "verifier", "difficulty")  # what `data.eval` takes beside a source's own settings
CLASSES = {"sft": "SFTConfig", "rl": "EpisodeGRPOConfig"}


def check_run(config: RunConfig, path: str, overrides: list[str], ranks: int | None) -> None:
    """Stops at the first mistake.

    Args:
        path, overrides: what the config was read from, for a process that asks the libraries themselves.
        ranks: processes that train; None: not known.

    Raises:
        ConfigError, ValueError: one line on what is wrong and where.
    """
    if not config.stages:
        raise ConfigError(
            f"{config.name} has no stage: name data.traces (for SFT), data.questions (for RL) or data.eval"
        )
    to_do = [stage for stage in config.stages if not (config.folder / stage / "done.json").exists()]
    _check_data(config, to_do)
    context = _check_model(config)
    if "rl" in to_do or "eval" in to_do:
        _check_rewards(config)
    if config.rl is not None and ranks is not None:
        check_batch(config.rl, ranks)
    _check_engine("rollout.settings", config.rollout.engine, config.rollout.settings)
    if "data" in to_do:
        _check_engine("summarizer.settings", config.summarizer.engine, config.summarizer.settings)
    _check_lengths(config, context)
    for stage in config.trained:
        check_installed(f"{stage}.", getattr(config, stage))
        _check_deepspeed(stage, getattr(config, stage).get("deepspeed"))
    if any(unsure(stage, getattr(config, stage)) for stage in config.trained):
        _ask_libraries(path, overrides, ranks or 1)


def _check_rewards(config: RunConfig) -> None:
    try:
        rewards = load_rewards(config.rewards, config.protocol)
    except (ValueError, TypeError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except Exception as error:  # a user's file: whatever it does
        raise ConfigError(f"rewards: a file fails as it is loaded: {type(error).__name__}: {error}") from error
    dynamic = config.rl is not None and config.rl.get("dynamic_sampling")
    if dynamic and not any(reward.verifier for reward in rewards):
        raise ConfigError("rl.dynamic_sampling looks at accuracy: it needs the `answer` reward or another verifier")


def _check_data(config: RunConfig, to_do: list[str]) -> None:
    """Each stage has what it works on, as far as that is on this machine; what is finished needs it no more."""
    data = config.data
    if config.sft is not None and not (data.traces or data.prepared):
        raise ConfigError(
            "data.traces is missing, which `sft` trains on (or data.prepared); `sft: null` leaves SFT out"
        )
    if config.rl is not None and not data.questions:
        raise ConfigError("data.questions is missing, which `rl` rolls out; `rl: null` leaves RL out")
    if "data" in to_do:
        _check_source("data.traces", data.traces)
    if "rl" in to_do:
        _check_source("data.questions", data.questions)
    for name, source in data.eval.items() if "eval" in to_do else ():
        if not source:
            raise ConfigError(f"data.eval.{name} names no source: a Hub data set, a local file, or path.py:function")
        _check_source(f"data.eval.{name}", source)
    if "data" in to_do and data.traces and config.summarizer.fn:
        _check_function("summarizer.fn", config.summarizer.fn)


def _check_source(where: str, source: Any) -> None:
    spec = source.get("source") if isinstance(source, dict) else source
    if source and not isinstance(spec, str):
        raise ConfigError(f"{where} names no source: a Hub data set, a local file, or path.py:function")
    if not spec:
        return
    if is_function_spec(spec) and not spec.startswith(PREFIX):
        _check_function(where, spec)
    settings = {key: value for key, value in source.items() if key != "source"} if isinstance(source, dict) else {}
    if where.startswith("data.eval."):
        settings = {key: value for key, value in settings.items() if key not in _OF_SETS}
    try:
        check_settings(spec, settings)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if is_local_file(spec) and not Path(spec).exists():
        raise ConfigError(f"{where}: data file {spec} does not exist")


def _check_function(where: str, spec: str) -> None:
    try:
        load_function(spec)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    except Exception as error:  # a user's file: whatever it does
        raise ConfigError(f"{where}: {spec} fails as it is loaded: {type(error).__name__}: {error}") from error


def _check_model(config: RunConfig) -> int | None:
    """Returns the model's context, where it is known here."""
    model = config.model
    if model.build:
        _check_function("model.build", model.build)
    folder = Path(model.path or config.folder / "base")
    if folder.exists() and not (model.build and not (folder / "config.json").exists()):
        starts_with_rl = config.rl is not None and config.sft is None
        return check_local(folder, config.rollout, config.protocol if starts_with_rl else None)
    if not model.build and (model.path.startswith(("/", "./", "../")) or model.path.count("/") > 1):
        raise ConfigError(f"model.path: there is no folder {model.path}")
    return None


def _check_engine(where: str, engine: str, settings: dict[str, Any]) -> None:
    """Arguments of `vllm.LLM`: a mistyped one is said now, not when the engine starts."""
    known = engine_arguments() if engine == "vllm" else ()
    for key, value in settings.items():
        if known and key not in known:
            raise unknown_key(where, key, known)
        check_bound(f"{where}.{key}", key, value)


def _check_lengths(config: RunConfig, context: int | None) -> None:
    """A completion leaves room for its prompt."""
    given = config.rollout.max_model_len
    most, what = given or context, "rollout.max_model_len" if given else "the model's context"
    asked = {"rl.max_completion_length": (config.rl or {}).get("max_completion_length")}
    if config.data.eval:
        asked["eval.max_tokens"] = config.eval.max_tokens
    for where, tokens in asked.items():
        if most and tokens and tokens >= most:
            raise ConfigError(f"{where} is {tokens}, {what} {most}: that leaves no room for a prompt")


def _check_deepspeed(stage: str, given: Any) -> None:
    if isinstance(given, str):
        if not Path(given).is_file():
            raise ConfigError(f"{stage}.deepspeed: there is no file {given}")
        try:
            json.loads(Path(given).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{stage}.deepspeed: {given} is not JSON: {error}") from error


def unsure(stage: str, section: dict[str, Any]) -> list[str]:
    """Given fields that the library's constructor looks at and `rl.trainer_rules` does not wholly decide."""
    source = library_source(CLASSES[stage])
    decided = SURE | {key for key, field in source.fields.items() if field.choices} | CHOICES.keys()
    return [key for key, value in section.items() if key in source.looked_at - decided and value not in (None, False)]


def _ask_libraries(path: str, overrides: list[str], ranks: int) -> None:
    """Makes the trainers' arguments in a process of its own: that takes seconds, and leaves its traces."""
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launched}  # it is no rank
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "rl.construct", str(ranks), path, *overrides]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("sawtooth: ")]
        line = lines[-1].removeprefix("sawtooth: ") if lines else " ".join(result.stderr.split())[-300:]
        raise ConfigError(line)
