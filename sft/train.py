"""SFT on rounds with `trl.SFTTrainer`: loss on the outputs only, prompts by the same code as the rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback
from trl import SFTConfig, SFTTrainer

from rollout.protocol import SPECIAL_TOKENS, RoundProtocol
from rollout.weights import policy_tensors
from sft.checkpoints import whole_folder
from sft.device import device_defaults
from sft.faults import StopOnSignal, StopWhenNotFinite
from sft.first_batch import show_first_batch
from sft.going_on import GoesOn
from sft.tokens import fingerprint_of, read_rounds, tokenize_rounds
from sft.trackers import use_same_names


def load_model(
    path: str, dtype: str, attn_implementation: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, with the protocol's special tokens in the vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attn_implementation)
    known = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in known]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return model, tokenizer


class RoundSFTTrainer(GoesOn, StopWhenNotFinite, SFTTrainer):
    """`trl.SFTTrainer` that shows its first batch, and stops before it would save weights that are no numbers."""

    _shown = False

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if not self._shown:
            self._shown = True
            if self.is_world_process_zero():
                show_first_batch(inputs, self.processing_class, Path(self.args.output_dir) / "first_batch.txt")
        return super().training_step(model, inputs, *args, **kwargs)


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
    model, tokenizer = load_model(model_path, dtype, attn_implementation)
    settings = device_defaults({"max_length": None, **settings})
    args = SFTConfig(output_dir=str(folder), seed=seed, **settings)  # before the state: it sets up the ranks
    with PartialState().main_process_first():  # the other ranks read what the first has made
        dataset, too_long = tokenize_rounds(
            read_rounds(data, protocol), protocol, tokenizer, settings["max_length"], folder / "tokens",
            fingerprint_of(data, protocol, tokenizer),
        )  # fmt: skip
    if too_long:
        print(f"sft: left out {too_long} of {too_long + len(dataset)} rows, longer than max_length")
    stop = StopOnSignal()
    trainer = RoundSFTTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=LoraConfig(**{"task_type": "CAUSAL_LM", **lora}) if lora else None,
        callbacks=[SaveProtocol(protocol), stop, *(callbacks or [])],
    )
    use_same_names(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if stop.preempted:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}, saved; the same command goes on from here")
        return None
    return save_final(trainer, tokenizer, protocol, folder / "final")


def save_final(trainer: Any, tokenizer: PreTrainedTokenizerBase, protocol: RoundProtocol, folder: Path) -> Path:
    """Saves the trained model whole, a LoRA adapter merged into it, with tokenizer and protocol."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    merged = isinstance(model, PeftModel)  # its weights change back at the end of the block, so copies are kept
    with policy_tensors(model) as tensors:  # every rank reads them all, the first one keeps them
        weights = {name: tensor.to("cpu", copy=merged) for name, tensor in tensors if accelerator.is_main_process}
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
