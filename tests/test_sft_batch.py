"""What SFT shows of its first batch is what it trains on, padded or packed."""

from __future__ import annotations

import pytest
import torch

from sft.first_batch import show_first_batch
from sft.train import run_sft
from tests.test_data_stage import PROTOCOL, build_tokenizer, made_up, make_data, short


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("sft")
    tokenizer = build_tokenizer(folder / "model", [row["trace"] for row in made_up(50)], 400)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder / "model")
    make_data(made_up(8), folder / "data", PROTOCOL, tokenizer, short)
    return folder


@pytest.mark.parametrize("settings", [{}, {"packing": True, "max_length": 512}], ids=["padded", "packed"])
def test_the_first_batch_is_shown(data, tmp_path, settings, monkeypatch, capsys):
    from trl import SFTTrainer

    seen = []
    original = SFTTrainer.compute_loss

    def watch(self, model, inputs, *args, **kwargs):
        seen.append({name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)})
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", watch)
    asked = {"max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", **settings}
    if settings:
        asked |= {"padding_free": False}
    run_sft(data / "data", tmp_path, str(data / "model"), PROTOCOL, asked, dtype="float32")
    out = capsys.readouterr().out
    assert out.count("sft: first batch: ") == 1 and "masked  | " in out and "trained | " in out
    first, text = seen[0], (tmp_path / "first_batch.txt").read_text()
    trained = int((first["labels"] != -100).sum())
    assert f" {trained} of them trained on" in text
    shown = [line.partition(" | ")[2] for line in text.split("\n") if line.startswith("  trained")]
    assert sum("<|im_end|>" in line for line in shown) >= 2 and "<think>" in shown[0]
    history = [line for line in text.split("\n") if "<history>" in line]
    assert all(line.startswith("  masked ") for line in history)


def test_rows_of_a_packed_batch_stand_apart(tmp_path, tokenizer, capsys):
    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    rows = [(encode("k=3 ?"), encode("k:end")), (encode("m=4 ?"), encode("m:end"))]
    inputs = {
        "input_ids": torch.tensor([[token for prompt, output in rows for token in prompt + output]]),
        "labels": torch.tensor([[t for prompt, output in rows for t in [-100] * len(prompt) + output]]),
        "position_ids": torch.tensor([[i for prompt, output in rows for i in range(len(prompt + output))]]),
    }
    show_first_batch(inputs, tokenizer, tmp_path / "first.txt")
    assert capsys.readouterr().out.count("\nrow ") == 2
    text = (tmp_path / "first.txt").read_text()
    assert text.endswith("row 2\n  masked  | m=4 ?\n  trained | m:end\n") and ": 2 rows, " in text
