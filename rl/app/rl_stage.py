"""The RL stage: gold answers checked, engine started, `EpisodeGRPOTrainer` run, final model saved."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import TrainerCallback

from rewards.answer import Verdict, verify_many
from rewards.load import load_rewards
from rewards.task import answer
from rewards.verifying.pool import warm
from rl.app.engine import engine_for
from rl.app.run_config import RunConfig
from rl.config import EpisodeGRPOConfig
from rl.exporting.publish import add_publisher
from rl.reference import add_reference
from rl.settings.checkpoint import check_context, check_vocabulary
from rl.settings.dtypes import trained_dtype
from rl.trainer import EpisodeGRPOTrainer
from rollout.endings import agree
from rollout.protocol import RoundProtocol
from rollout.tokenizer_check import check_tokenizer
from sft.adapter import lora_config
from sft.device import device_defaults, make_arguments, use_one_card
from sft.faults import StopOnSignal
from sft.round_tokens import refuse_unlearnt
from sft.train import SaveProtocol, last_checkpoint, save_final
from sft.vocabulary import refuse_tokens_without_rows, round_token_ids


def check_gold(rows: list[dict[str, Any]], shown: int = 3) -> Counter[str]:
    """Scores each gold answer against itself and prints the ones that would never be rewarded.

    Raises:
        ValueError: no gold answer verifies, so RL could not learn.
    """
    golds = ["" if row["answer"] is None else str(row["answer"]) for row in rows]
    # \displaystyle changes nothing but the string: the comparison itself must say that they are equal
    boxes = [gold if gold.lstrip("+-").isdigit() else f"\\displaystyle {gold}" for gold in golds]
    verdicts = verify_many([(f"\\boxed{{{box}}}", gold) for box, gold in zip(boxes, golds, strict=True)])
    counts = Counter(str(v) for v in verdicts)
    failures = [(gold, v) for gold, v in zip(golds, verdicts, strict=True) if v != Verdict.CORRECT]
    print(f"gold answers that verify against themselves: {counts[Verdict.CORRECT]} of {len(golds)}")
    for gold, verdict in failures[:shown]:
        print(f"  {verdict}: {gold[:80]!r}")
    if not counts[Verdict.CORRECT]:
        raise ValueError("no gold answer verifies against itself: check the `answer` column of data.questions")
    return counts


def run_rl(
    config: RunConfig, questions: list[dict[str, Any]], model_path: str, callbacks: list[TrainerCallback]
) -> Path | None:
    """Trains on `questions`, going on from the last checkpoint. Returns the final model; None after SIGTERM.

    Args:
        model_path: folder of our SFT's model, or, where the run has no SFT, any checkpoint: folder or Hub id.

    Raises:
        ValueError: one line on why it can't be trained.
    """
    folder = config.folder / "rl"
    args = make_arguments(
        EpisodeGRPOConfig,
        "rl",
        output_dir=str(folder),
        seed=config.seed,
        async_steps=config.rollout.async_steps,
        **device_defaults(config.trainer_settings("rl")),
    )
    use_one_card(args)
    for index, row in enumerate(questions):
        missing = {"question", "answer"} - row.keys()
        if missing:
            raise ValueError(f"data.questions, row {index} has no {missing.pop()!r}; it has {', '.join(row)}")
    protocol = config.protocol
    if config.sft is not None:
        protocol = RoundProtocol.load(model_path).replace(max_rounds=config.protocol.max_rounds)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    check_vocabulary(tokenizer.get_vocab(), protocol, model_path)
    check_context(AutoConfig.from_pretrained(model_path).to_dict(), config.rollout, model_path)
    rewards = load_rewards(config.rewards, protocol)
    if any(reward.fn is answer for reward in rewards):
        check_gold(questions)
        if int(os.environ.get("RANK", "0")) == 0:  # only the first rank scores
            warm()  # while the engine starts
    dtype = trained_dtype(config.model, config.rl, torch.cuda.is_available())
    attention = config.model.attn_implementation
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, attn_implementation=attention)
    check_tokenizer(tokenizer, protocol, thinks=protocol.name == "inftythink")
    refuse_tokens_without_rows(model, tokenizer)
    for line in agree(model, tokenizer, protocol.chat):
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"rl: {line}")
    rounds = []
    if protocol.name == "inftythink":
        refuse_unlearnt(model_path, model, tokenizer)
        rounds = round_token_ids(tokenizer)
    lora, stop = config.model.lora, StopOnSignal()
    adapter = lora_config(lora, model, rounds) if lora else None  # both before the engine, whose start takes long
    engine = engine_for(config, model_path, tokenizer, model)
    dataset = Dataset.from_list([{"prompt": row.pop("question"), **row} for row in map(dict, questions)])
    trainer = EpisodeGRPOTrainer(
        model,
        rewards,
        args,
        dataset,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[SaveProtocol(protocol), stop, *callbacks],
        protocol=protocol,
        engine=engine,
        episodes_dir=config.folder / "episodes",
    )
    publisher = add_publisher(trainer, config, protocol)
    add_reference(trainer, folder / "reference.jsonl")
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        final = None if stop.preempted else save_final(trainer, tokenizer, protocol, folder / "final")
    except BaseException:
        if publisher:
            publisher.finish(wait=False)  # no upload outlives the training: the next one takes it up
        raise
    if publisher:
        publisher.finish(wait=not stop.preempted)
    if stop.preempted:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}, saved; the same command goes on from here")
    return final
