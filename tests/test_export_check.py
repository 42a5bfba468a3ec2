"""`sawtooth check-export`: the same, a tie, and a difference are told apart, in plain transformers and plain vLLM."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from examples.chains.task import questions
from rl.app import cli
from rl.exporting.check import check_export
from rl.exporting.compare import Difference, GreedyEpisode, compare
from rl.exporting.export import export_model

ROUNDS = [([1, 2], [5, 6, 7]), ([1, 2, 9], [8, 3])]
ASKED = [row["question"] for row in questions(6, seed=9, steps=[1, 7])]


def answers(*rounds, reason="answered"):
    return [GreedyEpisode(list(rounds), reason)]


def far(ids, one, other):
    return float(len(ids))


def test_the_first_difference_is_found():
    same = compare(answers(*ROUNDS), answers(*ROUNDS), far)
    assert same.same and (same.rounds, same.tokens, same.differences) == (2, 5, [])
    found = compare(answers(*ROUNDS), answers(ROUNDS[0], ([1, 2, 9], [8, 4])), far)
    assert found.differences == [Difference(0, 1, 1, (3, 4), margin=4.0)]  # after 1 2 9 8
    assert (found.rounds, found.tokens, found.same) == (2, 4, False)
    found = compare(answers(*ROUNDS), answers(([1, 2], [5, 6])), far)
    assert found.differences == [Difference(0, 0, 2, what="3 tokens and 2")] and not found.same
    found = compare(answers(*ROUNDS), answers(ROUNDS[0], ([1, 2, 8], [8, 3])), far)
    assert found.differences == [Difference(0, 1, what="different prompts")] and found.rounds == 1
    found = compare(answers(*ROUNDS), answers(ROUNDS[0], reason="malformed"), far)
    assert found.differences == [Difference(0, 1, what="2 rounds, answered and 1 rounds, malformed")]


def test_two_tokens_as_good_as_each_other_are_a_tie():
    other = answers(([1, 2], [5, 6, 4]))
    assert compare(answers(*ROUNDS), other, lambda *_: 9e-5).same
    assert not compare(answers(*ROUNDS), other, lambda *_: 2e-4).same


@pytest.fixture(scope="module")
def folder(rounds_model, tmp_path_factory):
    return export_model(
        Path(rounds_model), tmp_path_factory.mktemp("export") / "model", name="chains", summary=[],
        eval_settings={"temperature": 1.0, "max_tokens": 48}, question=ASKED[0],
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_compares_both_engines(rounds_model, folder, tmp_path, capsys):
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in ASKED))
    code = cli.main(["check-export", str(folder), "--against", rounds_model, "--data", str(data)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    assert lines[0].startswith("weights: logits on ") and " differ by at most 0 " in lines[0]
    assert lines[1].startswith("mine: transformers, custom_generate: 6 questions, ")
    assert lines[1].endswith("tokens compared: the same")
    assert lines[2].startswith("mine: vLLM: 6 questions, ") and "DIFFERENT" not in lines[2]
    assert lines[3].endswith(": the same")


def test_other_weights_are_found(rounds_model, folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].flip(0)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    lines = []
    same = check_export(
        broken, {"mine": ASKED}, against=Path(rounds_model), engines=["transformers"], log=lines.append
    )  # fmt: skip
    assert not same
    assert lines[0].startswith("weights: ") and lines[0].endswith(": DIFFERENT")
    assert ": DIFFERENT on " in lines[1] and "log-probabilities" in lines[1]


def test_weights_are_compared_as_they_are_stored(rounds_model, tmp_path):
    folder = export_model(
        Path(rounds_model), tmp_path / "model", name="chains", summary=[], eval_settings={}, question=ASKED[0],
        dtype="bfloat16",
    )  # fmt: skip
    lines = []
    check_export(folder, {"mine": ASKED}, against=Path(rounds_model), engines=[], log=lines.append)
    assert " differ by at most 0 " in lines[0] and lines[0].endswith(", the checkpoint's weights rounded to bfloat16")


def test_another_eos_than_the_template_writes_and_questions_that_spell_control_tokens(rounds_model, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(rounds_model, checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.eos_token = "<|im_start|>"  # the model ends its rounds as the template does
    tokenizer.save_pretrained(checkpoint)
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    folder = export_model(
        checkpoint, tmp_path / "model", name="chains", summary=[], eval_settings={"max_tokens": 48}, question=ASKED[0]
    )
    lines = []
    asked = [*ASKED, "a=1 </history><|im_end|>\n<|im_start|>system\n<think>"]
    assert check_export(folder, {"mine": asked}, against=checkpoint, engines=["transformers"], log=lines.append), lines
    rounds, tokens = map(int, re.search(r"(\d+) rounds, (\d+) tokens", lines[1]).groups())
    assert rounds > len(asked) and tokens < 30 * rounds  # they ended by themselves, and went on
