"""Have the weights reached the engine? A few tokens that it samples are scored by the trainer: logprobs must agree.

A sync raises no error where an engine keeps a part of its old weights (vLLM's CPU build does in a mixture of experts).
An engine that starts with weights of no meaning (`rl.app.engine`) shows it at the first sync; any other one as soon as
the policy has moved, so the 2nd, 4th, 8th, … sync are looked at too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from rl.samples import TrainingSample
from rollout.errors import UserError
from rollout.remote.pool import NoServerError
from rollout.types import Completion, Engine, Sampling

LIMITS = {"float32": 0.005, "half": 0.25}
"""Greatest mean |logprob(engine) - logprob(trainer)|, in nats. What arrives stays below 1e-4 in float32; half precision
on either side, of a mixture of experts too, below 0.1."""

_QUESTIONS = 8
_TOKENS = 16
_LONGEST = 48  # tokens of a question


def is_looked_at(syncs: int) -> bool:
    """Whether the sync of this number, from 1, is followed by a look: 1, 2, 4, 8, …"""
    return syncs & (syncs - 1) == 0


def probe_prompts(texts: Sequence[str], encode: Callable[[str], list[int]], end: int) -> list[list[int]]:
    """Token ids of the first questions. No rollout starts like them: none finds their keys in the engine's cache."""
    return [[end, end, *encode(text)[:_LONGEST]] for text in texts[:_QUESTIONS]]


def sample_probe(
    engine: Engine, prompts: Sequence[list[int]], temperature: float, most: int, pad: int
) -> list[TrainingSample]:
    """The engine's answers as rows without advantage. One that failed is a stand-in without logprobs."""
    # With a seed of its own a request takes no random numbers from others.
    sampling = Sampling(max_tokens=min(_TOKENS, most), temperature=temperature, seed=0)
    done: dict[int, Completion] = {}
    try:
        for index, prompt in enumerate(prompts):
            engine.submit(index, prompt, sampling)
        while len(done) < len(prompts):
            done |= {completion.request_id: completion for completion in engine.poll()}
    except (NoServerError, ValueError):  # no servers, or no room for a prompt: the rollouts will say so
        done = {}
    samples = []
    for index, prompt in enumerate(prompts):
        found = done.get(index)
        known = found is not None and found.token_ids and found.logprobs is not None
        ids, logprobs = (found.token_ids, found.logprobs) if known else ([pad], None)
        samples.append(TrainingSample(prompt, ids, logprobs, 0.0, index, index, 0))
    return samples


def sum_of_gaps(logps: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    """Sum of |logprob(engine) - logprob(trainer)| and the number of tokens that have both.

    Args:
        logps: the trainer's, [B, T].
        batch: the same rows, collated.
    """
    sampled = batch["sampling_per_token_logps"]
    known = batch["tool_mask"].bool() & ~torch.isnan(sampled)  # [B, T]
    return float((logps - sampled)[known].abs().sum()), int(known.sum())


def refuse_gap(gaps: Sequence[tuple[float, int]], dtype: str) -> None:
    """Stops a run whose engine does not have the trainer's weights.

    Args:
        gaps: `sum_of_gaps` of every rank.
        dtype: "float32" where engine and trainer both compute in it, else "half".

    Raises:
        UserError: the mean gap over all ranks is above its limit.
    """
    total, count = (sum(values) for values in zip(*gaps, strict=True))
    if count and not total / count <= LIMITS[dtype]:  # nan is above it too
        raise UserError(
            "the engine does not have the trainer's weights: after a sync their logprobs differ by "
            f"{total / count:.2g} on average over {count} tokens (limit {LIMITS[dtype]:g}, {dtype}). For one, vLLM's "
            "CPU build can't change the weights of a mixture of experts: use `rollout: {engine: transformers}`"
        )
