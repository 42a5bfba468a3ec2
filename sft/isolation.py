"""Tests on the model itself, not by its name, whether packed rows of one pass stay isolated from each other.

Attention isolates them by their positions. A layer that carries a state from token to token (Mamba, gated delta
nets, convolutions) leaks from one row into the next without an error.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import torch

_FIRST, _SECOND = 9, 7  # tokens of the two rows


def rows_stay_apart(model: Any, autocast: AbstractContextManager | None = None) -> bool:
    """Returns whether the second of two packed rows is independent of the first.

    The gradient of the second row's logits with respect to the first row's embeddings is then exactly zero in any
    dtype. Weights that ZeRO-3 has partitioned do not allow this gradient: then all states of the second row must be
    bitwise equal after two different first rows (a mixture of experts may fail this through rounding). Every rank
    calls it.

    Args:
        model: on its device, with the weights to be trained.
        autocast: the context of a training pass.
    """
    device = model.get_input_embeddings().weight.device
    size = model.config.get_text_config().vocab_size
    ids = torch.arange(1, 1 + _FIRST + _SECOND, device=device).remainder(size).unsqueeze(0)  # [1, N]
    positions = torch.cat([torch.arange(_FIRST), torch.arange(_SECOND)]).to(device).unsqueeze(0)
    training = model.training
    model.eval()
    try:
        with autocast or contextlib.nullcontext():
            if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
                return _equal_states(model, ids, positions)
            return _no_gradient(model, ids, positions)
    except TypeError:  # it does not accept positions
        return False
    finally:
        model.train(training)


def _no_gradient(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> bool:
    embedded: list[torch.Tensor] = []

    def as_leaf(*call: Any) -> torch.Tensor:
        embedded.append(call[-1].detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(as_leaf)
    try:
        with torch.enable_grad():
            logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits  # [1, N, V]
            (gradient,) = torch.autograd.grad(logits[:, _FIRST:].float().square().sum(), embedded[0])
    finally:
        hook.remove()
    return not gradient[:, :_FIRST].any()


def _equal_states(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> bool:
    other = torch.cat([ids[:, :_FIRST].flip(1), ids[:, _FIRST:]], dim=1)
    states = []
    with torch.no_grad():
        for row in (ids, other):
            outputs = model(input_ids=row, position_ids=positions, use_cache=False, output_hidden_states=True)
            states.append([state[:, _FIRST:] for state in (*(outputs.hidden_states or ()), outputs.logits)])
    return all(torch.equal(one, two) for one, two in zip(*states, strict=True))
