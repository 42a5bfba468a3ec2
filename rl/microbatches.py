"""Plans which rows run in which forward pass, on which rank, and with which share of the optimizer step.

samples of each episode -> accumulation steps (whole episodes) -> micro-batches (bounded tokens) -> ranks
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rl.samples import TrainingSample, deal, microbatches, packed_microbatches, real_tokens


@dataclass
class MicroBatch:
    """Rows of one forward pass."""

    samples: list[TrainingSample]
    share: float  # of its optimizer step's tokens (or rows), times the number of ranks
    extra: dict[str, torch.Tensor] = field(default_factory=dict)  # old and reference logprobs and k, from extra passes
    masked: bool = False  # a placeholder without loss


def assign_episodes(samples: Sequence[list[TrainingSample]], slots: int, seed: str) -> list[list[TrainingSample]]:
    """Returns the rows of each accumulation step: whole episodes, shuffled if a generation batch has several steps.

    Args:
        samples: rows of each episode.
        slots: accumulation steps of the generation batch.
        seed: the same on every rank.
    """
    order = list(range(len(samples)))
    if slots > 1:
        random.Random(seed).shuffle(order)
    size = math.ceil(len(samples) / slots)
    shares = [[samples[i] for i in order[slot * size : (slot + 1) * size]] for slot in range(slots)]
    return [[sample for episode in share for sample in episode] for share in shares]


def plan_microbatches(
    slots: Sequence[list[TrainingSample]],
    *,
    max_tokens: int,
    padding_free: bool,
    by_rows: bool,
    accumulation: int,
    rank: int,
    ranks: int,
    pad_token_id: int,
) -> list[list[MicroBatch]]:
    """Returns this rank's micro-batches of each accumulation step, as many as on every other rank.

    Args:
        slots: rows of all ranks for each accumulation step; each rank makes the same plan and takes its part.
        max_tokens: maximum tokens of a pass, including padding.
        by_rows: whether the loss is a mean over rows (rounds) instead of tokens.
        accumulation: accumulation steps per optimizer step.
    """
    result = []
    for rows, total in zip(slots, _step_totals(slots, accumulation, by_rows), strict=True):
        if padding_free:
            parts = deal(packed_microbatches(rows, max_tokens), ranks, real_tokens)
        else:
            parts = deal(microbatches(rows, max_tokens), ranks)
        mine = [MicroBatch(part, _size(part, by_rows) * ranks / total) for part in parts[rank]]
        missing = max(1, *map(len, parts)) - len(mine)
        result.append(mine + [_stand_in(pad_token_id) for _ in range(missing)])
    return result


def _stand_in(pad_token_id: int) -> MicroBatch:
    """Returns one masked token, so that a rank without rows makes as many passes as the others."""
    row = TrainingSample([pad_token_id], [pad_token_id], None, 0.0, 0, -1, 0)
    return MicroBatch([row], share=0.0, masked=True)


def _size(samples: Sequence[TrainingSample], by_rows: bool) -> int:
    return len(samples) if by_rows else sum(len(s.completion_ids) for s in samples)


def _step_totals(slots: Sequence[list[TrainingSample]], accumulation: int, by_rows: bool) -> list[float]:
    """Returns the tokens (or rows) of each slot's optimizer step, over all ranks; at least 1."""
    sizes = torch.tensor([_size(rows, by_rows) for rows in slots], dtype=torch.float64)  # [slots]
    if len(slots) % accumulation == 0:
        sums = sizes.view(-1, accumulation).sum(dim=1).repeat_interleave(accumulation)
    else:  # a step that spans generation batches: each counts as an equal part, as in TRL
        sums = (sizes.sum() * accumulation / len(slots)).repeat(len(slots))
    return sums.clamp(min=1.0).tolist()
