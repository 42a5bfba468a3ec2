"""SFT on rounds with `trl.SFTTrainer`: loss on the outputs only, prompts by the same code as the rollouts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback
from trl import SFTConfig, SFTTrainer

from rollout.endings import agree
from rollout.protocol import RoundProtocol
from rollout.tokenizer_check import changed_texts, check_tokenizer
from rollout.weights import policy_tensors
from sft.adapter import lora_config
from sft.checkpoints import whole_folder
from sft.device import device_defaults, make_arguments, use_one_card
from sft.faults import StopOnSignal, StopWhenNotFinite
from sft.first_batch import show_first_batch
from sft.going_on import GoesOn
from sft.isolation import rows_stay_apart
from sft.round_tokens import RoundTokenMeter, last_probabilities, record_probabilities
from sft.tokens import fingerprint_of, read_rounds, tokenize_rounds
from sft.trackers import use_same_names
from sft.vocabulary import add_round_tokens, round_token_ids

_LOOKED_AT = 50  # outputs of the data that are encoded and decoded before training


def load_model(
    path: str, dtype: str, attn_implementation: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, with the protocol's special tokens in the vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attn_implementation)
    add_round_tokens(model, tokenizer)
    return model, tokenizer


class RoundSFTTrainer(GoesOn, StopWhenNotFinite, SFTTrainer):
    """`trl.SFTTrainer` that shows its first batch, measures how well the round tokens are learnt (`sft/round_tokens`),
    and stops before it would save weights that are no numbers."""

    _shown = False
    _meter: RoundTokenMeter | None = None

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
            raise ValueError(
                "sft.padding_free (or sft.packing): the model's layers carry a state from one row of a pass into the "
                "next; leave it out, and rows are padded"
            )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not self.model.training:
            return super().compute_loss(model, inputs, *args, **kwargs)
        self._meter = self._meter or RoundTokenMeter(self.processing_class)

        def forward(**given: Any) -> Any:
            outputs = model(**given)
            if getattr(outputs, "log_probs", None) is not None:
                self._meter.add(inputs, outputs.log_probs)
            return outputs

        return super().compute_loss(forward, inputs, *args, **kwargs)

    def _further_counts(self) -> list[list[float]]:
        return self._meter.totals(self.accelerator) if self._meter else []

    def _take_further(self, counts: list[list[float]]) -> None:
        self._meter = RoundTokenMeter(self.processing_class)
        self._meter.take(counts, self.accelerator)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._meter:
            logs |= self._meter.flush(self.accelerator)
        super().log(logs, start_time)


def run_sft(
    data: Path,
    folder: Path,
    model_path: str,
    protocol: RoundProtocol,
    settings: dict[str, Any],
    *,
    dtype: str = "auto",
    attn_implementation: str | None = None,
    lora: dict[str, Any] | None = None,
    seed: int = 0,
    callbacks: list[TrainerCallback] | None = None,
) -> Path | None:
    """Trains, going on from the last checkpoint in `folder`. Returns the final model's folder; None after SIGTERM.

    Args:
        data: folder of a finished data stage.
    """
    settings = device_defaults({"max_length": None, **settings})
    # First: a mistake in it is said before the model loads, and it sets up the ranks before the state does.
    args = make_arguments(SFTConfig, "sft", output_dir=str(folder), seed=seed, **settings)
    use_one_card(args)
    model, tokenizer = load_model(model_path, dtype, attn_implementation)
    check_tokenizer(tokenizer, protocol)
    lines = agree(model, tokenizer, protocol.chat)
    changed = changed_texts(tokenizer, (item.completion for item in islice(read_rounds(data, protocol), _LOOKED_AT)))
    lines += [f"{changed}: that is what it learns to write"] if changed else []
    with PartialState().main_process_first():  # the other ranks read what the first has made
        dataset, too_long = tokenize_rounds(
            read_rounds(data, protocol), protocol, tokenizer, settings["max_length"], folder / "tokens",
            fingerprint_of(data, protocol, tokenizer),
        )  # fmt: skip
    if PartialState().is_main_process:
        for line in lines:
            print(f"sft: {line}")
    if too_long:
        print(f"sft: left out {too_long} of {too_long + len(dataset)} rows, longer than max_length")
    stop, rounds = StopOnSignal(), round_token_ids(tokenizer) if protocol.name == "inftythink" else []
    trainer = RoundSFTTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_config(lora, model, rounds) if lora else None,
        callbacks=[SaveProtocol(protocol), stop, *(callbacks or [])],
    )
    use_same_names(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if stop.preempted:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}, saved; the same command goes on from here")
        return None
    final = save_final(trainer, tokenizer, protocol, folder / "final")
    if trainer.is_world_process_zero():
        record_probabilities(last_probabilities(trainer.state.log_history), final)
    return final


def save_final(trainer: Any, tokenizer: PreTrainedTokenizerBase, protocol: RoundProtocol, folder: Path) -> Path:
    """Saves the trained model whole, a LoRA adapter merged into it, with tokenizer and protocol."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    with policy_tensors(model) as tensors:  # every rank reads them all, the first one keeps them
        weights = {name: tensor.to("cpu") for name, tensor in tensors if accelerator.is_main_process}
    if accelerator.is_main_process:
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        with whole_folder(folder) as part:
            model.save_pretrained(part, state_dict=weights)
            tokenizer.save_pretrained(part)
            protocol.save(part)
    accelerator.wait_for_everyone()
    return folder


class SaveProtocol(TrainerCallback):
    """Puts `protocol.json` into every checkpoint."""

    def __init__(self, protocol: RoundProtocol):
        self.protocol = protocol

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.protocol.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of a stage, the same on every rank: the first one looks, and clears up.

    Raises:
        DamagedCheckpoint: there are damaged ones only.
    """
    import os

    from sft.checkpoints import DamagedCheckpoint, newest_checkpoint

    found: list[object] = [None]
    if int(os.environ.get("RANK", "0")) == 0:
        try:
            found = [newest_checkpoint(folder)]
        except DamagedCheckpoint as error:
            found = [error]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    if isinstance(found[0], DamagedCheckpoint):
        raise found[0]
    return str(found[0]) if found[0] else None
