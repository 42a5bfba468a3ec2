"""The stages of a run: those of data -> sft -> rl -> eval -> export that it has. Finished work is kept, an interrupted
stage goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rl.app.data_stage import run_data, shared_questions, source_settings
from rl.app.run_config import RENAMED, ConfigError, RunConfig
from rl.app.stage_settings import first_change, settings_of
from rollout.atomic import atomic
from rollout.plugins import load_function
from rollout.processes import rank
from sft.data.parts import clean_up
from sft.data.sources import load_rows
from sft.data.transforms import budget_rows

STAGES = ("data", "sft", "rl", "eval", "export")


def run_stage(stage: str, config: RunConfig) -> None:
    """Runs one stage, unless its result for this very config is there already.

    Raises:
        ConfigError: the run has no such stage, the one before it is not done, or a stage was made with other settings.
    """
    check_stage(stage, config)
    marker = config.folder / stage / "done.json"
    for other in config.stages:  # a later one too: it would be taken for the result of what is made now
        # `rollout` serves several stages: an evaluation may have another engine.
        changed = _change(other, config, "" if other == stage else "rollout.*")
        if changed:
            what, folder = "", config.folder / other
            if other == "data":  # summaries are kept by what was asked for
                what = "dataset, parts and done.json in "
            raise ConfigError(
                f"{config.folder} was made with another {changed}: choose a new --name, or delete {what}{folder} and "
                "the stages after it"
            )
    if marker.exists() and stage == "data":
        clean_up(marker.parent)  # a kill may have come before it
    if marker.exists() and stage != "export":
        print(f"{stage}: done before, kept ({marker.parent})")
        return
    previous = config.stages[: config.stages.index(stage)][-1:]
    if previous and not (config.folder / previous[0] / "done.json").exists():
        raise ConfigError(f"{stage} needs {previous[0]}, which is not done: run `sawtooth {previous[0]}` first")
    first = rank() == 0  # of several ranks, one writes
    if first:
        changed = next(filter(None, (_change(other, config) for other in STAGES)), None)
        if changed is None:
            config.save()
        else:  # it tells what the run was made with
            print(f"{stage}: {config.folder}/config.yaml stays as it is, a stage was made with another {changed}")
        marker.parent.mkdir(parents=True, exist_ok=True)
        with atomic(marker.parent / "settings.json") as path:  # other ranks may be reading
            path.write_text(json.dumps(settings_of(stage, config.to_dict()), indent=2) + "\n")
    finished = _RUNNERS[stage](config)
    if first and finished is not False:
        with atomic(marker) as path:
            path.write_text(json.dumps({"stage": stage}) + "\n")
        if stage == "data":
            clean_up(marker.parent)


def check_stage(stage: str, config: RunConfig) -> None:
    """Raises:
    ConfigError: the run has no such stage; says what would give it one.
    """
    if stage not in config.stages:
        raise ConfigError(f"{config.name} has no stage {stage}: {_GIVES[stage]}")


_GIVES = {
    "data": "data.traces (long chains of thought) or data.prepared gives it one",
    "sft": "a section `sft`, and data.traces or data.prepared to train on, give it one",
    "rl": "a section `rl`, and data.questions to roll out, give it one",
    "eval": "data.eval gives it one: name at least one data set, as in `eval: {held_out: …}`",
    "export": "it trains nothing; `sawtooth export FOLDER` takes a checkpoint of another run",
}


def is_done(stage: str, config: RunConfig) -> bool:
    """True when the stage has come to its end."""
    return (config.folder / stage / "done.json").exists()


def _change(stage: str, config: RunConfig, ignored: str = "") -> str | None:
    """A setting that differs from what the stage was made with, with both values; None also where nothing is made."""
    path = config.folder / stage / "settings.json"
    patterns = ["parts/*.parquet", "dataset"] if stage == "data" else ["*"]
    made = (p for pattern in patterns for p in path.parent.glob(pattern) if p != path and p.suffix != ".part")
    if not path.exists() or not any(made):
        return None
    stored = {RENAMED.get(key, key): value for key, value in json.loads(path.read_text()).items()}
    before = {"start": "sft"} | stored  # older runs always had SFT
    now = settings_of(stage, config.to_dict())
    return first_change(before, {key: value for key, value in now.items() if not fnmatchcase(key, ignored)})


def _rows(config: RunConfig, source: str | dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Rows of `data.<where>`, with a budget in each question where the data has them (`data.budget`)."""
    spec, settings = source_settings(source, where)
    rows = load_rows(spec, **settings)
    return budget_rows(rows, config.data.budget, config.seed) if config.data.budget else rows


def _base_model(config: RunConfig) -> str:
    """The checkpoint that training starts from; built first where the config names a function for that."""
    if not config.model.build:
        return config.model.path
    path = Path(config.model.path) if config.model.path else config.folder / "base"
    if not (path / "config.json").exists():
        load_function(config.model.build)(str(path), **config.model.build_args)
    return str(path)


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
                f"rl: {count} of {of} questions of data.eval.{name} are in data.questions too: accuracy on them shows "
                "what was learned by heart"
            )
    start = _base_model(config) if config.sft is None else str(config.folder / "sft" / "final")
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
