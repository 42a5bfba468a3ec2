"""Micro-batches as TRL's loss reads them: old logprobs, importance ratios, and their share of the optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from trl.models.utils import disable_gradient_checkpointing

from rl.samples import TrainingSample, collate, deal, microbatches, packed_microbatches, real_tokens

if TYPE_CHECKING:
    from rl.trainer import EpisodeGRPOTrainer

_ROW_MEAN_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
"""TRL losses that average over rows (rounds, here); the others average over tokens."""


@dataclass
class MicroBatch:
    """Rows of one forward pass."""

    samples: list[TrainingSample]
    share: float  # of its optimizer step's tokens (or rows), times the number of ranks
    extra: dict[str, torch.Tensor]  # old and reference logprobs and ratios, where they need a pass of their own
    masked: bool = False  # a stand-in that carries no loss

    def tensors(self, trainer: EpisodeGRPOTrainer) -> dict[str, Any]:
        batch = _to_device(trainer, self.samples)
        if self.masked:
            batch["tool_mask"].zero_()
        # TRL: normalizer = num_items / ranks x accumulation / steps_per_generation. With accumulation = 1 / share,
        # this gives the whole step's tokens for token means, and 1 / share for the others.
        ranks = trainer.accelerator.num_processes
        tokens = batch["tool_mask"].sum().double()  # an integer tensor would divide in float32
        slots = trainer.args.steps_per_generation if trainer.model.training else 1
        return (
            batch
            | self.extra
            | {
                "accumulation": 1.0 / self.share if self.share else 1.0,
                "num_items_in_batch": tokens * ranks * slots,
            }
        )


def _to_device(trainer: EpisodeGRPOTrainer, samples: Sequence[TrainingSample]) -> dict[str, torch.Tensor]:
    multiple = trainer.pad_to_multiple_of if isinstance(trainer.pad_to_multiple_of, int) else 1  # "auto" is for Neuron
    batch = collate(samples, trainer._tokenizer.pad_token_id, trainer.accelerator.device, multiple)
    dtype = torch.float64 if trainer.model.dtype == torch.float64 else torch.float32
    return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}


def empty_microbatch(trainer: EpisodeGRPOTrainer) -> MicroBatch:
    """One masked token, so that a rank without rows makes as many passes as the others."""
    pad = trainer._tokenizer.pad_token_id
    return MicroBatch([TrainingSample([pad], [pad], None, 0.0, 0, -1, 0)], share=0.0, extra={}, masked=True)


def to_microbatches(trainer: EpisodeGRPOTrainer, slots: list[list[TrainingSample]]) -> list[list[MicroBatch]]:
    """This rank's micro-batches of each accumulation step, as many as every other rank has.

    `slots` holds the rows of all ranks, so each rank works out the same plan and takes its part.
    """
    totals = _step_totals(trainer, slots)
    limit = getattr(trainer.args, "max_tokens_per_microbatch", 32768)
    ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    result = []
    for rows, total in zip(slots, totals, strict=True):
        if trainer.padding_free:
            parts = deal(packed_microbatches(rows, limit), ranks, real_tokens)
        else:
            parts = deal(microbatches(rows, limit), ranks)
        mine = [MicroBatch(part, _size(trainer, part) * ranks / total, {}) for part in parts[rank]]
        result.append(mine + [empty_microbatch(trainer)] * (max(1, *map(len, parts)) - len(mine)))
    for mine in result:
        for micro in mine:
            _fill_extra(trainer, micro)
    return result


def _size(trainer: EpisodeGRPOTrainer, samples: Sequence[TrainingSample]) -> int:
    if trainer.loss_type in _ROW_MEAN_LOSSES:
        return len(samples)
    return sum(len(s.completion_ids) for s in samples)


def _step_totals(trainer: EpisodeGRPOTrainer, slots: list[list[TrainingSample]]) -> list[float]:
    """Tokens (or rows) of the optimizer step that each slot belongs to, over all ranks; at least 1."""
    sizes = torch.tensor([_size(trainer, rows) for rows in slots], dtype=torch.float64)  # [slots]
    steps = trainer.args.gradient_accumulation_steps if trainer.model.training else 1
    if len(slots) % steps == 0:
        sums = sizes.view(-1, steps).sum(dim=1).repeat_interleave(steps)
    else:  # a step that spans generation batches: each counts as an equal part of it, as in TRL
        sums = (sizes.sum() * steps / len(slots)).repeat(len(slots))
    return sums.clamp(min=1.0).tolist()


def _fill_extra(trainer: EpisodeGRPOTrainer, micro: MicroBatch) -> None:
    """Old logprobs when the weights move before this micro-batch's turn; the reference's when there is a KL term."""
    args = trainer.args
    moves = args.gradient_accumulation_steps % (args.steps_per_generation * trainer.num_iterations) != 0
    if not moves and trainer.beta == 0.0:
        return
    batch = _to_device(trainer, micro.samples)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # [B, P + T]
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    width = batch["completion_ids"].size(1)
    with torch.no_grad(), disable_gradient_checkpointing(trainer.model, args.gradient_checkpointing_kwargs):
        if moves:
            old = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]  # [B, T]
            micro.extra["old_per_token_logps"] = old
            micro.extra["importance_sampling_ratio"] = importance_ratio(trainer, old, batch)
        if trainer.beta != 0.0:
            with _reference(trainer) as reference:
                logps = trainer._get_per_token_logps_and_entropies(reference, ids, mask, width)[0]
            micro.extra["ref_per_token_logps"] = logps


def _reference(trainer: EpisodeGRPOTrainer) -> Any:
    """The reference policy: TRL's copy, or the PEFT model without its adapter."""
    from contextlib import contextmanager

    from trl.trainer.utils import use_adapter

    @contextmanager
    def reference():
        if trainer.ref_model is not None:
            yield trainer.ref_model
            return
        model = trainer.accelerator.unwrap_model(trainer.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            yield trainer.model

    return reference()


def importance_ratio(trainer: EpisodeGRPOTrainer, old_logps: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """k = pi_train / pi_infer under the old weights, [B, T] (or [B, 1] for sequence modes), truncated or masked.

    With mode "token_mask" and the range 0.5 to 5 this is IcePop (arXiv 2602.06960, section 3). A token without an
    engine logprob has k = 1. Records the mismatch.
    """
    sampled, mask = batch["sampling_per_token_logps"], batch["tool_mask"]
    difference = torch.nan_to_num(old_logps - sampled, nan=0.0) * mask  # [B, T]
    _record_mismatch(trainer, difference, mask.bool() & ~torch.isnan(sampled))
    if not trainer.vllm_importance_sampling_correction:
        return torch.ones_like(difference)
    mode = trainer.vllm_importance_sampling_mode
    low, high = trainer.vllm_importance_sampling_clip_min, trainer.vllm_importance_sampling_clip_max
    if mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)  # [B, 1]
    ratio = difference.exp()
    if mode.endswith("truncate"):
        ratio = ratio.clamp(min=low, max=high) if low is not None or high is not None else ratio
        _record_ratio(trainer, ratio, mask)
        return ratio
    outside = torch.zeros_like(ratio, dtype=torch.bool)
    if low is not None:
        outside |= ratio < low
    if high is not None:
        outside |= ratio > high
    kept = ratio.masked_fill(outside, 0.0)
    inside = mask.bool() if kept.shape == mask.shape else torch.ones_like(outside)
    if inside.any():
        trainer.meter.add("mismatch/masked", float(outside[inside].float().mean()), float(inside.sum()))
    _record_ratio(trainer, kept, mask)
    return kept


def _record_ratio(trainer: EpisodeGRPOTrainer, ratio: torch.Tensor, mask: torch.Tensor) -> None:
    """k as TRL logs it, over the generated tokens (over the rows, for sequence modes)."""
    values = ratio[mask.bool()] if ratio.shape == mask.shape else ratio.flatten()
    if values.numel():
        name = "sampling/importance_sampling_ratio"
        trainer.meter.bottom(f"{name}/min", float(values.min()))
        trainer.meter.add(f"{name}/mean", float(values.mean()), float(values.numel()))
        trainer.meter.top(f"{name}/max", float(values.max()))


def logps_and_entropies(
    trainer: EpisodeGRPOTrainer,
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    width: int,
    compute_aux_loss: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Logprobs and entropies of the last `width` tokens of each row, [B, width]; and the MoE loss, where asked for.

    Padding-free: all rows one after the other in one row without padding, told apart by their positions, which
    FlashAttention takes as separate sequences. A float64 model is scored in its own precision (TRL's fused head
    computes in float32).
    """
    kept = attention_mask.bool()  # [B, L]
    scored = kept.clone()
    scored[:, : kept.size(1) - width] = False
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
    labels = input_ids.masked_fill(~scored, -100)
    if trainer.padding_free:
        positions = attention_mask.cumsum(1) - 1
        inputs = {"input_ids": input_ids[kept].unsqueeze(0), "position_ids": positions[kept].unsqueeze(0)}  # [1, N]
        labels = labels[kept].unsqueeze(0)
    if compute_aux_loss:
        inputs["output_router_logits"] = True
    with trainer.accelerator.autocast():
        if trainer.model.dtype == torch.float64:
            outputs = model(**inputs, use_cache=False)
            logps, entropies = _of_next_tokens(outputs.logits / trainer.temperature, inputs["input_ids"])
        else:
            outputs = model(**inputs, use_cache=False, labels=labels, fused_lm_head=True)
            logps, entropies = outputs.log_probs, outputs.entropy
    if trainer.padding_free:  # back to where each token stood
        logps, entropies = _spread(logps, kept), _spread(entropies, kept)
    return logps[:, -width:], entropies[:, -width:].detach(), outputs.aux_loss if compute_aux_loss else None


def _of_next_tokens(logits: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprob of each token but the first, given those before it, and the entropy there, [B, L - 1]."""
    logps = logits[:, :-1].log_softmax(-1)  # [B, L - 1, V]
    chosen = logps.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    entropies = -(logps.exp() * logps).sum(-1)
    return chosen, entropies


def _spread(values: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Values [1, N - 1] of all kept tokens but the very first, which nothing precedes, as [B, L]; 0 elsewhere."""
    values = torch.nn.functional.pad(values, (1, 0))
    return values.new_zeros(kept.shape).masked_scatter(kept, values)


def _record_mismatch(trainer: EpisodeGRPOTrainer, difference: torch.Tensor, known: torch.Tensor) -> None:
    if known.any():
        gaps = difference[known].abs()
        for name in ("mismatch/logprob_diff", "sampling/sampling_logp_difference"):  # ours, and TRL's
            trainer.meter.add(f"{name}/mean", float(gaps.mean()), float(known.sum()))
            trainer.meter.top(f"{name}/max", float(gaps.max()))
