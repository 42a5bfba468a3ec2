"""`sawtooth plan` against real passes, and the recipes against their cards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from rl.app.cli import main
from rl.app.plan import GIB, make_plan
from rl.app.plan_model import PeakMemory, model_size, pass_memory
from rl.app.plan_report import refuse_what_cannot_fit
from rl.app.run_config import ConfigError, load_config, parse_config
from tests.conftest import build_model

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"one_gpu": (1, 24), "eight_gpus": (8, 80), "two_nodes": (8, 80), "vanilla_grpo": (1, 48)}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> str:
    """config.json of a model with the shape of Qwen2.5-1.5B (its head untied, as R1-Distill's is); no weights."""
    folder = tmp_path_factory.mktemp("qwen")
    Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=False, max_position_embeddings=131072, dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_fake_pass_needs_what_a_real_one_does(tmp_path, checkpointing):
    path = build_model(tmp_path / "model", hidden=64, layers=7)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    tokens = 2048
    memory = PeakMemory(model)
    with memory:
        model.model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)[0].sum().backward()
    config, size = AutoConfig.from_pretrained(path), model_size(AutoConfig.from_pretrained(path))
    planned = pass_memory(config, tokens, weights=torch.float32, bf16=False, checkpointing=checkpointing)
    planned -= 4 * tokens * size.hidden + 4 * size.head + 4096 * 32768 * 4  # TRL's head, which this pass has not
    assert planned == pytest.approx(memory.peak, rel=0.1)
    assert size.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_load_and_fit(recipe, qwen, monkeypatch):
    monkeypatch.chdir(ROOT)
    ranks, gib = RECIPES[recipe]
    config = load_config(ROOT / "configs/recipes" / recipe / "config.yaml", [f"model.path={qwen}"])
    stages = make_plan(config, AutoConfig.from_pretrained(qwen), ranks, gib * GIB)
    refuse_what_cannot_fit(stages, gib * GIB)
    assert [stage.name for stage in stages] == config.trained == (["rl"] if recipe == "vanilla_grpo" else ["sft", "rl"])
    assert config.rl["per_device_train_batch_size"] % config.rl["num_generations"] == 0
    with pytest.raises(ConfigError, match=r"rl needs .* GiB of a GPU's 8\.0; .*: (lower|set) "):
        refuse_what_cannot_fit(stages[-1:], 8 * GIB)


def test_without_a_card_the_engine_takes_what_its_cache_is_given(qwen, monkeypatch):
    model, text = AutoConfig.from_pretrained(qwen), {"name": "x", "model": {"path": qwen}, "data": {"questions": "q"}}

    def engine(settings=None, **further):
        raw = {**text, "rollout": {"max_model_len": 4096, "settings": settings or {}, **further}}
        (rl,) = make_plan(parse_config(raw), model, 1, 200 * GIB, on_cpu=True)
        return rl.parts["rollout engine"] - 4 * model_size(model).parameters

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert engine() == GIB  # as `VLLMEngine` sets it, whatever share of a card is asked for
    assert engine({"gpu_memory_utilization": 0.9}) == GIB
    assert engine({"kv_cache_memory_bytes": 3 * GIB}) == 3 * GIB
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")  # vLLM itself lets it win
    assert engine({"kv_cache_memory_bytes": 3 * GIB}) == 5 * GIB
    with pytest.raises(ConfigError, match=r"raise rollout\.settings\.kv_cache_memory_bytes or lower"):
        monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
        engine({"kv_cache_memory_bytes": 1000})
    with pytest.raises(ConfigError, match="max_model_len is 131073, above the context"):
        engine(max_model_len=131073)


