"""Runs a run's stages of data -> sft -> rl -> eval -> export. Keeps finished work and resumes an interrupted stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rl.app.data_stage import run_data, shared_questions, source_settings
from rl.app.run_config import RENAMED, ConfigError, RunConfig
from rl.app.run_files import is_done
from rl.app.stage_inputs import changed_input, inputs_of
from rl.app.stage_settings import first_change, settings_of
from rollout.atomic import atomic
from rollout.plugins import load_function
from rollout.processes import rank
from sft.damage import model_damage
from sft.data.parts import clean_up
from sft.data.sources import load_rows
from sft.data.transforms import budget_rows

STAGES = ("data", "sft", "rl", "eval", "export")


def run_stage(stage: str, config: RunConfig) -> None:
    """Runs one stage, unless its result for this exact config already exists.

    Raises:
        ConfigError: the run has no such stage, the one before it is not done, or a stage was made with other settings.
    """
    check_stage(stage, config)
    folder = config.folder / stage
    marker, done = folder / "done.json", is_done(folder)
    for other in config.stages:  # later ones too: they would be mistaken for results of this stage
        # `rollout` serves several stages: an evaluation may have another engine.
        changed = _change(other, config, "" if other == stage else "rollout.*")
        if changed:
            what = config.folder / other
            raise ConfigError(
                f"{config.folder} was made with another {changed}: choose a new --name, or delete "
                f"{f'dataset, parts and done.json in {what}' if other == 'data' else what} and the stages after it"
            )
    if done and stage == "data":
        clean_up(folder)  # the process may have been killed before this
    if done and stage != "export":
        print(f"{stage}: already done, kept ({folder})")
        return
    before = config.stages[: config.stages.index(stage)]
    if before and not is_done(config.folder / before[-1]):
        raise ConfigError(f"{stage} needs {before[-1]}, which is not done: run `sawtooth {before[-1]}` first")
    _refuse_damaged_models(config, before)
    inputs = inputs_of(stage, config, _start(config, stage))
    _refuse_other_inputs(folder, inputs)
    first = rank() == 0  # only rank 0 writes
    if first:
        if _is_begun(folder) and not (folder / "settings.json").exists():
            print(f"{stage}: {folder}/settings.json is missing, so changed settings or inputs can't be detected")
        changed = next(filter(None, (_change(other, config) for other in STAGES)), None)
        if changed is None:
            config.save()
        else:  # the file records what the run was made with
            print(f"{stage}: {config.folder}/config.yaml is not updated: a stage was made with another {changed}")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "settings.json") as path:  # other ranks may be reading
            path.write_text(json.dumps(settings_of(stage, config.to_dict()) | inputs, indent=2) + "\n")
    finished = _RUNNERS[stage](config)
    if first and finished is not False:
        with atomic(marker) as path:
            path.write_text(json.dumps({"stage": stage}) + "\n")
        if stage == "data":
            clean_up(folder)


def check_stage(stage: str, config: RunConfig) -> None:
    """Raises ConfigError if the run has no such stage, naming the settings that would add it."""
    if stage not in config.stages:
        raise ConfigError(f"{config.name} has no stage {stage}: {_GIVES[stage]}")


_GIVES = {
    "data": "set data.traces (long chains of thought) or data.prepared",
    "sft": "add a section `sft`, and set data.traces or data.prepared to train on",
    "rl": "add a section `rl`, and set data.questions to roll out",
    "eval": "set data.eval to at least one data set, as in `eval: {held_out: …}`",
    "export": "it trains nothing; `sawtooth export FOLDER` exports a checkpoint of another run",
}


def _change(stage: str, config: RunConfig, ignored: str = "") -> str | None:
    """Returns a setting that has changed since the stage was made, with both values; None also if nothing was made."""
    begun = _begun_with(config.folder / stage)
    if not begun:
        return None
    before = {"start": "sft"} | begun  # older runs always had SFT
    now = settings_of(stage, config.to_dict())
    return first_change(before, {key: value for key, value in now.items() if not fnmatchcase(key, ignored)})


def _refuse_other_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    changed = changed_input(_begun_with(folder), inputs)
    if changed:
        raise ConfigError(
            f"{folder} was started with another {changed}: it can only resume with its original inputs. Restore them, "
            f"choose a new --name, or delete {folder}"
        )


_TRAINED = ("checkpoint-*", "final", "done.json", "reference.jsonl")
_KEPT = {"data": ("parts/*.parquet", "dataset"), "sft": _TRAINED, "rl": _TRAINED}
"""Work that a resumed stage keeps. Summaries of `data` are kept by their request."""


def _begun_with(folder: Path) -> dict[str, Any]:
    """Returns the settings and inputs that a stage with work to keep was started with; empty if there is no work."""
    path = folder / "settings.json"
    if not _is_begun(folder):
        return {}
    try:
        return {RENAMED.get(key, key): value for key, value in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}  # `run_stage` reports it
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}): delete it if the settings have not changed") from error


def _is_begun(folder: Path) -> bool:
    kept = [p for pattern in _KEPT.get(folder.name, ("*",)) for p in folder.glob(pattern)]
    return any(p.name != "settings.json" and p.suffix not in (".tmp", ".part") for p in kept)


def _refuse_damaged_models(config: RunConfig, stages: list[str]) -> None:
    """Raises ConfigError if a finished stage's model, which the next stage starts from, is damaged."""
    for stage in stages if rank() == 0 else ():
        folder = config.folder / stage
        fault = model_damage(folder / "final") if stage in config.trained else None
        if fault:
            raise ConfigError(
                f"{folder / 'final'} is damaged ({fault}): delete {folder / 'done.json'} and run `sawtooth {stage}` to "
                "make it again from its last checkpoint"
            )


