"""TRL's loss over micro-batches of rounds: what it reads, its share of the optimizer step, the metrics it writes."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cached_property
from typing import Any

import torch

from rl.accumulator import Meter
from rl.config import is_padding_free
from rl.microbatches import importance_ratio, logps_and_entropies
from rl.ranks import metrics_stay_local


class EpisodeLoss:
    """Mixed into `trl.GRPOTrainer`. Needs the micro-batches' own inputs (`rl.microbatches`)."""

    @cached_property
    def padding_free(self) -> bool:
        """Whether rows of a pass stand one after the other. The model is asked where it trains: on its device."""
        return is_padding_free(self.args, self.accelerator.unwrap_model(self.model), self.accelerator.autocast())

    def _start_counting(self) -> None:
        self.meter = Meter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._open_inputs: dict[str, Any] | None = None

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> tuple:
        if self.padding_free or self.model.dtype == torch.float64:
            kwargs = {"compute_aux_loss": kwargs.get("compute_aux_loss", False)}
            outputs = logps_and_entropies(self, model, *args, **kwargs)
        else:
            outputs = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        inputs = self._open_inputs
        if inputs is not None and "importance_sampling_ratio" not in inputs:
            # On-policy: this forward pass has the old weights, so it gives k without a pass of its own.
            inputs["importance_sampling_ratio"] = importance_ratio(self, outputs[0].detach(), inputs)
        return outputs

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss of one micro-batch, scaled to its part of the optimizer step.

        TRL divides by the number of accumulation steps; a micro-batch counts as the share of the step's tokens (or
        rows, for losses that average over rows) that it holds, so any split gives the same sum.
        """
        mode = "train" if self.model.training else "eval"
        metrics, self._metrics[mode] = self._metrics[mode], defaultdict(list)
        accumulation = self.current_gradient_accumulation_steps if mode == "train" else 1
        self.current_gradient_accumulation_steps = inputs.pop("accumulation")
        self._open_inputs = inputs
        try:
            with metrics_stay_local(self.accelerator):
                loss = super()._compute_loss(model, inputs)
        finally:
            self.current_gradient_accumulation_steps, self._open_inputs = accumulation, None
            written, self._metrics[mode] = self._metrics[mode], metrics
        weight = float(inputs["tool_mask"].sum())
        for key, values in written.items():
            for value in values:
                if weight and not math.isnan(value):
                    self.meter.add(key, value, weight)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        for key, value in self.meter.flush().items():
            self._metrics[mode][key].append(value)
        super().log(logs, start_time)

    def add_time(self, name: str, seconds: float) -> None:
        """Counts seconds of this step under `name`."""
        self._seconds[name] += seconds

    def forget_times(self) -> None:
        """What was counted before the first step is no part of it."""
        self._seconds.clear()

    def _log_times(self, mode: str) -> None:
        for name, seconds in self._seconds.items():
            self._metrics[mode][name].append(seconds)
        self._seconds.clear()
