"""Trackers with the metric names of `metrics.jsonl`: the standard callbacks would put `train/` before each.

Each class here (TensorBoard, W&B, Trackio) replaces transformers' own callback in one trainer. Everything else those
do (settings, the model's size, artifacts, spaces) is unchanged.
"""

from __future__ import annotations

import math
import os
from typing import Any

from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.trainer_callback import TrainerCallback


class SameNames(TrainerCallback):
    """Mixin for transformers' callbacks: sends a log complete, under its own names and step."""

    def send(self, values: dict[str, Any], step: int) -> None:
        """Sends `values` to the tracker."""
        raise NotImplementedError

    def is_open(self) -> bool:
        """Returns True between the start and the end of training."""
        return self._initialized

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if not self.is_open():  # an evaluation without training
            self.on_train_begin(args, state, control, **kwargs)
        self.send(logs, state.global_step)


class TensorBoard(SameNames, TensorBoardCallback):
    """Writes scalars. A missing value (null in `metrics.jsonl`) becomes nan; a non-number becomes text."""

    def is_open(self) -> bool:
        return self.tb_writer is not None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = os.getenv("TENSORBOARD_LOGGING_DIR")
        if folder and args.run_name:  # else the stages of a run would mix in one folder
            self.logging_dir = os.path.join(os.path.expanduser(folder), args.run_name)
        super().on_train_begin(args, state, control, **kwargs)

    def send(self, values: dict[str, Any], step: int) -> None:
        for name, value in values.items():
            if value is None or isinstance(value, int | float):
                self.tb_writer.add_scalar(name, math.nan if value is None else value, step)
            else:
                self.tb_writer.add_text(name, str(value), step)
        self.tb_writer.flush()


class WandB(SameNames, WandbCallback):
    """Uses `step` as the horizontal axis. The W&B run ends with the training, unless the user started it."""

    _ours = False

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self._wandb.run is None:
            project, folder = os.getenv("WANDB_PROJECT", args.project), os.getenv("WANDB_DIR", args.output_dir)
            self._wandb.init(project=project, name=args.run_name, dir=folder)
            self._ours = True
        super().setup(args, state, model, **kwargs)
        if state.is_world_process_zero:
            self._wandb.define_metric("*", step_metric="step", step_sync=True)

    def send(self, values: dict[str, Any], step: int) -> None:
        self._wandb.log({"step": step, **values})

    def send_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        self.send({name: self._wandb.Table(columns=columns, data=rows)}, step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_end(args, state, control, **kwargs)
        if self._ours:  # else this process's next training would continue in it
            self._wandb.finish()
            self._ours = self._initialized = False


class Trackio(SameNames, TrackioCallback):
    """Uses the log's step as Trackio's step."""

    def send(self, values: dict[str, Any], step: int) -> None:
        self._trackio.log(values, step=step)

    def send_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        self.send({name: self._trackio.Table(columns=columns, data=rows)}, step)


_OURS = {TensorBoardCallback: TensorBoard, WandbCallback: WandB, TrackioCallback: Trackio}


def with_same_names(callback: TrainerCallback) -> TrainerCallback:
    """Replaces one of transformers' own callbacks by ours; returns any other callback unchanged."""
    return _OURS[type(callback)]() if type(callback) in _OURS else callback
