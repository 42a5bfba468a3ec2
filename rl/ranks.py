"""What several ranks change in the update: when gradients are summed, and what a metric's mean is taken over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from torch import nn


@contextmanager
def gradients_stay_local(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """For every micro-batch of an accumulation step but the last: DDP sums no gradients, DeepSpeed makes no step."""
    before = accelerator.sync_gradients
    accelerator.gradient_state._set_sync_gradients(False)
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        accelerator.gradient_state._set_sync_gradients(before)


@contextmanager
def metrics_stay_local(accelerator: Accelerator) -> Iterator[None]:
    """TRL gathers values by row, which needs as many rows on every rank. A rank keeps its own; `Meter` joins them."""
    accelerator.gather = accelerator.gather_for_metrics = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics
