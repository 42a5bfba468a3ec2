"""A run's settings, results and pictures for the export of a checkpoint in its folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.app.run_config import ConfigError, RunConfig, parse_config
from rl.app.run_files import read_json, read_yaml
from rl.exporting.questions import BUILT_IN, question_sets
from rl.exporting.run_facts import run_facts
from rollout.types import Question
from sft.data.transforms import budget_rows

_MADE = ("sft", "rl", "export")


@dataclass(frozen=True)
class FoundRun:
    """The run whose folder contains `path`, a model."""

    config: RunConfig
    folder: Path
    path: Path

    @property
    def step(self) -> int | None:
        """The step of a `checkpoint-N`, or of an export from mid-training; None for a final model."""
        found = re.fullmatch(r"(?:checkpoint|step)-(\d+)", self.path.name)
        return int(found.group(1)) if found else None

    @property
    def stage(self) -> str:
        """The stage that the model comes from."""
        part = self.path.relative_to(self.folder).parts[0]
        return part if part in ("sft", "rl") else (self.config.trained or ["rl"])[-1]

    @property
    def title(self) -> str:
        """Title of the card: the run's name, with stage and step unless it is the final model."""
        return self.config.name if self._evaluated else f"{self.config.name} ({self.path.relative_to(self.folder)})"

    @property
    def _evaluated(self) -> bool:
        """True for the run's final model, the only one evaluated."""
        return self.path == self._final

    @property
    def _final(self) -> Path:
        return self.folder / (self.config.trained or ["rl"])[-1] / "final"

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Rows of the evaluation; empty for any checkpoint but the evaluated one."""
        path = self.folder / "eval" / "summary.json"
        return read_json(self.folder, "eval/summary.json") if self._evaluated and path.exists() else []

    @property
    def pictures(self) -> list[Path]:
        found = sorted((self.folder / "eval").glob("*.png")) if self.summary else []
        return [path for path in found if path.is_file() and path.resolve().is_relative_to(self.folder.resolve())]

    @property
    def eval_settings(self) -> dict[str, Any]:
        """The content of `eval/sampling.json`, else the config's settings in the same form."""
        path = self.folder / "eval" / "sampling.json"
        if path.exists():
            return read_json(self.folder, "eval/sampling.json")
        settings, protocol = self.config.eval, self.config.protocol
        return {
            "samples": settings.samples,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens or (self.config.rl or {}).get("max_completion_length"),
            "max_rounds": settings.max_rounds or protocol.max_rounds,
        }

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of the training for the card."""
        return run_facts(self.folder, self.stage, self.step)

    @property
    def question(self) -> Question:
        """The first question of the first evaluation set; a built-in one if that can't be read."""
        budget = self.config.data.budget
        try:
            question = next(iter(question_sets(None, self.config, 1).values()))[0]
            return (
                budget_rows([{"question": question}], budget, self.config.seed)[0]["question"] if budget else question
            )
        except (ValueError, OSError):  # a missing example must not fail the export
            return BUILT_IN[0]

    @property
    def exported_from(self) -> Path | None:
        """The checkpoint that `export/model` was exported from; None for another folder."""
        made = self.path == self.folder / "export" / "model" and self._final.is_dir()
        return self._final if made else None


def find_run(path: Path) -> FoundRun | None:
    """Find the run that made a model, such as runs/<name>/rl/final; None for a model elsewhere (a run's base)."""
    path = path.resolve()
    for folder in list(path.parents)[:2]:
        if (folder / "config.yaml").exists() and path.relative_to(folder).parts[0] in _MADE:
            return FoundRun(_config(folder), folder, path)
    return None


def _config(folder: Path) -> RunConfig:
    try:
        raw = read_yaml(folder)
    except OSError as error:
        raise ConfigError(f"{folder / 'config.yaml'} {error.strerror}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{folder / 'config.yaml'} must contain sections (name:, model:, …)")
    return parse_config(raw)
