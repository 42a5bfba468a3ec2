"""A small model of the demo's task that writes rounds: tests of what comes after training need one that does."""

from __future__ import annotations

import random
from pathlib import Path

from examples.chains.model import build
from examples.chains.task import summarize, traces
from rollout.protocol import RoundProtocol, get_protocol
from sft.reconstruct import reconstruct_rounds

STEPS_A_ROUND = 2
PROTOCOL = {"segment_tokens": 12, "summary_tokens": 4, "max_rounds": 5}


def rows(protocol: RoundProtocol, tokenizer, count: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of rounds of two steps each, of chains of 1 to 7 steps."""
    made = []
    for trace in traces(count, seed=5, steps=[1, 7]):
        lines = trace["trace"].removeprefix("<think>\n").partition("</think>\n")[0].splitlines(keepends=True)
        lines[-2:] = ["".join(lines[-2:])]  # the end belongs to the last step
        segments = ["".join(lines[i : i + STEPS_A_ROUND]).strip("\n") for i in range(0, len(lines), STEPS_A_ROUND)]
        summaries = [summarize(trace["question"], None, segment) for segment in segments[:-1]]
        conclusion = f"\n\\boxed{{{trace['answer']}}}"
        for part in reconstruct_rounds(trace["question"], segments, summaries, conclusion):
            prompt = protocol.render_prompt(tokenizer, part.question, part.history)
            output = tokenizer.encode(part.completion, add_special_tokens=False)
            made.append((prompt, [*output, tokenizer.eos_token_id]))
    return made


def build_rounds_model(folder: Path, steps: int = 250) -> str:
    """Trains for some seconds on the CPU. Most of its episodes end in a conclusion, few of them in the right one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build(str(folder), hidden=64, layers=2, heads=2, context=192)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    protocol = get_protocol("inftythink", **PROTOCOL)
    data = rows(protocol, tokenizer, 2000)
    rng = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        batch = rng.sample(data, 32)
        width = max(len(prompt) + len(output) for prompt, output in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)  # [B, T]
        labels = torch.full_like(ids, -100)
        for row, (prompt, output) in enumerate(batch):
            whole = torch.tensor(prompt + output)
            ids[row, : len(whole)] = whole
            labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
        model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    protocol.save(folder)
    return str(folder)
