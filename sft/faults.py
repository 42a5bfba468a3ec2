"""Reasons to end a run early but resumable: SIGTERM, and a loss or gradient that is not a finite number."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from accelerate.utils import gather_object
from transformers.trainer_callback import TrainerCallback

from rollout.errors import UserError


class NotFiniteError(UserError):
    """The loss or the gradient is nan or infinite."""


class StopOnSignal(TrainerCallback):
    """On SIGTERM (Slurm, Kubernetes, a spot machine) finishes the step, saves a checkpoint and ends the training.

    A signal to one rank stops all ranks at the same step. Afterwards `preempted` tells whether training ended so.
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
