"""`metrics.jsonl` of a run: one line a log, whatever other trackers are on; and what a resumed stage repeats."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerCallback

from rollout.store import EpisodeStore


class DropLaterEpisodes(TrainerCallback):
    """A resumed training samples the steps after its checkpoint anew, a new one all: their stored episodes go."""

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
        """A resumed stage repeats the steps after its checkpoint: their old lines go."""
        if not state.is_world_process_zero or not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if self._keep(line, state.global_step)]
        partial = self.path.with_suffix(".tmp")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, self.path)

    def _keep(self, line: str, step: int) -> bool:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return False  # cut off by a kill
        return row["stage"] != self.stage or row["step"] <= step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            row = {"stage": self.stage, "step": state.global_step, "time": round(time.time(), 3), **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
