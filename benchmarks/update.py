"""The update's speed: tokens/s on rows of skewed lengths, against stock TRL's padded rows and rows of full length.

    python benchmarks/update.py [--rows 256] [--repeats 5] [--rounds]

One process, interleaved, medians of `repeats` steps after a warm-up. Both trainers get the same rows (log-normal, 16 to
1024 tokens) and limit of padded tokens per forward pass. Stock TRL is `GRPOTrainer` with a `rollout_func` that returns
these rows. Times only forward, backward and optimizer step; then the cost of 64-round over 8-round episodes, with
micro-batches that both fill (`--rounds`: only that). Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from examples.chains.model import build
from rl.config import EpisodeGRPOConfig
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.types import Completion

LONGEST, GROUP = 1024, 8


def skewed(count: int) -> list[int]:
    """Returns completion lengths as in RL: most are short, a few are near the limit, the longest reaches it."""
    rng = random.Random(0)
    lengths = [min(LONGEST, max(16, int(rng.lognormvariate(4.8, 0.8)))) for _ in range(count - 1)]
    return [*lengths, LONGEST]


def completion(length: int, index: int) -> list[int]:
    rng = random.Random(index)
    return [rng.randrange(20, 200) for _ in range(length)]


class RowsEngine:
    """Answers the n-th request of a step with the n-th row; an episode has `rounds` requests."""

    def __init__(self, tokenizer, lengths, rounds=1):
        self.lengths, self.rounds, self.seen, self.waiting = lengths, rounds, 0, []
        summary = tokenizer.encode("<think>\n\n</think><summary>a=1</summary>", add_special_tokens=False)
        final = tokenizer.encode("<think>\n\n</think>", add_special_tokens=False)
        self.end, self.summary, self.final, self.done = [tokenizer.eos_token_id], summary, final, {}

    def submit(self, request_id, prompt_ids, sampling):
        self.waiting.append((request_id, len(prompt_ids)))

    def poll(self):
        request_id, _ = self.waiting.pop()  # the newest, so that an episode finishes before the next one starts
        length = self.lengths[self.seen % len(self.lengths)]
        if self.rounds == 1:
            ids = completion(length, self.seen)
        else:
            head = self.final if (self.seen + 1) % self.rounds == 0 else self.summary
            ids = [*head[:2], *completion(length - len(head) - 1, self.seen), *head[2:], *self.end]
        self.seen += 1
        return [Completion(request_id, ids, None, "stop")]


class TimedGRPO(GRPOTrainer):
    """Stock TRL; records the seconds of each optimizer step without generation and scoring."""

    def __init__(self, *args, **kwargs):
        self.seconds, self.outside, self.spent = [], 0.0, 0.0
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        started = time.perf_counter()
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.outside += time.perf_counter() - started

    def training_step(self, *args, **kwargs):
        started = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        self.spent += time.perf_counter() - started
        if self._step % self.args.gradient_accumulation_steps == 0:
            self.seconds.append(self.spent - self.outside)
            self.spent = self.outside = 0.0
        return loss


def rewards(prompts, **_):
    return [float(index % 3) for index in range(len(prompts))]


def common(folder, steps):
    return {
        "output_dir": str(folder), "max_steps": steps, "num_generations": GROUP, "max_completion_length": LONGEST,
        "bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "gradient_checkpointing": False,
        "disable_tqdm": True, "logging_steps": 1, "learning_rate": 1e-6,
    }  # fmt: skip


def ours(folder, tokenizer, lengths, bound, steps, rounds=1):
    """Returns the seconds of `time/update` in each step."""
    episodes = len(lengths) // rounds
    args = EpisodeGRPOConfig(
        per_device_train_batch_size=episodes, max_tokens_per_microbatch=bound, **common(folder, steps)
    )
    protocol = get_protocol("vanilla", segment_tokens=LONGEST) if rounds == 1 else get_protocol(
        "inftythink", segment_tokens=LONGEST, summary_tokens=8, max_rounds=rounds
    )  # fmt: skip
    trainer = EpisodeGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32), rewards, args,
        Dataset.from_list([{"prompt": "k=3 l+4 ?"}] * (episodes // GROUP)), processing_class=tokenizer,
        protocol=protocol, engine=RowsEngine(tokenizer, lengths, rounds),
    )  # fmt: skip
    trainer.train()
    logs = [log for log in trainer.state.log_history if "time/update" in log]
    assert all(log["episode/rounds/mean"] == rounds for log in logs)
    return [log["time/update"] for log in logs]


def stock(folder, tokenizer, lengths, bound, steps):
    rows = bound // (LONGEST + 16)  # rows per forward pass: TRL pads all to the longest row of the generation batch

    def rollout(prompts, trainer):
        ids = [tokenizer.encode(p, add_special_tokens=False) for p in prompts]
        outputs = [completion(length, index) for index, length in enumerate(lengths)]
        return {"prompt_ids": ids, "completion_ids": outputs, "logprobs": None}

    args = GRPOConfig(
        per_device_train_batch_size=rows, gradient_accumulation_steps=len(lengths) // rows, **common(folder, steps)
    )
    trainer = TimedGRPO(
        AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32), rewards, args,
        Dataset.from_list([{"prompt": "k=3 l+4 ?"}] * (len(lengths) // GROUP)), processing_class=tokenizer,
        rollout_func=rollout,
    )  # fmt: skip
    trainer.train()
    return trainer.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", action="store_true", help="only 64 rounds against 8")
    options = parser.parse_args()
    lengths = skewed(options.rows)
    total = sum(lengths)
    full = [LONGEST] * (GROUP * round(total / LONGEST / GROUP))
    bound, steps = 8 * (LONGEST + 16), 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(str(folder / "model"), hidden=256, layers=4, heads=8, context=2 * LONGEST)
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        ways = {
            "ours, skewed rows": lambda: total / ours(folder, tokenizer, lengths, bound, steps)[-1],
            "stock TRL, the same rows": lambda: total / stock(folder, tokenizer, lengths, bound, steps)[-1],
            "ours, rows of 1024": lambda: sum(full) / ours(folder, tokenizer, full, bound, steps)[-1],
        }
        rounds = {
            "8 rounds (s)": lambda: ours(folder, tokenizer, [64] * 8 * 3 * GROUP, 2048, 4, rounds=8),
            "64 rounds (s)": lambda: ours(folder, tokenizer, [64] * 64 * 3 * GROUP, 2048, 2, rounds=64),
        }
        if options.rounds:
            ways = {}
        ways |= {way: lambda measure=measure: median(measure()[1:]) for way, measure in rounds.items()}
        results: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, measure in ways.items():
                results[way].append(measure())
    mid = {way: median(values) for way, values in results.items()}
    print("| way | median tokens/s, or s (range) |\n|---|---|")
    for way, values in results.items():
        print(f"| {way} | {mid[way]:.4g} ({min(values):.4g} to {max(values):.4g}) |")
    print()
    if not options.rounds:
        print(f"{options.rows} rows, {total} generated tokens, median length {median(lengths):.0f}, longest {LONGEST}")
        print(f"ours / stock TRL: {mid['ours, skewed rows'] / mid['stock TRL, the same rows']:.2f}")
        print(f"skewed / rows of full length: {mid['ours, skewed rows'] / mid['ours, rows of 1024']:.2f}")
    print(f"64 rounds / 8 rounds: {mid['64 rounds (s)'] / mid['8 rounds (s)']:.2f}")


if __name__ == "__main__":
    main()
