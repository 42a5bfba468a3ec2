"""Exports while RL trains: the training is the one without them, and the Hub gets the policy of that very step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from safetensors.torch import load, load_file
from transformers import AutoModelForCausalLM

from rl.app.run_config import parse_config
from rl.config import EpisodeGRPOConfig
from rl.exporting.export_callback import ExportCallback
from rl.exporting.upload import UploadError
from rl.settings.schema import ConfigError
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.weights import policy_tensors
from sft.device import device_defaults
from tests.hub_large import LargeHub
from tests.hub_server import hub_environment
from tests.rank_step import GROUP, CountingEngine

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = [1, 2, 1, 3, 1, 1, 2, 2]
PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=4)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = LargeHub(tmp_path / "server")
    for name, value in hub_environment(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it was read when the tests began
    monkeypatch.chdir(tmp_path)
    yield server
    server.stop()


def config(**export):
    raw = {"name": "r", "model": {"path": "base"}, "export": {"repo_id": "me/r", **export}}
    made = parse_config(raw)
    made.folder.mkdir(parents=True, exist_ok=True)
    (made.folder / "config.yaml").write_text(yaml.safe_dump(made.to_dict()))
    return made


class Engine(CountingEngine):
    """Rolls out the same episodes in every step."""

    def submit(self, request_id, prompt_ids, sampling):
        self.started %= len(LENGTHS)
        super().submit(request_id, prompt_ids, sampling)


def make_trainer(model_path, tokenizer, folder, lora=False):
    args = EpisodeGRPOConfig(
        output_dir=str(folder), num_generations=GROUP, max_steps=2, learning_rate=1e-2, report_to="none",
        save_strategy="no", disable_tqdm=True, logging_steps=1, per_device_train_batch_size=len(LENGTHS),
        **device_defaults({"gradient_checkpointing": False}),
    )  # fmt: skip
    return EpisodeGRPOTrainer(
        AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32),
        lambda prompts, **_: [1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.25, 0.0], args,
        Dataset.from_list([{"prompt": f"a={i} b+2 ?"} for i in range(len(LENGTHS) // GROUP)]),
        processing_class=tokenizer, peft_config=LoraConfig(r=4, target_modules="all-linear") if lora else None,
        protocol=PROTOCOL, engine=Engine(tokenizer, LENGTHS),
    )  # fmt: skip


def logs(trainer):
    timed = ("time/", "step_time", "train_", "export/")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in trainer.state.log_history]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_training_is_the_same_with_and_without(hub, tiny_model, tokenizer, tmp_path, lora):
    plain = make_trainer(tiny_model, tokenizer, tmp_path / "plain", lora)
    plain.train()
    trainer = make_trainer(tiny_model, tokenizer, tmp_path / "published", lora)
    exports = ExportCallback(config(every_steps=2, license="mit"), PROTOCOL)
    trainer.add_callback(exports)
    trainer.train()
    exports.finish(wait=True)
    assert logs(trainer) == logs(plain) and [row["export/failed"] for row in trainer.state.log_history[:2]] == [0, 0]
    theirs = plain.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in trainer.model.state_dict().items())

    files = hub.files("me/r", "model", "r-step-2")
    with policy_tensors(trainer.model) as tensors:
        policy = {name: tensor.clone() for name, tensor in tensors}
    sent = load(files["model.safetensors"])
    assert all(torch.equal(tensor, policy[name]) for name, tensor in sent.items())
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit" and "A model from mid-training, at step 2. Not evaluated." in card.text
    assert json.loads(files["protocol.json"])["max_rounds"] == 4 and "custom_generate/generate.py" in files
    assert hub.repos["models/me/r"].private
    assert files == {name: (Path("runs/r/export/step-2") / name).read_bytes() for name in files}


@pytest.mark.slow
def test_a_failed_upload_is_counted_and_training_goes_on(hub, tiny_model, tokenizer, tmp_path, capfd):
    hub.refuse(403, "/repos/create", message="read only")
    trainer = make_trainer(tiny_model, tokenizer, tmp_path / "published")
    exports = ExportCallback(config(every_steps=2), PROTOCOL)
    trainer.add_callback(exports)
    trainer.train()
    exports.finish(wait=True)
    assert exports.uploader.failures == 2  # at its turn, and at the end
    assert "export: not on the Hub: step 2; their remaining files are in runs/r/export" in capfd.readouterr().out
    assert (Path("runs/r/export/step-2") / "model.safetensors").exists()


@pytest.mark.slow
def test_ranks_of_zero3_export_the_whole_policy(hub, tiny_model, tmp_path):
    config(every_steps=1)
    train = {"deepspeed": str(ROOT / "configs/deepspeed/zero3.json"), "per_device_train_batch_size": 4}
    settings = {"lengths": LENGTHS, "rewards": [1.0, 0.0] * 4, "lora": True, "train": train}
    out = tmp_path / "weights.safetensors"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.rank_export"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command, tiny_model, str(out), json.dumps(settings)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    sent, policy = load(hub.files("me/r", "model", "r-step-1")["model.safetensors"]), load_file(out)
    assert sent and all(torch.equal(tensor, policy[name]) for name, tensor in sent.items())


def test_what_is_missing_is_said_before_training(hub, monkeypatch, tiny_model, tokenizer, tmp_path):
    with pytest.raises(ConfigError, match=r"export.every_steps needs export.repo_id: set it to user/name"):
        config(repo_id=None, every_steps=5)
    with pytest.raises(ConfigError, match=r"export.keep is 0; it must be at least 1"):
        config(keep=0)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UploadError, match="no Hugging Face token found"):
        ExportCallback(config(every_steps=5), PROTOCOL)
    ExportCallback(config(), PROTOCOL)  # asked for nothing
