"""Writes `metrics.jsonl`, one line per log, regardless of trackers; removes steps that a resumed stage repeats."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback

from rollout.atomic import atomic
from rollout.store import EpisodeStore


class DropLaterEpisodes(TrainerCallback):
    """Deletes stored episodes of steps that are sampled again: those after the checkpoint, or all in a new training."""

    def __init__(self, store: EpisodeStore):
        self.store = store

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.store.drop_from(state.global_step)


class MetricsFile(TrainerCallback):
    """Appends every log of a stage as one JSON line: stage, step, time, and the metrics."""

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Removes the old lines of steps that a resumed stage repeats, and lines that are not logs."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        kept = [line for line in lines if self._keep(line, state.global_step)]
        with atomic(self.path) as path:
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def _keep(self, line: str, step: int) -> bool:
        found = stage_and_step(line)
        if found is None:
            return False
        # The summary line with `train_runtime` is written again at the end of training.
        return found[0] != self.stage or (found[1] <= step and '"train_runtime"' not in line)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            row = {"stage": self.stage, "step": state.global_step, "time": round(time.time(), 3), **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def stage_and_step(line: str) -> tuple[str, float] | None:
    """Returns stage and step of a line of `metrics.jsonl`; None if it is not a log or was cut off by a kill."""
    try:
        row = json.loads(line)
        stage, step = row["stage"], float(row["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return (stage, step) if isinstance(stage, str) and math.isfinite(step) else None
