"""Round tokens that a model lacks: where they start, that every way of training learns and keeps them, and who is
refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PhiConfig, PhiForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rl.exporting.checkpoint import load_checkpoint
from rollout.protocol import SPECIAL_TOKENS
from rollout.weights import policy_tensors
from sft.adapter import lora_config
from sft.round_tokens import RoundTokenMeter, record_probabilities, refuse_unlearned
from sft.train import load_model
from sft.vocabulary import round_token_ids
from tests.bpe_model import build_tokenizer
from tests.rank_round_tokens import train

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ["Add the numbers and see what the sum is so far. A summary of the history is a summary: /summary, /history."]
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models(tied, padding) -> folder of a small random model whose tokenizer has no round tokens."""
    made = {}

    def build(tied=False, padding=0, biased=False):
        key = tied, padding, biased
        if key not in made:
            folder = tmp_path_factory.mktemp("model")
            tokenizer = build_tokenizer(folder, TEXTS, 320)
            sizes = {
                "vocab_size": len(tokenizer) + padding, "hidden_size": 32, "intermediate_size": 64,
                "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
                "tie_word_embeddings": tied, "initializer_range": 0.1,
            }  # fmt: skip
            torch.manual_seed(0)
            model = (
                PhiForCausalLM(PhiConfig(**sizes)) if biased else Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16))
            )
            if biased:
                torch.nn.init.normal_(model.lm_head.bias)
            model.save_pretrained(folder)
            made[key] = str(folder)
        return made[key]

    return build


@pytest.mark.parametrize("tied, padding, biased", [(0, 0, 0), (1, 0, 0), (0, 64, 0), (0, 0, 1)])
def test_new_rows_are_the_means_of_their_words(models, tied, padding, biased):
    path = models(bool(tied), padding, bool(biased))
    before = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model, tokenizer = load_model(path, "float32")
    head = model.get_output_embeddings()
    assert (head.weight is model.get_input_embeddings().weight) == bool(tied)
    assert head.weight.shape[0] == max(before.lm_head.weight.shape[0], len(tokenizer))
    for token in SPECIAL_TOKENS:
        row, pieces = tokenizer.convert_tokens_to_ids(token), tokenizer.encode(token[1:-1], add_special_tokens=False)
        for layer, old in ((model.get_input_embeddings(), before.get_input_embeddings()), (head, before.lm_head)):
            assert torch.allclose(layer.weight[row], old.weight[pieces].mean(dim=0), atol=1e-6)
        if biased:
            assert torch.allclose(head.bias[row], before.lm_head.bias[pieces].mean(), atol=1e-6)
    kept = min(before.lm_head.weight.shape[0], len(tokenizer) - 4)
    assert torch.equal(head.weight[:kept], before.lm_head.weight[:kept])


def test_tokens_that_are_there_stay_as_they_are(tiny_model):
    model, tokenizer = load_model(tiny_model, "float32")
    stored = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).state_dict()
    assert all(torch.equal(weight, stored[name]) for name, weight in model.state_dict().items())
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(tiny_model))


