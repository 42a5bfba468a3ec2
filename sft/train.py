"""SFT on rounds with `trl.SFTTrainer`: loss on the outputs only, prompts from the same code as the rollouts."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback
from trl import SFTConfig

from rollout.endings import agree
from rollout.errors import loading
from rollout.protocol import RoundProtocol
from rollout.tokenizer_check import changed_texts, check_pad_token, check_tokenizer
from rollout.weights import policy_tensors
from sft.adapter import lora_config
from sft.checkpoints import whole_folder
from sft.damage import write_sums
from sft.device import device_defaults, make_arguments
from sft.faults import StopOnSignal
from sft.round_tokens import last_probabilities, record_probabilities
from sft.tokens import fingerprint_of, read_rounds, tokenize_rounds
from sft.trainer_seam import RoundSFTTrainer, use_one_card
from sft.vocabulary import add_round_tokens, round_token_ids

_LOOKED_AT = 50  # outputs of the data that are encoded and decoded before training


def load_model(
    path: str, dtype: str, attn_implementation: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads model and tokenizer, and adds the protocol's special tokens to the vocabulary."""
    with loading(f"model {path}"):
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attn_implementation)
    add_round_tokens(model, tokenizer)
    return model, tokenizer


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
    """Trains, resuming from the last checkpoint in `folder`. Returns the final model's folder; None after SIGTERM.

    Args:
        data: folder of a finished data stage.
    """
    settings = device_defaults({"max_length": None, **settings})
    # First, to report a mistake in it before the model loads, and to set up the ranks before `PartialState` does.
    args = make_arguments(SFTConfig, "sft", output_dir=str(folder), seed=seed, **settings)
    use_one_card(args)
    model, tokenizer = load_model(model_path, dtype, attn_implementation)
    check_tokenizer(tokenizer, protocol)
    check_pad_token(tokenizer.get_vocab(), args.pad_token, model_path)
    lines = agree(model, tokenizer, protocol.chat)
    changed = changed_texts(tokenizer, (item.completion for item in islice(read_rounds(data, protocol), _LOOKED_AT)))
    lines += [f"{changed}: the model will learn the changed text"] if changed else []
    with PartialState().main_process_first():  # the other ranks read the first one's result
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
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if stop.preempted:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}, saved; run the same command to resume")
        return None
    final = save_final(trainer.model, tokenizer, protocol, folder / "final")
    if trainer.is_world_process_zero():
        record_probabilities(last_probabilities(trainer.state.log_history), final)
    return final


def save_final(model: Any, tokenizer: PreTrainedTokenizerBase, protocol: RoundProtocol, folder: Path) -> Path:
    """Save a trained model with its LoRA adapter merged, its tokenizer and its protocol. Every rank calls it."""
    state, model = PartialState(), extract_model_from_parallel(model)
    with policy_tensors(model) as tensors:  # every rank reads all of them, the main one keeps them
        weights = {name: tensor.to("cpu") for name, tensor in tensors if state.is_main_process}
    if state.is_main_process:
        model = model.get_base_model() if isinstance(model, PeftModel) else model
        with whole_folder(folder) as part:
            model.save_pretrained(part, state_dict=weights)
            tokenizer.save_pretrained(part)
            protocol.save(part)
            write_sums(part)
    state.wait_for_everyone()
    return folder


class SaveProtocol(TrainerCallback):
    """Writes `protocol.json` into every checkpoint."""

    def __init__(self, protocol: RoundProtocol):
        self.protocol = protocol

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.protocol.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def last_checkpoint(folder: Path) -> str | None:
    """Returns the newest complete checkpoint of a stage, the same on every rank: rank 0 searches and cleans up.

    Raises:
        DamagedCheckpoint: all checkpoints are damaged.
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