@pytest.mark.slow
def test_what_zero_lora_and_the_engine_change(qwen, monkeypatch):
    monkeypatch.chdir(ROOT)
    model, path = AutoConfig.from_pretrained(qwen), ROOT / "configs/recipes/eight_gpus/config.yaml"

    def rl(*overrides, ranks=8):
        return make_plan(load_config(path, [f"model.path={qwen}", *overrides]), model, ranks, 80 * GIB)[1]

    two, three = rl(), rl("rl.deepspeed=configs/deepspeed/zero3.json")
    count = model_size(model).parameters
    assert two.parts["weights"] == 2 * count and two.parts["optimizer"] == 12 * count // 8
    assert two.parts["gradients"] == 4 * count // 8 and three.parts["weights"] == 2 * count // 8
    offload = rl("rl.deepspeed=configs/deepspeed/zero3_offload.json")
    assert "optimizer" not in offload.parts and offload.host == three.parts["optimizer"]
    plain = rl("rl.deepspeed=null", ranks=1)  # its weights in float32, its engine in bfloat16
    assert plain.parts["weights"] == plain.parts["gradients"] == 4 * count
    assert plain.counts["KV cache per token"] == "28 KiB"
    assert rl("rollout.dtype=float32").counts["KV cache per token"] == "56 KiB"
    assert plain.parts["optimizer"] == 8 * count and "communication" not in plain.parts
    lora = rl("rl.deepspeed=null", "model.lora={r: 8, target_modules: all-linear}", ranks=1)
    assert lora.parts["optimizer"] < plain.parts["optimizer"] / 50
    assert rl("rl.max_tokens_per_microbatch=32768").parts["activations"] > 1.5 * two.parts["activations"]
    assert two.parts["rollout engine"] == 40 * GIB and two.counts["KV cache per token"] == "28 KiB"
    with pytest.raises(ConfigError, match="is too small for one row of 12800 tokens"):
        rl("rollout.settings.gpu_memory_utilization=0.06")


def test_the_command(capsys, tmp_path):
    assert main(["plan", str(ROOT / "configs/demo.yaml"), "--card", "h100", "--nproc", "2"]) == 0
    out = capsys.readouterr().out
    assert "512 (64 groups)" in out and "minimum seconds" in out and "of 80.0" in out
    assert main(["plan", str(ROOT / "configs/demo.yaml"), "--memory", "1"]) == 2
    assert "sft needs" in capsys.readouterr().err
    overrides = ["--model.build=null", "--model.build_args={}", f"--model.path={tmp_path}"]
    assert main(["plan", str(ROOT / "configs/demo.yaml"), *overrides]) == 2
    assert "model.path" in capsys.readouterr().err


STUBS = {
    "scontrol": 'case "$1" in show) echo node1; echo node2;; *) echo "scontrol $*" >> calls;; esac',
    "srun": 'while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && node=${1#*=}; shift; done; NODE=$node exec "$@"',
    "sawtooth": """case "$*" in *--dry-run*) echo "name: two-nodes"; exit;; esac
        if [ "$1" = rl ] && [ -n "$PREEMPTED" ]; then trap 'exit 0' TERM; fi  # before anyone is told
        echo "$NODE sawtooth $*" >> calls
        case "$1" in
          serve-rollouts) exec sleep 60;;
          rl) until [ "$(grep -c serve-rollouts calls)" -ge 2 ]; do sleep 0.05; done
              if [ -n "$PREEMPTED" ]; then sleep 60 & wait $!; fi
              mkdir -p runs/two-nodes/rl; touch runs/two-nodes/rl/done.json;;
        esac""",
    "nvidia-smi": "exit 1",
}


@pytest.mark.parametrize("preempted", ["", "yes"])
def test_the_slurm_file_with_stand_ins_for_slurm(tmp_path, preempted):
    bin_folder = tmp_path / ".venv/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "activate").write_text(f'PATH="{bin_folder}:$PATH"\n')
    for name, body in STUBS.items():
        (bin_folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (bin_folder / name).chmod(0o755)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7", "PREEMPTED": preempted}
    script = ["bash", "configs/recipes/two_nodes/run.sbatch"]
    process = subprocess.Popen(script, cwd=tmp_path, env=environment | {"SAWTOOTH_CARDS": "2"}, start_new_session=True)
    try:
        calls = tmp_path / "calls"
        deadline = time.monotonic() + 120
        for line, times in (("sawtooth rl", 1), ("serve-rollouts", 2)):
            while not calls.exists() or calls.read_text().count(line) < times:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        if preempted:
            process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    lines = calls.read_text().splitlines()
    config, urls = "configs/recipes/two_nodes/config.yaml", "--rollout.urls=[http://node2:8000,http://node2:8001]"
    assert lines[:2] == [f"node1 sawtooth data {config}", f"node1 sawtooth sft {config} --nproc 2"]
    assert f"node1 sawtooth rl {config} --nproc 2 {urls}" in lines
    servers = [line for line in lines if "serve-rollouts" in line]
    assert len(servers) == 2 and all(line.startswith("node2 ") and "two-nodes/sft/final" in line for line in servers)
    ended = (
        ["scontrol requeue 7"]
        if preempted
        else [f"node1 sawtooth eval {config} {urls}", f"node1 sawtooth export {config}"]
    )
    assert [line for line in lines if line not in servers][-len(ended) :] == ended
