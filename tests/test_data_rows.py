"""The data stage's rows are the method's table, for made-up and real traces, and TRL reads them as we do."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from datasets import load_dataset

from rollout.protocol import get_protocol
from sft.data.settings import DataSettings
from sft.tokens import read_rounds, tokenize_rounds
from tests.bpe_model import build_tokenizer
from tests.test_data_stage import PROTOCOL, bpe, made_up, make_data, short, tables, write_some_card  # noqa: F401 -- a fixture


def test_the_rows_decode_to_the_methods_table(bpe, tmp_path):  # noqa: F811
    rows = made_up(6)
    make_data(rows, tmp_path, PROTOCOL, bpe, short)
    data = tables(tmp_path)
    start = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    for number, row in enumerate(rows):
        reasoning = row["trace"].removeprefix("<think>\n").partition("\n</think>")[0]
        conclusion = f"\n\\boxed{{{number}}}"
        rounds = [r for r in data["rounds"] if r["row"] == number]
        about = data["traces"][number]
        ends = [0, *about["ends"]]
        pieces = [reasoning[a:b] for a, b in pairwise(ends)]
        assert "".join(pieces) == reasoning and len(pieces) == len(rounds) > 2
        summary = None
        for place, (item, piece) in enumerate(zip(rounds, pieces, strict=True)):
            prompt = start.format(row["question"])
            assert item["history"] == summary and item["round"] == place
            if summary is not None:
                prompt += f"<history>\n{summary}\n</history>"
            summary = short(row["question"], summary, piece.strip("\n"))
            ending = f"<summary>{summary}</summary>" if place < len(rounds) - 1 else conclusion
            output = f"<think>\n{piece.strip(chr(10))}\n</think>{ending}"
            assert (item["prompt"], item["completion"]) == (prompt, output)
            assert item["segment_tokens"] == len(bpe.encode(piece, add_special_tokens=False)) <= 64
        twin = data["vanilla"][number]
        assert (twin["prompt"], twin["completion"]) == (start.format(row["question"]), row["trace"])
    encoded, _ = tokenize_rounds(read_rounds(tmp_path, PROTOCOL), PROTOCOL, bpe)
    for row, item in zip(encoded, data["rounds"], strict=True):
        masked = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        trained = [label for label in row["labels"] if label != -100]
        assert bpe.decode(masked) == item["prompt"]
        assert bpe.decode(trained) == item["completion"] + "<|im_end|>"


@pytest.mark.slow
@pytest.mark.parametrize("eta", [128, 512, 1024, 2048])
def test_real_traces_decode_to_the_table_too(shared_data, real_bpe, tmp_path, eta):
    rows = [json.loads(line) for line in (shared_data / "traces.jsonl").read_text().splitlines()]
    protocol = get_protocol("inftythink", segment_tokens=eta, summary_tokens=64, max_rounds=99)
    settings = DataSettings(duplicates="keep")
    report = make_data(rows, tmp_path, protocol, real_bpe, lambda q, p, segment: f"{len(segment)} letters", settings)
    data = tables(tmp_path)
    assert report["kept"] + sum(report["dropped"].values()) == report["traces"] == len(rows)
    kept = [about for about in data["traces"] if about["reason"] is None]
    assert len(kept) == report["kept"] == 175
    encoded, _ = tokenize_rounds(read_rounds(tmp_path, protocol), protocol, real_bpe)
    decoded = iter([real_bpe.decode(row["input_ids"]) for row in encoded])
    rounds = iter(data["rounds"])
    for about in kept:
        row = rows[about["row"]]
        reasoning, _, conclusion = row["trace"].removeprefix("<think>").partition("</think>")
        reasoning = reasoning.strip("\n")
        assert about["ends"][-1] == len(reasoning) and max(about["tokens"]) <= eta
        summary = None
        for a, b in pairwise([0, *about["ends"]]):
            item, text = next(rounds), next(decoded)
            history = "" if summary is None else f"<history>\n{summary}\n</history>"
            summary = f"{len(reasoning[a:b].strip(chr(10)))} letters"
            ending = conclusion.rstrip() if b == len(reasoning) else f"<summary>{summary}</summary>"
            output = f"<think>\n{reasoning[a:b].strip(chr(10))}\n</think>{ending}"
            prompt = f"<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n{history}"
            assert item["prompt"] + item["completion"] == prompt + output
            assert text == prompt + output + "<|im_end|>"


@pytest.fixture(scope="module")
def real_bpe(shared_data, tmp_path_factory):
    texts = [json.loads(line)["trace"] for line in (shared_data / "traces.jsonl").read_text().splitlines()]
    return build_tokenizer(tmp_path_factory.mktemp("real"), texts, 8000)


def test_trl_reads_the_same_rows(bpe, tmp_path):  # noqa: F811
    """The data set is in TRL's own form: its trainer makes the ids and the mask that ours makes."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from trl import SFTConfig, SFTTrainer

    make_data(made_up(3), tmp_path / "data", PROTOCOL, bpe, short)
    write_some_card(tmp_path / "data")
    dataset = load_dataset(str(tmp_path / "data/dataset"), "rounds", split="train", cache_dir=str(tmp_path / "cache"))
    model = Qwen3ForCausalLM(Qwen3Config(
        vocab_size=len(bpe), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16,
    ))  # fmt: skip
    args = SFTConfig(output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", max_length=None)
    trainer = SFTTrainer(model, args, train_dataset=dataset, processing_class=bpe)
    ours, _ = tokenize_rounds(read_rounds(tmp_path / "data", PROTOCOL), PROTOCOL, bpe)
    for theirs, mine in zip(trainer.train_dataset, ours, strict=True):
        assert theirs["input_ids"] == mine["input_ids"]
        assert theirs["labels"] == mine["labels"]
    twin = load_dataset(str(tmp_path / "data/dataset"), "vanilla", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(twin) == 3 and {"prompt", "completion"} <= set(twin.column_names)
