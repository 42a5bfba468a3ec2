"""How fast a model learns to write the round tokens: P(`<summary>`) while overfitting one row.

python benchmarks/round_tokens.py MODEL [--steps 10]

Full fine-tuning and LoRA, each with SFT's own model preparation; then the model is saved, reloaded and tested again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig

from rollout.protocol import get_protocol
from sft.adapter import lora_config
from sft.device import device_defaults
from sft.reconstruct import Round
from sft.round_tokens import WRITTEN
from sft.tokens import encode_round
from sft.train import load_model, save_final
from sft.trainer_seam import RoundSFTTrainer
from sft.vocabulary import round_token_ids

LORA = {"r": 32, "lora_alpha": 64, "target_modules": "all-linear"}
WAYS = {"full": (None, 1e-4), "lora": (LORA, 1e-3)}


def probabilities(model, row: dict[str, list[int]], tokens: dict[str, int]) -> dict[str, float]:
    """Returns the probability of each token at its position in the row's output."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([row["input_ids"]], device=model.device)).logits[0].float().softmax(-1)
    places = {name: row["labels"].index(token) for name, token in tokens.items()}
    return {name: round(float(found[place - 1, tokens[name]]), 4) for name, place in places.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    protocol = get_protocol("inftythink")
    item = Round("What is 3+4+5?", None, protocol.render_completion("3+4 is 7.", summary="so far 7"))
    for name, (lora, rate) in WAYS.items():
        set_seed(0)
        model, tokenizer = load_model(options.model, "float32")
        row = encode_round(item, protocol, tokenizer)
        tokens = {token: tokenizer.convert_tokens_to_ids(token) for token in WRITTEN}
        print(json.dumps({"way": name, "step": 0, **probabilities(model, row, tokens)}), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            args = SFTConfig(
                output_dir=folder, max_steps=options.steps, learning_rate=rate, lr_scheduler_type="constant",
                per_device_train_batch_size=1, logging_steps=1, save_strategy="no", report_to="none", max_length=None,
                disable_tqdm=True, **device_defaults({"gradient_checkpointing": False}),
            )  # fmt: skip
            trainer = RoundSFTTrainer(
                model, args, train_dataset=Dataset.from_list([row]), processing_class=tokenizer,
                peft_config=lora_config(lora, model, round_token_ids(tokenizer)) if lora else None,
            )  # fmt: skip
            trainer.train()
            curve = [log.get("sft/round_tokens/summary") for log in trainer.state.log_history]
            print(json.dumps({"way": name, "before_each_step": [round(p, 4) for p in curve if p is not None]}))
            print(json.dumps({"way": name, "step": options.steps, **probabilities(trainer.model, row, tokens)}))
            final = save_final(trainer.model, tokenizer, protocol, Path(folder) / "final")
            again = AutoModelForCausalLM.from_pretrained(final, dtype="float32").to(trainer.model.device)
            assert AutoTokenizer.from_pretrained(final).convert_tokens_to_ids(list(WRITTEN)) == list(tokens.values())
            print(json.dumps({"way": name, "saved and loaded": True, **probabilities(again, row, tokens)}), flush=True)


if __name__ == "__main__":
    main()
