"""Trains a checkpoint by RL: checks gold answers, starts the engine, runs `EpisodeGRPOTrainer`, saves the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback

from rewards.answer import Verdict, verify_many
from rewards.score import Reward
from rewards.task import answer
from rewards.verifying.pool import warm
from rl.config import EpisodeGRPOConfig
from rl.settings.checkpoint import check_vocabulary
from rl.trainer import EpisodeGRPOTrainer
from rollout.endings import agree
from rollout.errors import InputError, loading
from rollout.processes import rank
from rollout.protocol import RoundProtocol
from rollout.tokenizer_check import check_tokenizer
from rollout.types import Engine
from sft.adapter import lora_config
from sft.device import device_defaults, make_arguments
from sft.faults import StopOnSignal
from sft.round_tokens import refuse_unlearned
from sft.train import SaveProtocol, last_checkpoint, save_final
from sft.trainer_seam import use_one_card
from sft.vocabulary import refuse_tokens_without_rows, round_token_ids


def check_gold(rows: list[dict[str, Any]], shown: int = 3) -> Counter[str]:
    """Scores each gold answer against itself and prints the ones that would never be rewarded.

    Raises:
        InputError: no gold answer verifies, so RL could not learn.
    """
    golds = ["" if row["answer"] is None else str(row["answer"]) for row in rows]
    # \displaystyle changes only the string, so the comparison itself has to find them equal
    boxes = [gold if gold.lstrip("+-").isdigit() else f"\\displaystyle {gold}" for gold in golds]
    verdicts = verify_many([(f"\\boxed{{{box}}}", gold) for box, gold in zip(boxes, golds, strict=True)])
    counts = Counter(str(v) for v in verdicts)
    failures = [(gold, v) for gold, v in zip(golds, verdicts, strict=True) if v != Verdict.CORRECT]
    print(f"gold answers that verify against themselves: {counts[Verdict.CORRECT]} of {len(golds)}")
    for gold, verdict in failures[:shown]:
        print(f"  {verdict}: {gold[:80]!r}")
    if not counts[Verdict.CORRECT]:
        raise InputError("no gold answer verifies against itself: check the `answer` column of data.questions")
    return counts


def run_rl(
    questions: list[dict[str, Any]],
    folder: Path,
    model_path: str,
    protocol: RoundProtocol,
    rewards: list[Reward],
    settings: dict[str, Any],
    *,
    start_engine: Callable[[PreTrainedModel, PreTrainedTokenizerBase], Engine],
    dtype: str = "float32",
    attn_implementation: str | None = None,
    lora: dict[str, Any] | None = None,
    seed: int = 0,
    episodes_dir: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path | None:
    """Trains on `questions`, resuming from the last checkpoint in `folder`. Returns the final model's folder; None
    after SIGTERM.

    Args:
        questions: rows with `question`, `answer` and any columns.
        model_path: folder of our SFT's model, or any checkpoint: folder or Hub id.
        settings: fields of `EpisodeGRPOConfig`.
        start_engine: called with the policy and its tokenizer before training.

    Raises:
        InputError: one line on why it can't be trained.
    """
    args = make_arguments(EpisodeGRPOConfig, "rl", output_dir=str(folder), seed=seed, **device_defaults(settings))
    use_one_card(args)
    for index, row in enumerate(questions):
        missing = {"question", "answer"} - row.keys()
        if missing:
            raise InputError(f"data.questions, row {index} has no {missing.pop()!r}; it has {', '.join(row)}")
    with loading(f"model {model_path}"):
        tokenizer = AutoTokenizer.from_pretrained(model_path)
    check_vocabulary(tokenizer.get_vocab(), protocol, model_path)
    if any(reward.fn is answer for reward in rewards):
        check_gold(questions)
        if rank() == 0:  # only the first rank scores
            warm()  # while the engine starts
    with loading(f"model {model_path}"):
        model = AutoModelForCausalLM.from_pretrained(model_path, dtype=dtype, attn_implementation=attn_implementation)
    check_tokenizer(tokenizer, protocol, thinks=protocol.name == "inftythink")
    refuse_tokens_without_rows(model, tokenizer)
    for line in agree(model, tokenizer, protocol.chat):
        if rank() == 0:
            print(f"rl: {line}")
    rounds = []
    if protocol.name == "inftythink":
        refuse_unlearned(model_path, model, tokenizer)
        rounds = round_token_ids(tokenizer)
    adapter = lora_config(lora, model, rounds) if lora else None  # before the engine, which starts slowly
    stop = StopOnSignal()
    trainer = EpisodeGRPOTrainer(
        model,
        rewards,
        args,
        Dataset.from_list([{"prompt": row.pop("question"), **row} for row in map(dict, questions)]),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[SaveProtocol(protocol), stop, *callbacks],
        protocol=protocol,
        engine=start_engine(model, tokenizer),
        episodes_dir=episodes_dir,
    )
    trainer.add_baseline(folder / "reference.jsonl")
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if stop.preempted:
        print(f"stopped by SIGTERM after step {trainer.state.global_step}, saved; run the same command to resume")
        return None
    return save_final(trainer.model, tokenizer, protocol, folder / "final")
