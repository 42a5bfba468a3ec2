"""Checks all that is known about a run before its first stage, equally for `run`, each stage, `plan` and `--dry-run`.

Checks within the config run when it is read (`rl.app.run_config`). The checks here need more than the config:
functions, files, the checkpoint, the number of ranks, and the libraries' own checks.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from rewards.load import load_rewards
from rl.app.data_config import check_summarizer
from rl.app.run_config import RunConfig
from rl.app.run_files import is_done
from rl.evaluation.names import file_name
from rl.evaluation.variants import as_list
from rl.settings.checkpoint import check_local
from rl.settings.library_source import deepspeed_settings, engine_arguments, library_source
from rl.settings.schema import ConfigError, check_installed, check_section, check_value, quotes_hint, unknown_key
from rl.settings.trainer_rules import CHOICES, SURE, check_batch, check_bound, check_rule
from rollout.errors import UserError
from rollout.gym import PREFIX
from rollout.plugins import is_function_spec, load_function
from rollout.protocol import get_protocol
from sft.data.settings import SummarizerSettings
from sft.data.sources import check_settings, first_rows, is_local_file

_OF_SETS = ("label", "prompt", "verifier", "difficulty")  # settings of `data.eval` in addition to a source's own
_BY_THE_RUN = ("model", "tokenizer", "seed", "max_model_len", "dtype", "model_path", "urls", "weights_dir", "writer",
               "logprobs_mode")  # fmt: skip
_ENGINE_SETTINGS = {
    "transformers": ("batch_size",),
    "server": ("request_timeout", "tries", "heartbeat", "heartbeat_timeout", "patience"),
}
_PLAIN_SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
_OWN_TRACKERS = {"all", "none", "tensorboard", "trackio", "wandb"}
_PLAIN_LORA = {"r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "target_modules", "task_type"}
CLASSES = {"sft": "SFTConfig", "rl": "EpisodeGRPOConfig"}


def check_run(config: RunConfig, path: str, overrides: list[str], ranks: int | None) -> None:
    """Checks a run; raises at the first mistake.

    Args:
        path, overrides: source of the config, for a process that runs the libraries' own checks.
        ranks: processes that train; None: not known.

    Raises:
        UserError: one line on what is wrong and where.
    """
    if not config.stages:
        raise ConfigError(
            f"{config.name} has no stage: name data.traces (for SFT), data.questions (for RL) or data.eval"
        )
    to_do = [stage for stage in config.stages if not is_done(config.folder / stage)]
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
    sure = not (config.trained and _lora_is_unsure(config.model.lora))
    if not sure or any(unsure(stage, getattr(config, stage)) for stage in config.trained):
        _ask_libraries(path, overrides, ranks or 1)


def _check_rewards(config: RunConfig) -> None:
    try:
        rewards = load_rewards(config.rewards, config.protocol)
    except UserError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    dynamic = config.rl is not None and config.rl.get("dynamic_sampling")
    if dynamic and not any(reward.verifier for reward in rewards):
        raise ConfigError("rl.dynamic_sampling looks at accuracy: it needs the `answer` reward or another verifier")


def _check_data(config: RunConfig, to_do: list[str]) -> None:
    """Checks that each unfinished stage has its data, as far as that is on this machine."""
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
        _check_set(name, source)
        if not source:
            raise ConfigError(f"data.eval.{name} has no source: set a Hub data set, a local file, or path.py:function")
        _check_source(f"data.eval.{name}", source)
    writer = config.summarizer.fn or config.summarizer.url or config.summarizer.engine
    if "data" in to_do and data.traces and config.protocol.name == "inftythink" and not writer:
        raise ConfigError("summarizer has no source of summaries: set fn, url or engine")
    if "data" in to_do and data.traces and config.summarizer.fn:
        _check_function("summarizer.fn", config.summarizer.fn, "question", "summary", "segment")
    for entry in data.decontaminate if "data" in to_do and data.traces else ():
        if isinstance(entry, dict) or is_local_file(entry) or is_function_spec(entry):
            _check_source("data.decontaminate", entry)
    for summarizer in as_list(config.eval.summarizer) or () if "eval" in to_do else ():
        _check_eval_summarizer(summarizer)


def _check_eval_summarizer(summarizer: str | dict[str, Any]) -> None:
    if isinstance(summarizer, dict):
        settings = SummarizerSettings(
            **check_section("eval.summarizer", summarizer, {f.name: f.type for f in fields(SummarizerSettings)})
        )
        check_summarizer(settings)
        if not (settings.fn or settings.url or settings.engine):
            raise ConfigError("eval.summarizer has no source of summaries: set fn, url or engine, as in `summarizer:`")
        if settings.fn:
            _check_function("eval.summarizer", settings.fn, "question", "summary", "segment")
    elif is_function_spec(summarizer):
        _check_function("eval.summarizer", summarizer, "question", "summary", "segment")
    elif summarizer.startswith(("/", "./", "../")) and not Path(summarizer).exists():
        raise ConfigError(f"eval.summarizer: there is no folder {summarizer}")


def _check_set(name: Any, source: Any) -> None:
    """Checks a set of `data.eval`: its name, and the settings in addition to a source's own."""
    if not isinstance(name, str) or not name.strip() or not file_name([name]).strip("._-"):
        raise ConfigError(f"data.eval contains the name {name!r}: a set's name must be text{quotes_hint(name)}")
    for key in _OF_SETS if isinstance(source, dict) else ():
        value = source.get(key)
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"data.eval.{name}.{key} is {value!r}; it must be text")
        if key == "prompt" and value is not None and "{question}" not in value:
            raise ConfigError(f"data.eval.{name}.prompt is {value!r}; it must contain {{question}}")
        if key == "verifier" and value is not None:
            try:
                load_rewards([{"fn": value, "verifier": True}], get_protocol("vanilla"))
            except UserError as error:
                raise ConfigError(f"data.eval.{name}.verifier: {str(error).removeprefix('rewards: ')}") from error


