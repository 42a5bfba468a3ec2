"""SFT on one row until it is known by heart; `test_round_tokens.py` runs it, alone and under DeepSpeed.

python -m tests.rank_round_tokens MODEL OUT SETTINGS
SETTINGS is JSON: `lora` (fields of peft.LoraConfig, or null), `deepspeed`, `steps`, `init` (the model is spread when it
is loaded, as a trainer's arguments that stand before it have it).
OUT gets `checkpoint-N`, `final` and `history.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig

from rollout.protocol import get_protocol
from sft.adapter import lora_config
from sft.device import device_defaults
from sft.reconstruct import Round
from sft.round_tokens import last_probabilities, record_probabilities
from sft.tokens import encode_round
from sft.train import load_model, save_final
from sft.trainer_seam import RoundSFTTrainer
from sft.vocabulary import round_token_ids

PROTOCOL = get_protocol("inftythink")
ITEM = Round("Add 3, 4 and 5.", None, PROTOCOL.render_completion("We add and see.", summary="The sum so far"))


def train(model_path: str, out: Path, lora=None, deepspeed=None, steps=40, init=False, rate=1e-2, resume=None):
    """(trainer, tokenizer, row, the final model's folder)."""
    settings = {
        "max_steps": steps, "learning_rate": rate, "lr_scheduler_type": "constant", "logging_steps": 5,
        "per_device_train_batch_size": 1, "save_steps": steps, "report_to": "none", "max_length": None,
        "disable_tqdm": True, "gradient_checkpointing": False, "max_grad_norm": 10.0, "deepspeed": deepspeed,
    }  # fmt: skip
    loaded = None if init else load_model(model_path, "float32")
    args = SFTConfig(output_dir=str(out), **device_defaults(settings))
    model, tokenizer = loaded or load_model(model_path, "float32")
    row = encode_round(ITEM, PROTOCOL, tokenizer)
    set_seed(0)  # loading may have drawn numbers: the adapter starts the same
    trainer = RoundSFTTrainer(
        model, args, train_dataset=Dataset.from_list([row] * 2), processing_class=tokenizer,
        peft_config=lora_config(lora, model, round_token_ids(tokenizer)) if lora else None,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    final = save_final(trainer.model, tokenizer, PROTOCOL, out / "final")
    if trainer.is_world_process_zero():
        record_probabilities(last_probabilities(trainer.state.log_history), final)
        (out / "history.json").write_text(json.dumps(trainer.state.log_history))
    return trainer, tokenizer, row, final


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]), **json.loads(sys.argv[3]))
