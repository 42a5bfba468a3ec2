"""A resumed training is the one that was not stopped: no step too many, and the same numbers in its logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from sft.damage import COUNTS, write_sums

# Several ranks on the CPU: transformers has the optimizer's state read to "cpu:0", a place that torch does not know.
torch.serialization.register_package(
    99, lambda storage: None, lambda storage, location: storage if location == "cpu:0" else None
)


@contextmanager
def _read(checkpoint: Any) -> Iterator[None]:
    """A library's error as it loads a checkpoint, in one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever damaged files bring about
        raise ValueError(
            f"{checkpoint} can't be gone on from ({type(error).__name__}: {' '.join(str(error).split())[:300]}): move "
            "it away, and the same command goes on from the one before"
        ) from error


def _refuse(lost: list[str], foreign: list[str]) -> None:
    for what, names in (("lacks", lost), ("has a foreign", foreign)):
        if names:
            raise ValueError(f"it {what} {names[0]}")


class GoesOn:
    """Mixed into a trainer, for what transformers and TRL begin anew at a resume.

    From a checkpoint of the last step they would train to the end of its epoch. The tokens seen, the loss and the
    metrics since the last log, and the sum of all losses would start at 0.
    """

    def _run_epoch(self, *args: Any, resume_from_checkpoint: str | None = None, **kwargs: Any) -> None:
        if resume_from_checkpoint and not self.__dict__.get("_counts_read"):
            self._counts_read = True
            self._read_counts(Path(resume_from_checkpoint) / COUNTS)
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            self.model.train()  # what is logged at the end is of the training
            return
        super()._run_epoch(*args, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        unlogged = self.accelerator.gather(self._tr_loss).mean().item()  # ranks log their mean
        further = self._further_counts()
        if self.args.should_save:  # before the rest, as the checkpoint is whole when its last file is there
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            counts = {
                "tokens": getattr(self, "_total_train_tokens", 0),
                "loss_sum": self._total_loss_scalar,
                "loss_since_log": unlogged,
                "last_log": self._globalstep_last_logged,
                "metrics_since_log": {name: [float(v) for v in values] for name, values in self._since_log().items()},
                "further": further,
            }
            (folder / COUNTS).write_text(json.dumps(counts))
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            write_sums(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _read(resume_from_checkpoint):
            adapter = Path(resume_from_checkpoint) / "adapter_model.safetensors"
            if isinstance(self.model, PeftModel) and adapter.exists():
                with safe_open(adapter, "pt") as file:
                    theirs, ours = {*file.keys()}, get_peft_model_state_dict(self.model).keys()
                _refuse(sorted(ours - theirs), sorted(theirs - ours))
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            for name, weight in self.model.named_parameters():
                if weight.requires_grad and not torch.isfinite(weight).all():
                    raise ValueError(f"{name} holds nan or infinite numbers")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """A weight that the checkpoint lacks would stay the starting model's, with a warning. One of several names of
        the same weight is enough."""
        weights, lacking = self.model.state_dict(keep_vars=True), {*load_result.missing_keys}
        loaded = {id(weight) for name, weight in weights.items() if name not in lacking}
        lost = [name for name in sorted(lacking & weights.keys()) if id(weights[name]) not in loaded]
        _refuse(lost, load_result.unexpected_keys)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _read(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _read(checkpoint):
            super()._load_rng_state(checkpoint)


    def _since_log(self) -> dict[str, list[float]]:
        return self._metrics["train"]

    def _read_counts(self, path: Path) -> None:
        if not path.exists():  # a checkpoint of stock TRL; a run's own has it, or is damaged
            return
        with _read(path.parent):
            counts = json.loads(path.read_text())
            self._total_train_tokens = counts["tokens"]
            self._total_loss_scalar = counts["loss_sum"]
            self._tr_loss = torch.full_like(self._tr_loss, counts["loss_since_log"])
            self._globalstep_last_logged = counts["last_log"]
            self._since_log().update(counts["metrics_since_log"])
            self._take_further(counts.get("further"))

    def _further_counts(self) -> Any:
        """What a trainer counts besides since the last log, over all ranks, as JSON holds it. Every rank calls it."""

    def _take_further(self, counts: Any) -> None:
        """Goes on from what `_further_counts` gave."""
