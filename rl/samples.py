"""Turns episodes into training rows, and rows into micro-batches of bounded tokens.

Episode -> TrainingSample (one per round) -> microbatches -> tensors that `trl.GRPOTrainer._compute_loss` reads
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rollout.types import Episode


@dataclass(frozen=True)
class TrainingSample:
    """One round of one episode."""

    prompt_ids: list[int]  # [P], no loss; with the opening that the episode was given (`Start.opening`)
    completion_ids: list[int]  # [T], loss on every token
    logprobs: list[float] | None  # [T], of the engine that sampled them
    advantage: float  # the episode's
    group_id: int | str
    episode_id: int
    round_index: int  # from 0

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


def episode_to_samples(episode: Episode, advantage: float, episode_id: int = 0) -> list[TrainingSample]:
    """Returns one sample per segment with sampled tokens, each with the episode's advantage."""
    return [
        TrainingSample(
            prompt_ids=segment.prompt_ids + segment.completion_ids[: segment.opening],
            completion_ids=segment.completion_ids[segment.opening :],
            logprobs=None if segment.logprobs is None else segment.logprobs[segment.opening :],
            advantage=float(advantage),
            group_id=episode.group_id,
            episode_id=episode_id,
            round_index=index,
        )
        for index, segment in enumerate(episode.segments)
        if len(segment.completion_ids) > segment.opening
    ]


