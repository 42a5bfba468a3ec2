"""Changes of SFT and RL to transformers' Trainer, and of SFT to TRL's trainer, each with its reason.

Based on transformers 5.17 and TRL 1.16. `rl/trl_seam.py` has the changes of RL alone.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers.trainer_callback import TrainerCallback, TrainerState
from trl import SFTTrainer

from rollout.errors import InputError, UserError
from sft.damage import COUNTS, STATE, write_sums
from sft.faults import NotFiniteError
from sft.first_batch import show_first_batch
from sft.isolation import rows_stay_apart
from sft.round_tokens import RoundTokenMeter
from sft.trackers import with_same_names

# Several ranks on the CPU: transformers loads the optimizer's state to "cpu:0", a location that torch does not know.
torch.serialization.register_package(
    99, lambda storage: None, lambda storage, location: storage if location == "cpu:0" else None
)


def use_one_card(args: Any) -> None:
    """Restricts a process to one card: transformers would use all visible ones (`nn.DataParallel`)."""
    args._n_gpu = min(args.n_gpu, 1)


_OF_DAMAGED_FILES = (
    OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, pickle.UnpicklingError, SafetensorError,
)  # fmt: skip


@contextmanager
def reading(checkpoint: Any) -> Iterator[None]:
    """Turns a library's error while it loads a checkpoint into one line."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except _OF_DAMAGED_FILES as error:
        raise InputError(
            f"{checkpoint} can't be resumed from ({type(error).__name__}: {' '.join(str(error).split())[:300]}): move "
            "it away, and the same command resumes from the previous checkpoint"
        ) from error


class _OtherNames(ValueError):
    """The weight names of a checkpoint differ from the model's."""


def _refuse(lost: list[str], foreign: list[str]) -> None:
    for what, names in (("missing", lost), ("unexpected", foreign)):
        if names:
            raise ValueError(f"{names[0]} is {what}")