def _check_source(where: str, source: Any) -> None:
    spec = source.get("source") if isinstance(source, dict) else source
    if source and not isinstance(spec, str):
        raise ConfigError(f"{where} has no source: set a Hub data set, a local file, or path.py:function")
    if not spec:
        return
    if is_function_spec(spec) and not spec.startswith(PREFIX):
        _check_function(where, spec)
    settings = {key: value for key, value in source.items() if key != "source"} if isinstance(source, dict) else {}
    if where.startswith("data.eval."):
        settings = {key: value for key, value in settings.items() if key not in _OF_SETS}
    try:
        check_settings(spec, settings)
    except UserError as error:
        raise ConfigError(f"{where}: {error}") from error
    if is_local_file(spec) and not Path(spec).exists():
        raise ConfigError(f"{where}: data file {spec} does not exist")
    asked = where == "data.questions" or where.startswith("data.eval.")
    if asked and is_local_file(spec) and spec.endswith((".jsonl", ".csv", ".parquet")):
        _check_first_row(where, spec, settings)


def _check_first_row(where: str, spec: str, settings: dict[str, Any]) -> None:
    """Checks that the first row has the named columns and a question; the stage reports any other mistake."""
    with open(spec, "rb") as file:
        if not file.read(1):
            raise ConfigError(f"{where}: data file {spec} is empty")
    try:
        row = next(first_rows(spec), None)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(row, dict):
        return
    columns = settings.get("columns") or {}
    for theirs in [*columns.values(), *(() if "question" in columns or "prompt" in row else ["question"])]:
        if theirs not in row:
            raise ConfigError(
                f"{where}: {spec} has no column {theirs!r}; it has {', '.join(map(str, row))}: name it, as in "
                "{source: …, columns: {question: …}}"
            )


def _check_function(where: str, spec: str, *arguments: Any, **settings: Any) -> None:
    try:
        function = load_function(spec)
        if arguments:  # arguments of the later call; `check_settings` checks those of a source
            with contextlib.suppress(ValueError):  # a C function without a signature
                inspect.signature(function).bind(*arguments, **settings)
    except TypeError as error:
        raise ConfigError(f"{where}: {spec}: {error}") from error
    except UserError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_model(config: RunConfig) -> int | None:
    """Checks the model. Returns its context length, if it is known here."""
    model = config.model
    if model.build:
        _check_function("model.build", model.build, "folder", **{str(k): v for k, v in model.build_args.items()})
    folder = Path(model.path or config.folder / "base")
    if folder.exists() and not (model.build and not (folder / "config.json").exists()):
        starts_with_rl = config.rl is not None and config.sft is None
        pad = (config.sft or {}).get("pad_token")
        return check_local(folder, config.rollout, config.protocol if starts_with_rl else None, pad)
    if not model.build and (model.path.startswith(("/", "./", "../")) or model.path.count("/") > 1):
        raise ConfigError(f"model.path: there is no folder {model.path}")
    return None


