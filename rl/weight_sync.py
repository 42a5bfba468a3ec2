"""Sends the policy's weights of each optimizer step to the engine; a probe checks that they arrived.

A sync raises no error if an engine keeps some of its old weights (vLLM's CPU build does in a mixture of experts). So
the trainer scores a few tokens that the engine samples, and the logprobs must agree. An engine that starts with random
weights (`rl.app.engine`) fails at the first sync. Any other one fails once the policy has changed: a probe also
follows the 2nd, 4th, 8th, … sync.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from rl.accumulator import StepTimes
from rl.samples import TrainingSample, collate
from rollout.engines import channel_of
from rollout.errors import NoServerError, UserError
from rollout.types import Completion, Engine, Question, Sampling, question_text
from rollout.weights import policy_tensors

LIMITS = {"float32": 0.005, "half": 0.25}
"""Maximum mean |logprob(engine) - logprob(trainer)|, in nats. A correct sync stays below 1e-4 in float32, and below 0.1
with half precision on either side, also for a mixture of experts."""

PROBED = 8  # questions
_TOKENS = 16
_LONGEST = 48  # tokens of a question


class WeightSync:
    """Sends the policy's weights to the engine, if the engine has its own copy.

    Args:
        probe: compares engine and policy after a sync.
    """

    def __init__(self, engine: Engine, accelerator: Accelerator, probe: Probe, times: StepTimes):
        self._engine, self._accelerator, self._probe, self._times = engine, accelerator, probe, times
        self._synced_step = -1
        self._syncs = 0

    def __call__(self, model: Any, step: int, can_run: bool = True) -> None:
        """Sends the weights of this optimizer step to the engine. Every rank calls it.

        Args:
            can_run: False before DeepSpeed has set up the model, which can't be probed yet.

        Raises:
            UserError: the weights did not arrive.
        """
        sync = getattr(self._engine, "sync_weights", None)
        if sync is None or self._synced_step == step:
            return
        with self._times.measure("time/sync"):
            if hasattr(self._engine, "announce"):
                self._engine.announce(step)
                self._accelerator.wait_for_everyone()
            with policy_tensors(self._accelerator.unwrap_model(model)) as tensors:
                told = [sync(tensors)]
            if hasattr(self._engine, "adopt"):  # servers: one rank has written the weights, all ranks use them
                broadcast_object_list(told)
                self._engine.adopt(told[0])
            self._synced_step = step
            if can_run:
                self._syncs += 1
                if is_probed(self._syncs):
                    self._probe(model)


class Probe:
    """Compares the logprobs of engine and policy on a few sampled tokens.

    Args:
        questions: the first questions of the training data.
        logps: returns the policy's logprobs of the last `width` tokens of each row, [B, width]; called with
            (model, input_ids, attention_mask, width).
        sampling: settings of the rollouts, for temperature and `max_tokens`.
        mixed_precision: whether the policy computes in half precision.
    """

    def __init__(
        self,
        engine: Engine,
        questions: Sequence[Question],
        tokenizer: Any,
        logps: Callable[..., torch.Tensor],
        sampling: Sampling,
        device: torch.device,
        mixed_precision: bool,
    ):
        self._engine, self._questions, self._tokenizer = engine, questions, tokenizer
        self._logps, self._sampling, self._device, self._mixed = logps, sampling, device, mixed_precision

    def __call__(self, model: Any) -> None:
        """Raises UserError if the two differ by more than rounding. Every rank calls it."""
        pad = self._tokenizer.pad_token_id
        texts = [question_text(question) for question in self._questions]
        prompts = probe_prompts(
            texts, lambda text: self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id
        )
        most, temperature = self._sampling.max_tokens, self._sampling.temperature
        batch = collate(sample_probe(channel_of(self._engine), prompts, temperature, most, pad), pad, self._device)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # [B, P + T]
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        training = model.training
        model.eval()
        with torch.no_grad():
            logps = self._logps(model, ids, mask, batch["completion_ids"].size(1))
        model.train(training)
        both = {str(model.dtype), f"torch.{getattr(self._engine, 'dtype', 'unknown')}"}
        exact = both <= {"torch.float32", "torch.float64"} and not self._mixed
        refuse_gap(gather_object([sum_of_gaps(logps, batch)]), "float32" if exact else "half")


def is_probed(syncs: int) -> bool:
    """Returns whether a probe follows sync number `syncs`, counted from 1: 1, 2, 4, 8, …"""
    return syncs & (syncs - 1) == 0


def probe_prompts(texts: Sequence[str], encode: Callable[[str], list[int]], end: int) -> list[list[int]]:
    """Returns token ids with a prefix that no rollout has, so that no rollout gets a prefix cache hit on them."""
    return [[end, end, *encode(text)[:_LONGEST]] for text in texts]


def sample_probe(
    engine: Engine, prompts: Sequence[list[int]], temperature: float, most: int, pad: int
) -> list[TrainingSample]:
    """Returns the engine's completions as rows without advantage. A failed one is a placeholder without logprobs."""
    # With its own seed, a request does not consume random numbers of other requests.
    sampling = Sampling(max_tokens=min(_TOKENS, most), temperature=temperature, seed=0)
    done: dict[int, Completion] = {}
    try:
        for index, prompt in enumerate(prompts):
            engine.submit(index, prompt, sampling)
        while len(done) < len(prompts):
            done |= {completion.request_id: completion for completion in engine.poll()}
    except (NoServerError, ValueError):  # no servers, or no room for a prompt: the rollouts will report it
        done = {}
    samples = []
    for index, prompt in enumerate(prompts):
        found = done.get(index)
        known = found is not None and found.token_ids and found.logprobs is not None
        ids, logprobs = (found.token_ids, found.logprobs) if known else ([pad], None)
        samples.append(TrainingSample(prompt, ids, logprobs, 0.0, index, index, 0))
    return samples


def sum_of_gaps(logps: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[float, int]:
    """Returns the sum of |logprob(engine) - logprob(trainer)| and the number of tokens that have both.

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
        dtype: "float32" if engine and trainer both compute in it, else "half".

    Raises:
        UserError: the mean gap over all ranks is above its limit.
    """
    total, count = (sum(values) for values in zip(*gaps, strict=True))
    if count and not total / count <= LIMITS[dtype]:  # also true for nan
        raise UserError(
            "the engine does not have the trainer's weights: after a sync their logprobs differ by "
            f"{total / count:.2g} on average over {count} tokens (limit {LIMITS[dtype]:g}, {dtype}). For example, "
            "vLLM's CPU build can't change the weights of a mixture of experts: use `rollout: {engine: transformers}`"
        )