class TrainerSeam:
    """Mixin for a trainer of transformers."""

    def _use_same_names(self) -> None:
        """Replaces the standard callbacks that `report_to` added by ours. A user's own stay.

        They keep their positions, because the printer at the end removes names from the logs. TRL itself writes to W&B
        and Trackio if `report_to` names them (for example the seconds of every forward pass). So they are removed from
        a copy of the arguments, and the caller's stay unchanged.
        """
        callbacks: list[TrainerCallback] = self.callback_handler.callbacks
        callbacks[:] = [with_same_names(callback) for callback in callbacks]
        self.args = copy.copy(self.args)
        self.args.report_to = [name for name in self.args.report_to if name not in ("wandb", "trackio")]

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Stops before weights that are not finite are saved, so the last checkpoint is a good one."""
        for name, value in (("loss", tr_loss), ("gradient norm", grad_norm)):
            number = float(value) if value is not None else 0.0
            if not math.isfinite(number):
                raise NotFiniteError(
                    f"the {name} of step {self.state.global_step} is {number}: lower learning_rate or set "
                    f"max_grad_norm; the checkpoints in {self.args.output_dir} are from earlier steps"
                )
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    # A resumed run must equal an uninterrupted one. From a checkpoint of the last step, transformers would train to
    # the end of its epoch; the tokens seen, the loss and the metrics since the last log, and the sum of all losses
    # would start at 0.

    def _run_epoch(self, *args: Any, resume_from_checkpoint: str | None = None, **kwargs: Any) -> None:
        if resume_from_checkpoint and not self.__dict__.get("_counts_read"):
            self._counts_read = True
            self._read_counts(Path(resume_from_checkpoint) / COUNTS)
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            self.model.train()  # the logs at the end belong to the training
            return
        super()._run_epoch(*args, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        unlogged = self.accelerator.gather(self._tr_loss).mean().item()  # ranks log their mean
        further = self._further_counts()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:  # first, because a checkpoint counts as complete once its last file exists
            folder.mkdir(parents=True, exist_ok=True)
            metrics = self._metrics["train"]
            counts = {
                "tokens": getattr(self, "_total_train_tokens", 0),
                "loss_sum": self._total_loss_scalar,
                "loss_since_log": unlogged,
                "last_log": self._globalstep_last_logged,
                "metrics_since_log": {name: [float(v) for v in values] for name, values in metrics.items()},
                "further": further,
            }
            (folder / COUNTS).write_text(json.dumps(counts))
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            write_sums(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with reading(resume_from_checkpoint):
            TrainerState.load_from_json(str(Path(resume_from_checkpoint) / STATE))  # `train` does it later
            adapter = Path(resume_from_checkpoint) / "adapter_model.safetensors"
            if isinstance(self.model, PeftModel) and adapter.exists():
                with safe_open(adapter, "pt") as file:
                    theirs, ours = {*file.keys()}, get_peft_model_state_dict(self.model).keys()
                _refuse(sorted(ours - theirs), sorted(theirs - ours))
            try:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            except _OtherNames:
                self._load_under_the_hubs_names(resume_from_checkpoint)
            for name, weight in self.model.named_parameters():
                if weight.requires_grad and not torch.isfinite(weight).all():
                    raise ValueError(f"{name} contains nan or infinite numbers")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Rejects a checkpoint with missing weights, which would keep their starting values with a mere warning. One of
        several names of a tied weight is enough."""
        weights, lacking = self.model.state_dict(keep_vars=True), {*load_result.missing_keys}
        loaded = {id(weight) for name, weight in weights.items() if name not in lacking}
        lost = [name for name in sorted(lacking & weights.keys()) if id(weights[name]) not in loaded]
        if lost or load_result.unexpected_keys:
            raise _OtherNames

    def _load_under_the_hubs_names(self, checkpoint: str) -> None:
        """Loads experts, which transformers 5 saves one by one but fuses in memory: only `from_pretrained` fuses them.

        transformers' trainer reads the names as they are, and leaves missing weights at their starting values.
        """
        saved, found = type(self.model).from_pretrained(checkpoint, dtype=self.model.dtype, output_loading_info=True)
        _refuse(sorted(found["missing_keys"]), sorted(found["unexpected_keys"]))
        self.model.load_state_dict(saved.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _read_counts(self, path: Path) -> None:
        if not path.exists():  # a checkpoint of stock TRL; a run's own has it, or is damaged
            return
        with reading(path.parent):
            counts = json.loads(path.read_text())
            self._total_train_tokens = counts["tokens"]
            self._total_loss_scalar = counts["loss_sum"]
            self._tr_loss = torch.full_like(self._tr_loss, counts["loss_since_log"])
            self._globalstep_last_logged = counts["last_log"]
            self._metrics["train"].update(counts["metrics_since_log"])
            self._take_further(counts.get("further"))

    def _further_counts(self) -> Any:
        """Returns a trainer's additional counts since the last log, over all ranks, for JSON. Every rank calls it."""

    def _take_further(self, counts: Any) -> None:
        """Resumes from the result of `_further_counts`."""


class RoundSFTTrainer(TrainerSeam, SFTTrainer):
    """`trl.SFTTrainer` that shows its first batch, and measures how well the round tokens are learned
    (`sft/round_tokens`)."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._shown = False
        self._round_tokens = RoundTokenMeter(self.processing_class)
        self._use_same_names()

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not self._shown:
            self._shown = True
            if self.padding_free:
                self._refuse_mixed_rows(model)
            if self.is_world_process_zero():
                show_first_batch(inputs, self.processing_class, Path(self.args.output_dir) / "first_batch.txt")
        return super().training_step(model, inputs, *args, **kwargs)

    def _refuse_mixed_rows(self, model: Any) -> None:
        if not rows_stay_apart(self.accelerator.unwrap_model(model), self.accelerator.autocast()):
            raise InputError(
                "sft.padding_free (or sft.packing): the model's layers carry a state from one row of a pass into the "
                "next; leave it out, and rows are padded"
            )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Wraps the model's call to read the log-probabilities of TRL's fused head, which TRL does not expose."""
        if not self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)

        def forward(**given: Any) -> Any:
            outputs = model(**given)
            if getattr(outputs, "log_probs", None) is not None:
                self._round_tokens.add(inputs, outputs.log_probs)
            return outputs

        return super().compute_loss(forward, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs |= self._round_tokens.flush(self.accelerator)
        super().log(logs, start_time)

    def _further_counts(self) -> list[list[float]]:
        return self._round_tokens.totals(self.accelerator)

    def _take_further(self, counts: list[list[float]]) -> None:
        self._round_tokens.take(counts, self.accelerator)
