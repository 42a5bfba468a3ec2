"""Episodes as training rows, and rows as micro-batches of bounded tokens.

Episode -> TrainingSample (one a round) -> microbatches -> tensors that `trl.GRPOTrainer._compute_loss` reads
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

    prompt_ids: list[int]  # [P], no loss
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
    """One sample for each segment, all with the episode's advantage. A segment without tokens gives none."""
    return [
        TrainingSample(
            prompt_ids=segment.prompt_ids,
            completion_ids=segment.completion_ids,
            logprobs=segment.logprobs,
            advantage=float(advantage),
            group_id=episode.group_id,
            episode_id=episode_id,
            round_index=index,
        )
        for index, segment in enumerate(episode.segments)
        if segment.completion_ids
    ]


def microbatches(samples: Sequence[TrainingSample], max_tokens: int) -> list[list[TrainingSample]]:
    """Splits rows into micro-batches whose padded size, rows x longest row, is at most `max_tokens`.

    Rows are sorted by length and cut where that costs least (dynamic programming over the cuts): all padded tokens,
    and for each micro-batch as much as a sixteenth of `max_tokens`, for what a pass costs besides its tokens. A row
    longer than `max_tokens` by itself gets a micro-batch of its own: no row is ever dropped.
    """
    rows = sorted(samples, key=lambda s: (-s.num_tokens, s.episode_id, s.round_index))
    lengths = [row.num_tokens for row in rows]
    least = np.zeros(len(rows) + 1)  # cost of rows i and after, cut in the best way
    ends = [0] * len(rows)  # where the micro-batch that begins with row i then ends
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
    """Splits rows into as few micro-batches of at most `max_tokens` tokens as it finds, all nearly equal.

    For padding-free passes, which cost what their tokens cost: the longest row left goes to the micro-batch with the
    fewest tokens. A row longer than `max_tokens` by itself gets a micro-batch of its own.
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
    """What a pass over `batch` costs where its rows are padded to the longest."""
    return len(batch) * max(s.num_tokens for s in batch)


def real_tokens(batch: Sequence[TrainingSample]) -> int:
    """What a padding-free pass over `batch` costs."""
    return sum(s.num_tokens for s in batch)


def deal(
    batches: Sequence[list[TrainingSample]], ranks: int, cost: Callable[[list[TrainingSample]], int] = padded_tokens
) -> list[list[list[TrainingSample]]]:
    """Gives the micro-batches to `ranks` ranks, for every rank as nearly equal passes as there are rows for.

    The largest are halved until their number divides by the ranks, then dealt out by size: ranks that wait for one
    another at each pass (ZeRO-3) then have passes of like size. A rank may get fewer only where rows run out.

    Returns:
        for each rank, its micro-batches. Every row is in exactly one.
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
        forward = (start // ranks) % 2 == 0  # turn about, or the first rank would get the largest of every pass
        for rank, batch in enumerate(pool[start : start + ranks]):
            dealt[rank if forward or len(pool) - start < ranks else ranks - 1 - rank].append(batch)
    return dealt


def collate(
    samples: Sequence[TrainingSample], pad_token_id: int, device: torch.device | str, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """Tensors of one micro-batch under the names that TRL's loss reads.

    TRL pads prompts left and completions right. Here each row is prompt and completion in one piece, padded right: its
    positions start at 0, as in the engine, and the batch is not wider than its longest row. TRL's "completion" then
    begins where the shortest prompt ends, and `tool_mask` picks the generated tokens.

    Args:
        multiple: rows are padded to a multiple of so many tokens.

    Returns:
        prompt_ids, prompt_mask [B, P] with P the shortest prompt; completion_ids, completion_mask [B, T], the rest of
        each row; tool_mask [B, T], 1 on generated tokens; advantages [B]; sampling_per_token_logps [B, T], nan where
        the engine gave none.
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
