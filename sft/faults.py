"""What ends a run early and leaves it whole: SIGTERM, and a loss or gradient that is no number."""

from __future__ import annotations

import math
import signal
from types import FrameType
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers.trainer_callback import TrainerCallback

from rollout.errors import UserError


class NotFiniteError(UserError):
    """The loss or the gradient is nan or infinite."""


class StopOnSignal(TrainerCallback):
    """On SIGTERM (Slurm, Kubernetes, a spot machine) finishes the step, saves a checkpoint and ends the training.

    One rank's signal stops all, at the same step. `preempted` says afterwards whether that was why training ended.
    """

    def __init__(self):
        self.preempted = False
        self._asked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before = signal.signal(signal.SIGTERM, self._ask)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any(gather_object([self._asked])) and state.global_step < state.max_steps:
            self.preempted = True
            control.should_save = control.should_training_stop = True


class StopWhenNotFinite:
    """Mixed into a trainer: stops before such weights are saved, so the last checkpoint is a good one."""

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        for name, value in (("loss", tr_loss), ("gradient norm", grad_norm)):
            number = float(value) if value is not None else 0.0
            if not math.isfinite(number):
                raise NotFiniteError(
                    f"the {name} of step {self.state.global_step} is {number}: lower learning_rate or set "
                    f"max_grad_norm; the checkpoints in {self.args.output_dir} are from before"
                )
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