def microbatches(samples: Sequence[TrainingSample], max_tokens: int) -> list[list[TrainingSample]]:
    """Splits rows into micro-batches whose padded size, rows x longest row, is at most `max_tokens`.

    Rows are sorted by length and split at minimum cost (dynamic programming over the splits). The cost is the number
    of padded tokens, plus `max_tokens` / 16 per micro-batch for the fixed overhead of a pass. A row longer than
    `max_tokens` gets its own micro-batch: no row is dropped.
    """
    rows = sorted(samples, key=lambda s: (-s.num_tokens, s.episode_id, s.round_index))
    lengths = [row.num_tokens for row in rows]
    least = np.zeros(len(rows) + 1)  # minimum cost of rows i and after
    ends = [0] * len(rows)  # end of the micro-batch that starts at row i
    for first in reversed(range(len(rows))):
        most = max(1, min(len(rows) - first, max_tokens // lengths[first]))
        counts = np.arange(1, most + 1)
        costs = counts * lengths[first] + max_tokens / 16 + least[first + 1 : first + most + 1]
        count = int(costs.argmin())
        least[first], ends[first] = costs[count], first + count + 1
    batches, first = [], 0
    while first < len(rows):
        batches.append(rows[first : ends[first]])
        first = ends[first]
    return batches


def packed_microbatches(samples: Sequence[TrainingSample], max_tokens: int) -> list[list[TrainingSample]]:
    """Splits rows greedily into few micro-batches of nearly equal size, at most `max_tokens` tokens each.

    For padding-free passes, whose cost is the number of their tokens. The longest remaining row goes to the
    micro-batch with the fewest tokens. A row longer than `max_tokens` gets its own micro-batch.
    """
    rows = sorted(samples, key=lambda s: (-s.num_tokens, s.episode_id, s.round_index))
    alone = [[row] for row in rows if row.num_tokens > max_tokens]
    rows = rows[len(alone) :]
    count = -(-sum(row.num_tokens for row in rows) // max_tokens)
    while rows:
        bins = [(0, index, []) for index in range(count)]
        for row in rows:
            tokens, index, batch = heapq.heappop(bins)
            batch.append(row)
            heapq.heappush(bins, (tokens + row.num_tokens, index, batch))
        if max(tokens for tokens, _, _ in bins) <= max_tokens:
            return alone + [batch for _, _, batch in sorted(bins, key=lambda b: b[1]) if batch]
        count += 1
    return alone


def padded_tokens(batch: Sequence[TrainingSample]) -> int:
    """Returns the cost of a pass over `batch` with its rows padded to the longest, in tokens."""
    return len(batch) * max(s.num_tokens for s in batch)


def real_tokens(batch: Sequence[TrainingSample]) -> int:
    """Returns the cost of a padding-free pass over `batch`, in tokens."""
    return sum(s.num_tokens for s in batch)


def deal(
    batches: Sequence[list[TrainingSample]], ranks: int, cost: Callable[[list[TrainingSample]], int] = padded_tokens
) -> list[list[list[TrainingSample]]]:
    """Distributes the micro-batches over `ranks` ranks, equally many to each if there are enough rows.

    The largest are halved until their number is a multiple of `ranks`, then dealt out by size, so that ranks that wait
    for each other at each pass (ZeRO-3) have passes of similar size. A rank gets fewer only if rows run out.

    Returns:
        each rank's micro-batches. Every row is in exactly one.
    """

    def size(batch: list[TrainingSample]) -> tuple[int, int, int]:
        return (-cost(batch), batch[0].episode_id, batch[0].round_index)

    pool = sorted(batches, key=size)
    while len(pool) % ranks:
        largest = next((b for b in pool if len(b) > 1), None)
        if largest is None:
            break
        pool.remove(largest)
        half = (len(largest) + 1) // 2
        pool = sorted([*pool, largest[:half], largest[half:]], key=size)
    dealt: list[list[list[TrainingSample]]] = [[] for _ in range(ranks)]
    for start in range(0, len(pool), ranks):
        forward = (start // ranks) % 2 == 0  # alternate, or rank 0 would get the largest of every pass
        for rank, batch in enumerate(pool[start : start + ranks]):
            dealt[rank if forward or len(pool) - start < ranks else ranks - 1 - rank].append(batch)
    return dealt


def collate(
    samples: Sequence[TrainingSample], pad_token_id: int, device: torch.device | str, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """Returns the tensors of one micro-batch under the names that TRL's loss reads.

    TRL pads prompts left and completions right. Here prompt and completion of a row are contiguous and padded right,
    so positions start at 0, as in the engine, and the batch is as wide as its longest row. TRL's "completion" then
    starts after the shortest prompt, and `tool_mask` selects the generated tokens.

    Args:
        multiple: rows are padded to a multiple of this many tokens.

    Returns:
        prompt_ids, prompt_mask [B, P] with P the shortest prompt; completion_ids, completion_mask [B, T], the rest of
        each row; tool_mask [B, T], 1 on generated tokens; advantages [B]; sampling_per_token_logps [B, T], nan if the
        engine returned none.
    """
    shortest = max(1, min(len(s.prompt_ids) for s in samples))  # P
    width = -(-max(s.num_tokens for s in samples) // multiple) * multiple
    ids = torch.full((len(samples), width), pad_token_id)  # [B, P + T]
    attended = torch.zeros(len(samples), width, dtype=torch.long)
    generated = torch.zeros(len(samples), width, dtype=torch.long)
    logps = torch.full((len(samples), width), float("nan"), dtype=torch.float64)
    for row, sample in enumerate(samples):
        prompt, length = len(sample.prompt_ids), sample.num_tokens
        ids[row, :length] = torch.tensor(sample.prompt_ids + sample.completion_ids)
        attended[row, :length] = 1
        generated[row, prompt:length] = 1
        if sample.logprobs is not None:
            logps[row, prompt:length] = torch.tensor(sample.logprobs, dtype=torch.float64)
    batch = {
        "prompt_ids": ids[:, :shortest],
        "prompt_mask": attended[:, :shortest],
        "completion_ids": ids[:, shortest:],
        "completion_mask": attended[:, shortest:],
        "tool_mask": generated[:, shortest:],
        "advantages": torch.tensor([s.advantage for s in samples], dtype=torch.float64),
        "sampling_per_token_logps": logps[:, shortest:],
    }
    return {key: value.to(device) for key, value in batch.items()}
