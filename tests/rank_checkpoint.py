"""A trainer's checkpoint under DeepSpeed on as many ranks as the launcher starts; `test_export_zero.py` runs it.

python -m torch.distributed.run --nproc_per_node 2 -m tests.rank_checkpoint MODEL OUT STAGE lora|whole
OUT gets `checkpoint-2` and, in `gathered.safetensors`, the weights as the live model has them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from rollout.weights import policy_tensors
from sft.device import device_defaults

ROOT = Path(__file__).resolve().parents[1]


def main(model_path: str, out: Path, stage: str, kind: str) -> None:
    config = json.loads((ROOT / f"configs/deepspeed/zero{stage}.json").read_text())
    config["zero_optimization"].pop("stage3_gather_16bit_weights_on_model_save", None)  # shards only
    args = TrainingArguments(
        output_dir=str(out), max_steps=2, save_steps=2, learning_rate=1e-2, per_device_train_batch_size=2,
        report_to="none", disable_tqdm=True, **device_defaults({"deepspeed": config}),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = tokenizer.encode("a=1 b+2 ?", add_special_tokens=False)
    rows = Dataset.from_list([{"input_ids": ids, "labels": ids}] * 16)
    trainer = Trainer(model, args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    with policy_tensors(trainer.accelerator.unwrap_model(trainer.model)) as tensors:
        weights = {name: tensor.detach().clone().contiguous() for name, tensor in tensors}
    if trainer.accelerator.is_main_process:
        save_file(weights, out / "gathered.safetensors")
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
