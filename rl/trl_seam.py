"""Every place where RL reaches inside TRL, transformers or accelerate, each with its reason.

Written against TRL 1.16, transformers 5.17 and accelerate 1.15. `tests/test_trainer.py` fails if TRL reads other keys
than we write. `sft/trainer_seam.py` is the part that SFT and RL share. All other code gets its values by name.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers.trainer_callback import ProgressCallback
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from rewards.model import RewardModel
from rl.accumulator import MetricAccumulator, StepTimes
from rl.config import is_padding_free
from rl.importance import Correction, importance_ratio
from rl.logprobs import TokenScores, completion_logps, next_token_logps
from rl.microbatches import MicroBatch
from rl.progress import ShortProgress
from rl.resume import load_generation, save_generation
from rl.samples import TrainingSample, collate
from rollout.errors import InputError
from sft.trainer_seam import TrainerSeam

ROW_MEAN_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
"""TRL losses that average over rows (rounds, here); the others average over tokens."""


@contextmanager
def held_at(settings: Any, **values: Any) -> Iterator[None]:
    """Changes attributes of `settings` inside the block, then restores them."""
    before = {name: getattr(settings, name) for name in values}
    for name, value in values.items():
        setattr(settings, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


@contextmanager
def gradients_stay_local(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """For all micro-batches of an accumulation step but the last: DDP reduces no gradients, DeepSpeed does not step.

    accelerate's own switch counts its `accumulate` blocks; transformers sets this state once per batch of the data
    loader, which here is many micro-batches.
    """
    before = accelerator.sync_gradients
    accelerator.gradient_state._set_sync_gradients(False)
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        accelerator.gradient_state._set_sync_gradients(before)


@contextmanager
def metrics_stay_local(accelerator: Accelerator) -> Iterator[None]:
    """Keeps each rank's metrics local, for `MetricAccumulator` to join. TRL's loss would gather values by row, which
    requires equally many rows on every rank."""
    accelerator.gather = accelerator.gather_for_metrics = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        del accelerator.gather, accelerator.gather_for_metrics


class TRLSeam(TrainerSeam, GRPOTrainer):
    """`trl.GRPOTrainer` whose batches are micro-batches of rounds, made by `_make_batch`.

    Args:
        given: arguments of `trl.GRPOTrainer`, by name, without its rewards.
        rewards: functions, or models that TRL prepares for the device.
    """

    def __init__(self, given: Mapping[str, Any], rewards: list[Any]):
        models = [fn if isinstance(fn, RewardModel) else None for fn in rewards]
        given = dict(given)
        given["reward_funcs"] = [m.load() if m else fn for m, fn in zip(models, rewards, strict=True)]
        given["reward_processing_classes"] = [m.tokenizer if m else None for m in models]
        # The engine is ours, so TRL must not start vLLM; the table of episodes replaces its table of completions.
        with held_at(given["args"], use_vllm=False, log_completions=False):
            super().__init__(**given)
        if self._is_vlm or self.is_fsdp_enabled:
            kind = "a model for images: episodes are text only" if self._is_vlm else "FSDP: shard with DeepSpeed"
            raise InputError(f"EpisodeGRPOTrainer does not train {kind}")
        self.use_vllm = True  # TRL's loss then multiplies by the importance ratio that we put into its inputs
        self.reward_models = [
            (model, prepared) for model, prepared in zip(models, self.reward_funcs, strict=True) if model
        ]
        if not self.is_deepspeed_enabled:  # DeepSpeed moves the model later
            _ = self.padding_free  # raises now, not at the first step
        if not self.args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(ShortProgress)
        self._use_same_names()
        self.metrics, self.times = MetricAccumulator(), StepTimes()
        self._open_inputs: dict[str, Any] | None = None

    # Implemented by `EpisodeGRPOTrainer`.

    def _make_batch(self, rows: list[dict[str, Any]], mode: str) -> list[list[MicroBatch]]:
        """Returns this rank's micro-batches for each accumulation step of a generation batch (one in evaluation)."""
        raise NotImplementedError

    def _end_accumulation_step(self) -> None:
        """Called after each accumulation step."""

    # The loop: TRL's trainer takes one tensor batch per accumulation step, ours any number of micro-batches.

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    @property
    def _generate_every(self) -> int:
        """Accumulation steps per generation batch."""
        return self.args.steps_per_generation * self.num_iterations

    @property
    def _accumulation_steps(self) -> int:
        """Accumulation steps so far, counted by optimizer steps, because the last one of an epoch may have fewer."""
        accumulation = self.args.gradient_accumulation_steps
        return self.state.global_step * accumulation + self._step % accumulation

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Runs one accumulation step: forward and backward over all micro-batches of its episodes."""
        started = time.perf_counter()
        model.train()
        if self._step % self._generate_every == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._make_batch(inputs, "train")
        slot = self._buffered_inputs[self._step % self.args.steps_per_generation]
        loss = torch.zeros((), device=self.accelerator.device)
        with self.times.measure("time/update"):
            for index, micro in enumerate(slot):
                last = index == len(slot) - 1
                with contextlib.nullcontext() if last else gradients_stay_local(self.accelerator, model):
                    # transformers' own step: TRL's would count each micro-batch as an accumulation step
                    loss += super(GRPOTrainer, self).training_step(model, self._inputs_of(micro), num_items_in_batch)
            self._step += 1
            self._end_accumulation_step()
        self._current_train_step_time += time.perf_counter() - started
        if self._step % self.args.gradient_accumulation_steps == 0:
            self._log_values("train", {"step_time": self._current_train_step_time, **self.times.flush()})
            self._current_train_step_time = 0.0
        return loss

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # micro-batches come ready for the device

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> tuple:
        """Evaluates during training: rolls out, scores, and returns the loss of these episodes."""
        with torch.no_grad():
            slots = self._make_batch(inputs, "eval")
            losses = [self.compute_loss(model, self._inputs_of(m)).detach() for slot in slots for m in slot]
        self._log_values("eval", self.times.flush())
        return torch.stack(losses).sum(), None, None

    def _inputs_of(self, micro: MicroBatch) -> dict[str, Any]:
        """Returns the inputs of TRL's loss.

        Its normalizer is num_items / ranks x accumulation / steps_per_generation. With accumulation = 1 / share, this
        is the whole step's tokens for token means, and 1 / share for the others.
        """
        batch = self._tensors_of(micro.samples)
        if micro.masked:
            batch["tool_mask"].zero_()
        tokens = batch["tool_mask"].sum().double()  # an integer tensor would divide in float32
        slots = self.args.steps_per_generation if self.model.training else 1
        return (
            batch
            | micro.extra
            | {
                "accumulation": 1.0 / micro.share if micro.share else 1.0,
                "num_items_in_batch": tokens * self.accelerator.num_processes * slots,
            }
        )

    def _tensors_of(self, samples: list[TrainingSample]) -> dict[str, torch.Tensor]:
        multiple = self.pad_to_multiple_of if isinstance(self.pad_to_multiple_of, int) else 1  # "auto" is for Neuron
        batch = collate(samples, self._tokenizer.pad_token_id, self.accelerator.device, multiple)
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}

    # The loss: TRL's own, scaled to a micro-batch's part of the optimizer step.

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Computes TRL's loss, weighted by the micro-batch's share of the step's tokens (or rows, for losses that
        average over rows) instead of 1 / accumulation steps, so that any split gives the same sum.

        TRL appends its metrics to a list, whose plain mean would weight micro-batches equally. They are taken out and
        weighted by tokens.
        """
        mode, steps = self._mode, inputs.pop("accumulation")
        written: dict[str, list[float]] = defaultdict(list)
        scale = {"current_gradient_accumulation_steps": steps} if mode == "train" else {}
        held = held_at(self, _open_inputs=inputs, _metrics={**self._metrics, mode: written}, **scale)
        with held, metrics_stay_local(self.accelerator):
            loss = super()._compute_loss(model, inputs)
        weight = float(inputs["tool_mask"].sum())
        for key, values in written.items():
            for value in values:
                if weight and not math.isnan(value):
                    self.metrics.add(key, value, weight)
        return loss

    @cached_property
    def padding_free(self) -> bool:
        """Whether the rows of a pass are concatenated. The check runs the model, on the device where it trains."""
        return is_padding_free(self.args, self.accelerator.unwrap_model(self.model), self.accelerator.autocast())

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> TokenScores:
        """Adds a padding-free pass, and float64 for a float64 model, where TRL's fused head computes in float32."""
        exact = self.model.dtype == torch.float64
        if self.padding_free or exact:
            forward = partial(self._forward, model, exact, kwargs.get("compute_aux_loss", False))
            outputs = completion_logps(forward, input_ids, attention_mask, logits_to_keep, self.padding_free)
        else:
            outputs = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        inputs = self._open_inputs
        if inputs is not None and "importance_sampling_ratio" not in inputs:
            # On-policy: this forward pass uses the old weights, so k needs no extra pass.
            inputs["importance_sampling_ratio"] = self._importance_ratio(outputs[0].detach(), inputs)
        return outputs

    def _forward(self, model: Any, exact: bool, aux_loss: bool, labels: torch.Tensor, **inputs: Any) -> TokenScores:
        if aux_loss:
            inputs["output_router_logits"] = True
        with self.accelerator.autocast():
            if exact:
                outputs = model(**inputs, use_cache=False)
                logps, entropies = next_token_logps(outputs.logits / self.temperature, inputs["input_ids"])
            else:  # TRL's patch of the model's forward
                outputs = model(**inputs, use_cache=False, labels=labels, fused_lm_head=True)
                logps, entropies = outputs.log_probs, outputs.entropy
        return logps, entropies, outputs.aux_loss if aux_loss else None

    def _importance_ratio(self, old_logps: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        correction = Correction(
            self.vllm_importance_sampling_mode,
            self.vllm_importance_sampling_clip_min,
            self.vllm_importance_sampling_clip_max,
        )
        return importance_ratio(
            old_logps,
            inputs["sampling_per_token_logps"],
            inputs["tool_mask"],
            correction if self.vllm_importance_sampling_correction else None,
            self.metrics,
        )

    def _add_old_and_reference(self, micro: MicroBatch) -> None:
        """Adds old logprobs if the weights change before this micro-batch's turn; the reference's for a KL term."""
        moves = self.args.gradient_accumulation_steps % self._generate_every != 0
        if not moves and self.beta == 0.0:
            return
        batch = self._tensors_of(micro.samples)
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)  # [B, P + T]
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        width = batch["completion_ids"].size(1)
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            if moves:
                old = self._logps(self.model, ids, mask, width)  # [B, T]
                micro.extra["old_per_token_logps"] = old
                micro.extra["importance_sampling_ratio"] = self._importance_ratio(old, batch)
            if self.beta != 0.0:
                with self._reference_policy() as reference:
                    micro.extra["ref_per_token_logps"] = self._logps(reference, ids, mask, width)

    def _logps(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
        return self._get_per_token_logps_and_entropies(model, ids, mask, width)[0]

    @contextmanager
    def _reference_policy(self) -> Iterator[Any]:
        """Yields the KL term's reference: TRL's copy, or the PEFT model without its adapter."""
        if self.ref_model is not None:
            yield self.ref_model
            return
        model = self.accelerator.unwrap_model(self.model)
        with use_adapter(model, adapter_name="ref" if "ref" in model.peft_config else None):
            yield self.model

    # Logs: TRL averages each metric's values since the last log. Callbacks may add their own metrics.

    def _log_values(self, mode: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._metrics[mode][name].append(float(value))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._log_values(self._mode, self.metrics.flush())
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "pop_metrics"):
                self._log_values(self._mode, callback.pop_metrics())
        super().log(logs, start_time)

    # Checkpoints include the generation batch in progress.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self.args.save_only_model:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            slots = self._buffered_inputs if self._step % self._generate_every else None
            save_generation(folder, self.accelerator.process_index, self.accelerator.num_processes, self._step, slots)
            self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._step, self._buffered_inputs = load_generation(
                Path(checkpoint),
                self.accelerator.process_index,
                self.accelerator.num_processes,
                self.args.gradient_accumulation_steps,
                self._generate_every,
                self.accelerator.device,
            )
