"""Engines of an evaluation, started only if an episode is not cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl.evaluation.models import EvalModel
from rollout.types import Completion, Engine, Sampling, close_engine

StartEngine = Callable[[EvalModel, Any], Engine]
"""Starts an engine with a model and its tokenizer."""


class Engines:
    """One engine that runs the models in turn, and one for each model that only writes summaries.

    If consecutive models differ only in weights, the weights are synced; otherwise the engine restarts.

    Args:
        exchange: the engine runs in this process; servers load each model's folder themselves.
    """

    def __init__(self, start: StartEngine, exchange: bool):
        self._start, self._exchange = start, exchange
        self._engine: Engine | None = None
        self._model: EvalModel | None = None
        self._beside: dict[str, _Beside] = {}

    def of(self, model: EvalModel) -> Engine:
        """Returns the engine with this model's weights."""
        if self._model is not None and self._model.identity == model.identity:
            return self._engine
        if self._model is not None and self._exchange and _differ_in_weights(self._model, model):
            self._engine.sync_weights(_weights(model))
        else:
            self.close()
            self._engine = self._warm(model, model.tokenizer())
        self._model = model
        return self._engine

    def beside(self, model: EvalModel, tokenizer: Any) -> Engine:
        """Returns a separate engine for a second model, started by `start` or by its first request."""
        return self._beside.setdefault(model.identity, _Beside(lambda: self._warm(model, tokenizer)))

    def _warm(self, model: EvalModel, tokenizer: Any) -> Engine:
        """Starts an engine. One in this process gets a warm-up request, because its first pass takes seconds."""
        engine = self._start(model, tokenizer)
        if self._exchange:
            engine.submit(0, tokenizer.encode("1 + 1"), Sampling(max_tokens=2, seed=0))
            engine.poll()
        return engine

    def close(self) -> None:
        """Closes all engines: the first vLLM engine to end takes down state that all engines of a process share."""
        for beside in self._beside.values():
            beside.stop()
        if self._engine is not None:
            close_engine(self._engine)
        self._engine = self._model = None


class _Beside:
    def __init__(self, start: Callable[[], Engine]):
        self._start = start
        self._engine: Engine | None = None

    def start(self) -> None:
        self._engine = self._engine or self._start()

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        self.start()
        self._engine.submit(request_id, prompt_ids, sampling)

    def poll(self) -> list[Completion]:
        return self._engine.poll()

    def stop(self) -> None:
        if self._engine is not None:
            close_engine(self._engine)
        self._engine = None


def _differ_in_weights(one: EvalModel, other: EvalModel) -> bool:
    """Returns whether an engine with one model can take the other's weights."""
    import torch

    shape = one.shape()
    experts = any("expert" in key and isinstance(value, int) and value > 1 for key, value in shape.items())
    if experts and not torch.cuda.is_available():  # vLLM's CPU build keeps an MoE model's first weights
        return False
    return shape == other.shape()


def _weights(model: EvalModel) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.folder, dtype="auto").state_dict().items()
