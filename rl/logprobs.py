"""Log-probabilities and entropies of generated tokens, from a padded or a padding-free forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch

TokenScores = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Log-probabilities, entropies, and the load-balancing loss of a mixture of experts."""


def completion_logps(
    forward: Callable[..., TokenScores],
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    width: int,
    padding_free: bool = False,
) -> TokenScores:
    """Returns log-probabilities and entropies of the last `width` tokens of each row, [B, width].

    Padding-free: all rows are concatenated into one row without padding. Positions restart at 0 in each of them, so
    FlashAttention treats them as separate sequences.

    Args:
        forward: called with a model's inputs and `labels` [B, L], -100 on tokens that are not scored. Returns the
            values of all tokens but the first, [B, L - 1].
        input_ids: [B, L], like `attention_mask`.
    """
    kept = attention_mask.bool()  # [B, L]
    scored = kept.clone()
    scored[:, : kept.size(1) - width] = False
    labels = input_ids.masked_fill(~scored, -100)
    if not padding_free:
        logps, entropies, aux_loss = forward(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        return logps[:, -width:], entropies[:, -width:].detach(), aux_loss
    positions = attention_mask.cumsum(1) - 1
    logps, entropies, aux_loss = forward(
        input_ids=input_ids[kept].unsqueeze(0),  # [1, N]
        position_ids=positions[kept].unsqueeze(0),
        labels=labels[kept].unsqueeze(0),
    )
    logps, entropies = _to_rows(logps, kept), _to_rows(entropies, kept)
    return logps[:, -width:], entropies[:, -width:].detach(), aux_loss


def next_token_logps(logits: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the log-probability of each token but the first, given its prefix, and the entropy there, [B, L - 1]."""
    logps = logits[:, :-1].log_softmax(-1)  # [B, L - 1, V]
    chosen = logps.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    entropies = -(logps.exp() * logps).sum(-1)
    return chosen, entropies


def _to_rows(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Returns values [1, N - 1], of all kept tokens but the very first (without a prefix), as [B, L]; 0 elsewhere."""
    values = torch.nn.functional.pad(values, (1, 0))
    return values.new_zeros(kept.shape).masked_scatter(kept, values)