def chances(model, row, tokenizer):
    """Logits of the row, and the probability of `<summary>` and `</summary>` at their places."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].float()
    ids = tokenizer.convert_tokens_to_ids(["<summary>", "</summary>"])
    return logits, [float(logits.softmax(-1)[row["labels"].index(token) - 1, token]) for token in ids]


WAYS = {"full": None, "lora": LORA, "dora": {**LORA, "use_dora": True}}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("way", WAYS)
def test_they_are_learnt_saved_and_exported(models, tmp_path, way, tied):
    trainer, tokenizer, row, final = train(models(tied), tmp_path, WAYS[way])
    expected, found = chances(trainer.model, row, tokenizer)
    assert min(found) > 0.5
    again = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
    assert again.config.tie_word_embeddings == tied
    assert (chances(again, row, tokenizer)[0] - expected).abs().max() < 1e-4
    exported, _ = load_checkpoint(tmp_path / "checkpoint-40", dtype="float32")
    assert (chances(exported, row, tokenizer)[0] - expected).abs().max() < 1e-4
    refuse_unlearned(final, again, tokenizer)


def test_a_lora_goes_on_from_its_checkpoint(models, tmp_path):
    through = train(models(True), tmp_path / "through", LORA, steps=6)
    train(models(True), tmp_path / "parts", LORA, steps=3)
    checkpoint = str(tmp_path / "parts/checkpoint-3")
    resumed = train(models(True), tmp_path / "parts", LORA, steps=6, resume=checkpoint)
    ours, theirs = (chances(t.model, row, tokenizer)[0] for t, tokenizer, row, _ in (through, resumed))
    assert (ours - theirs).abs().max() < 1e-4


def test_a_head_with_a_bias_keeps_it_under_a_lora(models, tmp_path):
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    trainer, tokenizer, row, final = train(models(biased=True), tmp_path, lora, steps=5)
    expected, _ = chances(trainer.model, row, tokenizer)
    with trainer.model.disable_adapter():
        base, _ = chances(trainer.model, row, tokenizer)
    stored = load_model(models(biased=True), "float32")[0].eval()
    assert (base - chances(stored, row, tokenizer)[0]).abs().max() < 1e-5
    again = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)
    assert (chances(again, row, tokenizer)[0] - expected).abs().max() < 1e-4


ZERO = {
    "full, spread when loaded": {"init": True},
    "lora, tied": {"lora": LORA},
    "lora, spread when loaded": {"lora": LORA, "init": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ZERO)
def test_zero3_learns_as_one_process_does(models, tmp_path, case):
    path = models("tied" in case)
    settings = ZERO[case] | {"deepspeed": str(ROOT / "configs/deepspeed/zero3.json")}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.rank_round_tokens", path, str(tmp_path), json.dumps(settings)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    trainer, tokenizer, row, _ = train(path, tmp_path / "alone", ZERO[case].get("lora"))
    expected, _ = chances(trainer.model, row, tokenizer)
    final = AutoModelForCausalLM.from_pretrained(tmp_path / "final", dtype=torch.float32)
    ours, found = chances(final, row, tokenizer)
    assert min(found) > 0.5 and (ours - expected).abs().max() < 1e-2
    measured = [row.get("sft/round_tokens/summary") for row in json.loads((tmp_path / "history.json").read_text())]
    alone = [row.get("sft/round_tokens/summary") for row in trainer.state.log_history]
    assert measured == pytest.approx(alone, abs=1e-3) and alone[0] is not None


def test_the_meter_gives_the_models_own_probabilities(models, tmp_path):
    """The last log is the mean over the steps before which these were the weights."""
    trainer, tokenizer, row, _ = train(models(), tmp_path, steps=1, rate=0.0)
    _, (summary, end) = chances(trainer.model, row, tokenizer)
    log = trainer.state.log_history[-1]
    assert log["sft/round_tokens/summary"] == pytest.approx(summary, rel=1e-4)
    assert log["sft/round_tokens/end_summary"] == pytest.approx(end, rel=1e-4)
    meter = RoundTokenMeter(tokenizer)
    labels = torch.tensor([row["labels"]] * 2)
    meter.add({"labels": labels}, torch.full((2, labels.shape[1] - 1), 0.25).log())
    assert list(meter.flush(trainer.accelerator).values()) == pytest.approx([0.25, 0.25])
    assert meter.flush(trainer.accelerator) == {}


def test_the_base_of_a_lora_is_never_written_to(models):
    """50 syncs of bfloat16 weights, an adapter that moves between them; what comes out is their sum, rounded once."""
    model, tokenizer = load_model(models(True), "bfloat16")
    model = get_peft_model(model, lora_config(LORA, model, round_token_ids(tokenizer)))
    base = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    for _ in range(50):
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(0.01 * torch.randn_like(parameter))
        with policy_tensors(model) as tensors:
            merged = dict(tensors)
    for name, parameter in model.named_parameters():
        if name in base:
            assert torch.equal(parameter.view(torch.int16), base[name].view(torch.int16)), name
    expected = layer.base_layer.weight.float() + layer.get_delta_weight("default")
    assert torch.equal(merged["model.layers.0.mlp.up_proj.weight"], expected.bfloat16())
    rows = model.get_input_embeddings().token_adapter.trainable_tokens_delta["default"].bfloat16()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(merged[name][round_token_ids(tokenizer)], rows)
    assert merged.keys() == AutoModelForCausalLM.from_pretrained(models(True)).state_dict().keys()


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_lora_on_one_side_of_a_tied_head(models, tmp_path, target):
    """Training refuses it; an adapter from elsewhere is exported as what it is, with two weights."""
    model, tokenizer = load_model(models(True), "float32")
    with pytest.raises(ValueError, match="share their weights"):
        lora_config({"target_modules": [target, "q_proj"]}, model, round_token_ids(tokenizer))
    base = AutoModelForCausalLM.from_pretrained(models(True), dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=[target, "q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(base, config).eval()
    adapted.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(models(True)).save_pretrained(tmp_path)
    exported, _ = load_checkpoint(tmp_path, dtype="float32")
    exported.save_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ids = torch.tensor([[3, 20, 31, 42]])
    with torch.no_grad():
        expected, given = adapted(input_ids=ids).logits, again(input_ids=ids).logits
    assert (expected - given).abs().max() < 1e-4


def test_what_a_user_trains_beside_a_lora_stays(models):
    tied, tokenizer = load_model(models(True), "float32")
    untied, _ = load_model(models(False), "float32")
    rounds, both = round_token_ids(tokenizer), ("model.embed_tokens", "lm_head")
    assert lora_config(LORA, tied, rounds).trainable_token_indices == {both[0]: rounds}
    assert lora_config(LORA, untied, rounds).trainable_token_indices == dict.fromkeys(both, rounds)
    listed = lora_config({**LORA, "trainable_token_indices": [5]}, untied, rounds)
    assert listed.trainable_token_indices == {both[0]: [5, *rounds], both[1]: rounds}
    named = lora_config({**LORA, "trainable_token_indices": {"lm_head": [7]}}, tied, rounds)
    assert named.trainable_token_indices == {both[0]: [7, *rounds]}
    saved = lora_config({**LORA, "modules_to_save": ["lm_head"]}, untied, rounds)
    assert saved.trainable_token_indices == {both[0]: rounds} and saved.modules_to_save == ["lm_head"]
    whole = get_peft_model(tied, lora_config({**LORA, "modules_to_save": ["embed_tokens"]}, tied, rounds))
    with torch.no_grad():
        whole.get_input_embeddings().weight.add_(1.0)
    with policy_tensors(whole) as tensors:
        merged = dict(tensors)
    assert torch.equal(merged[f"{both[0]}.weight"], merged[f"{both[1]}.weight"])


def test_rl_refuses_what_cannot_write_a_summary(models, tiny_model, tmp_path, capsys):
    path = Path(models())
    plain = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with pytest.raises(ValueError, match="can't write <summary>: it is not in its vocabulary"):
        refuse_unlearned(path, *plain)
    plain[1].add_special_tokens({"additional_special_tokens": SPECIAL_TOKENS})
    plain[0].resize_token_embeddings(len(plain[1]))  # as transformers does: all near the mean of the vocabulary
    with pytest.raises(ValueError, match="can't tell <summary> and </summary> apart"):
        refuse_unlearned(path, *plain)
    known = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    refuse_unlearned(Path(tiny_model), *known)
    record_probabilities({"<summary>": 0.3, "</summary>": 0.99}, tmp_path)
    refuse_unlearned(tmp_path, *known)
    assert capsys.readouterr().out == ""
    record_probabilities({"<summary>": 4.2e-5, "</summary>": 0.05}, tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert [line.count("has not learned to write") for line in said] == [1, 1]
    assert "RL will refuse it" in said[0] and "refuse" not in said[1]
    with pytest.raises(ValueError, match=r"can't write <summary>: its probability at the end of SFT was 4.2e-05"):
        refuse_unlearned(tmp_path, *known)
