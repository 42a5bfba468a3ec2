"""Engines of an evaluation, started when an episode is missing: what is kept needs none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rl.evaluation.models import EvalModel
from rollout.types import Completion, Engine, Sampling, close_engine

Start = Callable[[EvalModel, Any], Engine]
"""Starts an engine with a model and its tokenizer."""


class Engines:
    """One engine for model after model, and one for each model that writes summaries beside it.

    Where only the weights of two models differ they are exchanged, else the engine starts anew.

    Args:
        exchange: the engine is in this process; servers read each model's folder for themselves.
    """

    def __init__(self, start: Start, exchange: bool):
        self._start, self._exchange = start, exchange
        self._engine: Engine | None = None
        self._model: EvalModel | None = None
        self._beside: dict[str, _Beside] = {}

    def of(self, model: EvalModel) -> Engine:
        """The engine, with this model's weights."""
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
        """An engine of its own for a second model; `start` or its first request starts it."""
        return self._beside.setdefault(model.identity, _Beside(lambda: self._warm(model, tokenizer)))

    def _warm(self, model: EvalModel, tokenizer: Any) -> Engine:
        """Starts an engine. One in this process answers once before it counts: its first pass takes seconds."""
        engine = self._start(model, tokenizer)
        if self._exchange:
            engine.submit(0, tokenizer.encode("1 + 1"), Sampling(max_tokens=2, seed=0))
            engine.poll()
        return engine

    def close(self) -> None:
        """Ends all of them: vLLM takes down what engines of one process share with the first that ends."""
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
    """Whether an engine with one model can take the other's weights."""
    import torch

    shape = one.shape()
    experts = any("expert" in key and isinstance(value, int) and value > 1 for key, value in shape.items())
    if experts and not torch.cuda.is_available():  # vLLM's CPU build keeps a mixture's first weights
        return False
    return shape == other.shape()


def _weights(model: EvalModel) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.folder, dtype="auto").state_dict().items()
