"""One optimizer step on scripted episodes, on as many ranks as the launcher starts; `test_ranks.py` runs it.

python [-m torch.distributed.run --nproc_per_node 2] -m tests.rank_step MODEL OUT SETTINGS
SETTINGS is JSON: `lengths` (rounds of each episode), `rewards`, `judge` (folder of a reward model beside them), `lora`,
`train` (EpisodeGRPOConfig).
OUT gets the trained weights and the metrics.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl.config import EpisodeGRPOConfig
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.types import Completion
from rollout.weights import policy_tensors
from sft.adapter import lora_config
from sft.device import device_defaults
from sft.vocabulary import round_token_ids

GROUP = 4


class CountingEngine:
    """Episode i (over all ranks) has lengths[i] rounds; its text and logprobs depend on i and the round only."""

    def __init__(self, tokenizer, lengths):
        self.tokenizer, self.lengths = tokenizer, lengths
        self.first, self.started, self.waiting = 0, 0, []

    def submit(self, request_id, prompt_ids, sampling):
        history = self.tokenizer.decode(prompt_ids).partition("<history>\n")[2].partition("\n")[0]
        if history:
            episode, done = (int(part) for part in history.split("/"))
        else:
            episode, done = self.first + self.started, 0
            self.started += 1
        self.waiting.append((request_id, episode, done + 1))

    def poll(self):
        request_id, episode, number = self.waiting.pop(0)
        think = f"<think>\n{'a=1 ' * (1 + (3 * episode + number) % 5)}\n</think>"
        last = number == self.lengths[episode]
        text = think + (f"\\boxed{{{episode % 10}}}" if last else f"<summary>{episode}/{number}</summary>")
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        logprobs = [-6.3 + 0.1 * ((episode + number + i) % 7) for i in range(len(ids))]
        return [Completion(request_id, ids, logprobs, "stop")]


def main(model_path: str, out: str, settings: dict) -> None:
    lengths, rewards = settings["lengths"], settings["rewards"]

    def scripted(prompts, **_):
        return rewards

    args = EpisodeGRPOConfig(
        output_dir=str(Path(out).with_suffix("")), num_generations=GROUP, max_steps=1, learning_rate=1e-2,
        report_to="none", save_strategy="no", disable_tqdm=True, shuffle_dataset=False, logging_steps=1,
        lr_scheduler_type="constant", **device_defaults({"gradient_checkpointing": False} | settings["train"]),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    engine = CountingEngine(tokenizer, lengths)
    questions = [f"a={i} b+2 ?" for i in range(len(lengths) // GROUP)]
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    lora = {"r": 4, "target_modules": "all-linear"}
    trainer = EpisodeGRPOTrainer(
        model, [scripted, settings["judge"]] if settings.get("judge") else scripted, args,
        Dataset.from_list([{"prompt": q} for q in questions]), processing_class=tokenizer,
        peft_config=lora_config(lora, model, round_token_ids(tokenizer)) if settings.get("lora") else None,
        protocol=get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=16), engine=engine,
    )  # fmt: skip
    accelerator = trainer.accelerator
    engine.first = accelerator.process_index * len(lengths) // accelerator.num_processes
    trainer.train()
    with policy_tensors(accelerator.unwrap_model(trainer.model)) as tensors:
        weights = {name: tensor.detach().clone().contiguous() for name, tensor in tensors}
    if accelerator.is_main_process:
        save_file(weights, out)
        metrics = trainer.state.log_history[0] | {"ranks": accelerator.num_processes}
        Path(out).with_suffix(".json").write_text(json.dumps(metrics | {"type": str(accelerator.distributed_type)}))
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