def _check_engine(where: str, engine: str, settings: dict[str, Any]) -> None:
    """Checks the engine's arguments, so that a mistyped one is reported now, not when the engine starts."""
    known: Any = engine_arguments() if engine == "vllm" else _ENGINE_SETTINGS.get(engine, ())
    for key, value in settings.items():
        if key in _BY_THE_RUN and where == "rollout.settings":  # a summarizer's engine takes all of them
            raise ConfigError(f"{where}.{key} is set by the run itself: leave it out")
        if known and key not in known:
            raise unknown_key(where, key, known)
        if engine == "vllm" and known:
            fitted = check_value(f"{where}.{key}", value, known[key])
            if isinstance(value, str) and fitted != value:
                raise ConfigError(f"{where}.{key} is {value!r}, which YAML reads as text: write {fitted}")
        check_bound(f"{where}.{key}", key, value)
        if engine in _ENGINE_SETTINGS:
            check_rule(f"{where}.{key}", value, "above 0")


def _check_lengths(config: RunConfig, context: int | None) -> None:
    """Checks that rows fit the model's context, and that a completion leaves room for its prompt."""
    given = config.rollout.max_model_len
    most, what = given or context, "rollout.max_model_len" if given else "the model's context"
    asked = {"rl.max_completion_length": (config.rl or {}).get("max_completion_length")}
    if config.data.eval:
        asked["eval.max_tokens"] = config.eval.max_tokens
    rows = (config.sft or {}).get("max_length")
    if context and rows and rows > context:
        raise ConfigError(f"sft.max_length is {rows}, above the model's context, which is {context}: lower it")
    for where, tokens in asked.items():
        if most and tokens and tokens >= most:
            raise ConfigError(f"{where} is {tokens}, {what} is {most}: that leaves no room for a prompt")


def _check_deepspeed(stage: str, given: Any) -> None:
    if given is None:
        return
    where = f"{stage}.deepspeed"
    if isinstance(given, str):
        if not Path(given).is_file():
            raise ConfigError(f"{where}: there is no file {given}")
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{where}: {given} is not JSON: {error}") from error
    if not isinstance(given, dict) or not given:
        raise ConfigError(
            f"{where} is {given!r:.80}; it must contain DeepSpeed settings, as in configs/deepspeed/zero2.json"
        )
    keys, of_zero = deepspeed_settings()
    zero = given.get("zero_optimization", {})
    for place, held, known in ((where, given, keys), (f"{where}.zero_optimization", zero, of_zero)):
        if not isinstance(held, dict):
            raise ConfigError(f"{place} is {held!r}; it must be a mapping")
        for key in held:
            if known and key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"{place}: DeepSpeed has no setting {key!r}{hint}")


def unsure(stage: str, section: dict[str, Any]) -> list[str]:
    """Returns given fields that the library's constructor uses and `rl.settings.trainer_rules` can't fully check."""
    source = library_source(CLASSES[stage])
    decided = SURE | {key for key, field in source.fields.items() if field.choices} | CHOICES.keys()
    asked = [key for key, value in section.items() if key in source.looked_at - decided and value not in (None, False)]
    plain = {"optim": ("adamw_torch", "adamw_torch_fused"), "lr_scheduler_type": _PLAIN_SCHEDULES}
    asked += [key for key, values in plain.items() if section.get(key, values[0]) not in values]
    trackers = section.get("report_to") or []
    asked += ["report_to"] if {*([trackers] if isinstance(trackers, str) else trackers)} - _OWN_TRACKERS else []
    return asked + [key for key in ("optim_args", "lr_scheduler_kwargs", "deepspeed") if section.get(key)]


def _lora_is_unsure(lora: dict[str, Any] | None) -> bool:
    """Returns whether `lora` names modules, layers or rows, which the model may not have."""
    return bool(lora) and (lora.get("target_modules") != "all-linear" or bool(lora.keys() - _PLAIN_LORA))


def _ask_libraries(path: str, overrides: list[str], ranks: int) -> None:
    """Builds the trainers' arguments in a separate process, because that has side effects. It takes seconds."""
    launched = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launched}  # it is not a rank
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "rl.app.construct", str(ranks), path, *overrides]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("sawtooth: ")]
        line = lines[-1].removeprefix("sawtooth: ") if lines else " ".join(result.stderr.split())[-300:]
        raise ConfigError(line)
