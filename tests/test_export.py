"""The exported folder: what is in it, from which checkpoints it is made, and the mistakes that one line explains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl.app import cli
from rl.app.run_config import parse_config
from rl.evaluation.plots import context_over_time, pick_saw
from rl.exporting.export import export_model
from rl.exporting.run_folder import find_run
from rollout.protocol import get_protocol
from sft.train import load_model, save_final
from tests.bpe_model import build_tokenizer
from tests.conftest import build_model

TEXTS = ["The sum of two odd numbers is even. So is their difference. We add them and see."]
SETTINGS = {"samples": 4, "temperature": 0.7, "top_p": 0.9, "max_tokens": 40, "max_rounds": 5}


def export(source, folder, **settings):
    plain = {"name": "demo", "summary": [], "eval_settings": SETTINGS, "question": "a=1 b+2 ?"}
    return export_model(Path(source), folder, **plain | settings)


def read(path):
    return json.loads(Path(path).read_text())


def weights_of(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """As a trainer leaves it."""
    folder = tmp_path / "checkpoint-3"
    shutil.copytree(tiny_model, folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"):
        (folder / name).write_text("{}")
    get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=3).save(folder)
    return folder


def test_the_folder_holds_all_that_is_needed_and_nothing_of_the_training(checkpoint, tmp_path):
    picture = tmp_path / "accuracy.png"
    picture.write_bytes(b"png")
    row = {"stage": "rl", "protocol": "inftythink", "dataset": "held_out", "samples": 4, "accuracy": 0.75,
           "accuracy_ci95": [0.1, 0.9], "rounds_mean": 2.0, "tokens_mean": 30.0, "peak_context_mean": 40.0,
           "latency_mean": 1.0}  # fmt: skip
    folder = export(checkpoint, tmp_path / "model", summary=[row], pictures=[picture], shard_size="100KB")
    names = {p.name for p in folder.iterdir()}
    shards = {name for name in names if name.endswith(".safetensors")}
    assert len(shards) > 1
    assert names - shards == {
        "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "protocol.json", "custom_generate", "README.md",
        "eval_summary.json", "accuracy.png",
    }  # fmt: skip
    assert {p.name for p in (folder / "custom_generate").iterdir()} == {"generate.py", "plain_text.py"}
    before, after = weights_of(checkpoint), weights_of(folder)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert read(folder / "protocol.json") == read(checkpoint / "protocol.json")
    assert "held_out" in (folder / "README.md").read_text()


def test_generation_config(checkpoint, tmp_path):
    """Ends and padding of the tokenizer, sampling of the evaluation; what no rollout had goes."""
    own = {"eos_token_id": [2], "repetition_penalty": 1.1, "top_k": 20, "do_sample": True}
    (checkpoint / "generation_config.json").write_text(json.dumps(own))
    folder = export(checkpoint, tmp_path / "sampled")
    found = read(folder / "generation_config.json")
    found.pop("transformers_version")
    assert found == {
        "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_new_tokens": 40,
        "eos_token_id": [1, 2], "pad_token_id": 0,
    }  # fmt: skip
    assert read(folder / "config.json")["use_cache"]
    found = read(export(checkpoint, tmp_path / "greedy", eval_settings={"temperature": 0.0}) / "generation_config.json")
    assert "temperature" not in found and not found.get("do_sample")
    assert found["max_new_tokens"] == 8 + 4 + 16  # a segment, a summary, and what stands around them
    found = read(export(checkpoint, tmp_path / "unknown", eval_settings={}) / "generation_config.json")
    assert found["do_sample"] and found["top_k"] == 20


def test_an_export_that_fails_leaves_the_one_before(checkpoint, tmp_path, monkeypatch):
    folder = export(checkpoint, tmp_path / "model")
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}

    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("rl.exporting.card.write_card", broken)
    with pytest.raises(OSError):
        export(checkpoint, tmp_path / "model")
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert not list(tmp_path.glob("*.part"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """(folder of a LoRA adapter whose SFT has added the protocol's tokens, the live model, its base's folder)."""
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    vocabulary = len(build_tokenizer(base, TEXTS, 300))
    other = AutoModelForCausalLM.from_pretrained(build_model(tmp_path_factory.mktemp("other")))
    other.resize_token_embeddings(vocabulary)
    other.save_pretrained(base)
    model, tokenizer = load_model(str(base), "float32")
    assert len(tokenizer) > vocabulary
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(model, config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    get_protocol("inftythink").save(folder)
    return folder, model, base


def logits(model, tokenizer):
    ids = tokenizer.encode("<|im_start|>The sum<summary>of two</summary>", add_special_tokens=False)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.float()


def test_lora_is_merged_into_its_base(adapter, tmp_path):
    folder, model, base = adapter
    out = export(folder, tmp_path / "model")
    merged, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert tokenizer.encode("<summary>") == AutoTokenizer.from_pretrained(folder).encode("<summary>")
    assert merged.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (logits(model, tokenizer) - logits(merged, tokenizer)).abs().max() < 1e-5
    assert not list(out.glob("adapter*"))

    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    settings = read(moved / "adapter_config.json") | {"base_model_name_or_path": None}
    (moved / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="names no base model: give it with --base MODEL"):
        export(moved, tmp_path / "again")
    again = export(moved, tmp_path / "again", base=str(base), dtype="bfloat16")
    assert {tensor.dtype for tensor in weights_of(again).values()} == {torch.bfloat16}


def test_an_adapter_without_the_embeddings_of_its_tokens_is_refused(adapter, tmp_path):
    folder, model, _ = adapter
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    model.save_pretrained(bare, save_embedding_layers=False)
    with pytest.raises(ValueError, match=r"tokens, but its base has .* embeddings"):
        export(bare, tmp_path / "model")


def test_the_final_model_of_a_lora_run_is_merged(adapter, tmp_path):
    folder, _, base = adapter
    model, tokenizer = load_model(str(base), "float32")
    embeddings = AutoModelForCausalLM.from_pretrained(export(folder, tmp_path / "model")).get_input_embeddings()
    model.get_input_embeddings().load_state_dict(embeddings.state_dict())
    model = PeftModel.from_pretrained(model, str(folder)).eval()
    expected = logits(model, tokenizer)

    final = save_final(model, tokenizer, get_protocol("inftythink"), tmp_path / "final")
    assert not list(final.glob("adapter*"))
    assert (logits(AutoModelForCausalLM.from_pretrained(final), tokenizer) - expected).abs().max() < 1e-5


def sawtooth(*arguments):
    return cli.main(["export", *map(str, arguments)])


def test_a_checkpoint_of_a_run_takes_what_the_run_knows(checkpoint, tmp_path, monkeypatch):
    run = tmp_path / "runs/mine"
    shutil.copytree(checkpoint, run / "rl/checkpoint-3")
    config = parse_config({
        "name": "mine", "model": {"path": "base"}, "rl": {"max_completion_length": 24}, "eval": {"temperature": 0.3},
        "data": {"traces": "a.jsonl", "questions": "b.jsonl", "eval": {"mine": "nowhere.jsonl"}},
    })  # fmt: skip
    (run / "config.yaml").write_text(config.to_yaml())
    monkeypatch.chdir(tmp_path)
    assert sawtooth("runs/mine/rl/checkpoint-3", "--out", "out") == 0
    found = read("out/generation_config.json")
    assert found["temperature"] == 0.3 and found["max_new_tokens"] == 24
    card = Path("out/README.md").read_text()
    assert "mine (rl/checkpoint-3)" in card and str(tmp_path) not in card
    assert find_run(run / "base") is None  # nothing of the run's training is in it
    assert find_run(run / "export/step-5").facts["step"] == 5 and find_run(run / "sft/final").stage == "sft"


def test_mistakes_are_one_line(checkpoint, adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/final").mkdir(parents=True)
    (tmp_path / "run/checkpoint-7").mkdir()
    full = tmp_path / "full"
    shutil.copytree(checkpoint, full)
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare)
    (bare / "protocol.json").unlink()
    cut = tmp_path / "cut"
    shutil.copytree(adapter[0], cut)
    (cut / "adapter_model.safetensors").unlink()
    cases = {
        ("nowhere", "--out", "x"): "there is no folder nowhere",
        (
            "run",
            "--out",
            "x",
        ): "run is not a model: no config.json with weights, no LoRA adapter, no ZeRO shards; name one "
        "of those in it: checkpoint-7, final",
        (full,): "--out is missing",
        (full, "--out", "run"): "--out run already exists: name another folder, or delete it",
        (full, "--out", "x", "--shard-size", "big"): "--shard-size is 'big'; write a size as 500MB or 5GB",
        (full, "--out", "x", "--shard-size", "5GiB"): "--shard-size is '5GiB'; write a size as 500MB or 5GB",
        (full, "--out", "x", "--push"): "--push and --repo-id go together",
        (full, "--out", "x", "--base", "y"): "is a whole model: leave out --base",
        (full, "--out", "x", "--against", "y"): "`sawtooth export` of a checkpoint takes no '--against'",
        (full, "--out", "x", "--rl.max_steps=3"): "`sawtooth export` of a checkpoint takes no '--rl.max_steps=3'",
        (full, "--out", "x", "--dry-run"): "--dry-run has no effect for a checkpoint: leave it out",
        ("demo.yaml", "--out", "x"): "--out has no effect for demo.yaml, which is a config: leave it out",
        (bare, "--out", "x"): "has no protocol.json: give the protocol of its rounds, as --protocol inftythink",
        (bare, "--out", "x", "--protocol", "delta"): "protocol.name is 'delta'; known protocols",
        (bare, "--out", "x", "--protocol", "vanilla", "rounds=3"): "protocol has no setting 'rounds'",
        (bare, "--out", "x", "--protocol", "vanilla", "rounds"): "can't read 'rounds': write key=value",
        (cut, "--out", "x"): "has an adapter_config.json but no adapter_model.safetensors",
        ("--check", full): "has no custom_generate/generate.py: it was not made by `sawtooth export`",
        ("--check", full, "--out", "x"): "`sawtooth check-export` of a folder takes no '--out'",
        ("--check", "demo.yaml", "--push"): "there is no config demo.yaml",
        ("--check", full, "--questions", "0"): "--questions is 0; it must be at least 1",
    }
    for arguments, message in cases.items():
        assert sawtooth(*arguments) == 2, arguments
        said = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in said if line.startswith("sawtooth: ")]) == 1, said
        assert message in said[-1], said
    assert not (tmp_path / "x").exists()
    assert sawtooth(bare, "--out", "x", "--protocol", "delethink", "segment_tokens=64", "carry_tokens=8") == 0
    assert read("x/protocol.json")["carry_tokens"] == 8 and read("x/generation_config.json")["max_new_tokens"] == 64


def test_the_saw_drops_to_the_prompt_and_the_single_context_does_not():
    rounds = [{"prompt_ids": [1] * 4, "completion_ids": [2] * 6}, {"prompt_ids": [1] * 5, "completion_ids": [2] * 3}]
    generated, saw, single = context_over_time(rounds)
    assert list(zip(generated, saw, single, strict=True)) == [(0, 4, 4), (0, 4, 4), (6, 10, 10), (6, 5, 10), (9, 8, 13)]
    episodes = [
        {"stop_reason": "answered", "num_rounds": n, "num_tokens": n, "rounds": [n]} for n in (1, 3, 2)
    ] + [{"stop_reason": "max_rounds", "num_rounds": 9, "num_tokens": 9, "rounds": [9]}]  # fmt: skip
    assert pick_saw(episodes) == [3]
    assert pick_saw(episodes[:1]) is None