def _rows(config: RunConfig, source: str | dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Returns the rows of `data.<where>`, with a budget in each question if the data has budgets (`data.budget`)."""
    spec, settings = source_settings(source, where)
    try:
        rows = load_rows(spec, **settings)
    except TypeError as error:
        raise ConfigError(f"data.{where}: {error}") from error
    return budget_rows(rows, config.data.budget, config.seed) if config.data.budget else rows


def _start(config: RunConfig, stage: str) -> str:
    """Returns the model that a stage starts from: a folder, which may not be built yet, or a Hub id."""
    if stage == "rl" and config.sft is not None:
        return _final("sft")(config)
    return config.model.path or str(config.folder / "base")


def _base_model(config: RunConfig) -> str:
    """Returns the checkpoint that training starts from; builds it first if the config names a function for that."""
    path = _start(config, "sft")
    if config.model.build and not (Path(path) / "config.json").exists():
        load_function(config.model.build)(path, **config.model.build_args)
    return path


def _data(config: RunConfig) -> None:
    run_data(config, _base_model)


def _sft(config: RunConfig) -> bool:
    import torch

    from rl.metrics_file import MetricsFile
    from rl.settings.dtypes import trained_dtype
    from sft.train import run_sft

    folder = run_sft(
        config.folder / "data",
        config.folder / "sft",
        _base_model(config),
        config.protocol,
        config.trainer_settings("sft"),
        dtype=trained_dtype(config.model, config.sft, torch.cuda.is_available()),
        attn_implementation=config.model.attn_implementation,
        lora=config.model.lora,
        seed=config.seed,
        callbacks=[MetricsFile(config.folder / "metrics.jsonl", "sft")],
    )
    if folder:
        print(f"sft: model in {folder}")
    return folder is not None


def _rl(config: RunConfig) -> bool:
    from rl.app.rl_stage import run_rl_stage
    from rl.metrics_file import MetricsFile

    callbacks = [MetricsFile(config.folder / "metrics.jsonl", "rl")]
    questions = _rows(config, config.data.questions, "questions")
    if rank() == 0:
        for name, count, of in shared_questions(config, questions):
            print(
                f"rl: {count} of {of} questions of data.eval.{name} are in data.questions too: accuracy on them "
                "measures memorization"
            )
    start = _base_model(config) if config.sft is None else _start(config, "rl")
    folder = run_rl_stage(config, questions, start, callbacks)
    if folder:
        print(f"rl: model in {folder}")
    return folder is not None


def _eval(config: RunConfig) -> None:
    from dataclasses import replace

    from rl.evaluation.eval_stage import run_eval
    from rl.evaluation.sets import load_sets

    datasets = load_sets(list(config.data.eval.items()), config.eval.prompt, config.eval.limit)
    if config.data.budget:
        datasets = [replace(s, rows=budget_rows(s.rows, config.data.budget, config.seed)) for s in datasets]
    run_eval(config, datasets, {"base": _base_model, "sft": _final("sft"), "rl": _final("rl")})


def _final(stage: str) -> Callable[[RunConfig], str]:
    return lambda config: str(config.folder / stage / "final")


def _export(config: RunConfig) -> None:
    from rl.exporting.export import export_model
    from rl.exporting.run_folder import FoundRun
    from rl.exporting.upload import tag_name, upload

    settings, folder = config.export, config.folder.resolve()
    run = FoundRun(config, folder, folder / config.trained[-1] / "final")
    folder = export_model(
        config.folder / config.trained[-1] / "final",
        config.folder / "export" / "model",
        name=settings.repo_id or config.name,
        summary=run.summary,
        eval_settings=run.eval_settings,
        question=run.question,
        pictures=run.pictures,
        repo_id=settings.repo_id,
        run=run.facts,
    )
    print(f"export: model in {folder}")
    if settings.push:
        url = upload(
            folder,
            settings.repo_id,
            private=settings.private,
            tag=settings.tag or tag_name(config.name),
            move_tag=settings.move_tag,
            message=f"{config.name}: export by Sawtooth",
        )
        print(f"export: pushed to {url}")


_RUNNERS = {"data": _data, "sft": _sft, "rl": _rl, "eval": _eval, "export": _export}
