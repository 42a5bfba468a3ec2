"""One optimizer step gives the same weights on any number of ranks, under ZeRO, and for any micro-batch bound."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForSequenceClassification

from rl.samples import TrainingSample, deal, microbatches
from tests.conftest import build_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = [1, 1, 1, 1, 12, 11, 10, 12]  # the first rank's episodes have one round, the second's up to twelve
REWARDS = [1.0, 0.0, 0.5, 0.0, 0.0, 1.0, 0.25, 0.0]


def sample(tokens, episode):
    return TrainingSample([1] * 3, [2] * tokens, None, 1.0, 0, episode, 0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_deal_gives_every_row_to_one_rank_and_all_ranks_as_many_passes(ranks):
    samples = [sample(5 + 7 * (i % 9), i) for i in range(40)]
    dealt = deal(microbatches(samples, 200), ranks)
    assert len(dealt) == ranks and len({len(batches) for batches in dealt}) == 1
    assert sorted(s.episode_id for rank in dealt for batch in rank for s in batch) == list(range(40))
    assert all(len(b) * max(s.num_tokens for s in b) <= 200 for rank in dealt for b in rank)
    tokens = [sum(s.num_tokens for batch in rank for s in batch) for rank in dealt]
    assert max(tokens) <= 1.4 * min(tokens)


def test_deal_with_fewer_rows_than_ranks():
    assert [len(rank) for rank in deal(microbatches([sample(4, 0), sample(4, 1)], 100), 3)] == [1, 1, 0]
    assert deal([], 2) == [[], []]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def step(base, tmp_path_factory):
    """step(ranks, **settings) -> (weights after one optimizer step, metrics)."""
    folder = tmp_path_factory.mktemp("steps")

    def run(ranks, rewards=REWARDS, lora=False, deepspeed=None, judge=None, **train):
        out = folder / f"{len(list(folder.glob('*.json')))}.safetensors"
        if deepspeed:
            train["deepspeed"] = str(ROOT / "configs/deepspeed" / f"{deepspeed}.json")
        train["per_device_train_batch_size"] = len(LENGTHS) // ranks
        settings = {"lengths": LENGTHS, "rewards": rewards, "lora": lora, "judge": judge, "train": train}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [sys.executable, *launcher, "-m", "tests.rank_step", base, str(out), json.dumps(settings)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        metrics = json.loads(out.with_suffix(".json").read_text())
        assert metrics["ranks"] == ranks
        return load_file(out), metrics

    return run


@pytest.fixture(scope="module")
def reference(step):
    return step(1)


def gap(ours, theirs):
    """Distance relative to the length of `theirs`, over all weights."""
    assert ours.keys() == theirs.keys()
    apart = sum((ours[k].double() - theirs[k].double()).square().sum() for k in theirs)
    return float(torch.sqrt(apart / sum(w.double().square().sum() for w in theirs.values())))


CASES = {
    "small micro-batches": (1, {"max_tokens_per_microbatch": 150}),
    "2 ranks": (2, {}),
    "2 ranks, ZeRO-2, small micro-batches": (2, {"deepspeed": "zero2", "max_tokens_per_microbatch": 150}),
    "2 ranks, ZeRO-3": (2, {"deepspeed": "zero3"}),
    "2 ranks, ZeRO-3, padding-free": (2, {"deepspeed": "zero3", "padding_free": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_same_weights_and_metrics(case, step, reference, base):
    ranks, settings = CASES[case]
    weights, metrics = step(ranks, **settings)
    expected, expected_metrics = reference
    before = load_file(Path(base) / "model.safetensors")
    assert gap(expected, before) > 1e-2  # the step moved the weights
    assert gap(weights, expected) < 1e-5
    assert ("DEEPSPEED" in metrics["type"]) == ("deepspeed" in settings)
    for name, value in expected_metrics.items():
        if not name.startswith(("time/", "step_time", "ranks", "type")):
            assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_bf16_on_two_ranks_moves_the_weights_as_float32_does(step, reference, base):
    """Mixed precision (transformers allows it on the CPU without DeepSpeed only): the same direction, but rounded."""
    before = load_file(Path(base) / "model.safetensors")
    weights, _ = step(2, bf16=True)
    ours = torch.cat([(weights[k] - before[k]).flatten() for k in before])
    theirs = torch.cat([(reference[0][k] - before[k]).flatten() for k in before])
    assert all(w.dtype == torch.float32 for w in weights.values())
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99


BF16_STEP = """
import json, sys, torch, deepspeed
settings = json.load(open(sys.argv[1]))
settings |= {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 4}
settings |= {"gradient_clipping": 1.0, "bf16": {"enabled": True}}
model = torch.nn.Linear(8, 8)
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters()), config=settings)
for _ in range(4):
    engine.backward(engine(torch.ones(1, 8, dtype=torch.bfloat16)).float().sum())
    engine.step()
print(engine.global_steps, *engine.get_data_types())
"""


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_deepspeed_sums_the_gradients_of_micro_batches_in_float32(stage, tmp_path):
    """In bfloat16 itself, its default, the sum of 115 micro-batches is 1% off."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", BF16_STEP, str(ROOT / f"configs/deepspeed/{stage}.json")]
    environment = os.environ | place | {"DS_ACCELERATOR": "cpu"}
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "1 torch.bfloat16 torch.float32"
    offload = json.loads((ROOT / "configs/deepspeed/zero3_offload.json").read_text())
    assert offload["data_types"] == {"grad_accum_dtype": "fp32"}


def test_lora_with_checkpointing_under_zero3(step, base):
    expected, _ = step(1, lora=True)
    before = load_file(Path(base) / "model.safetensors")
    summary = AutoTokenizer.from_pretrained(base).convert_tokens_to_ids("<summary>")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):  # the round tokens' rows are trained, no other row is
        moved = (expected[name] - before[name]).abs().amax(dim=1)
        assert moved[summary] > 1e-3 and moved[20:].max() == 0
    weights, _ = step(2, lora=True, deepspeed="zero3", gradient_checkpointing=True, max_tokens_per_microbatch=150)
    assert gap(weights, expected) < 1e-5


def test_ranks_without_a_row_to_train_wait_for_the_others(step):
    rewards = [1.0, 0.0] + [None] * 6  # two rows in all, for four ranks
    expected, _ = step(1, rewards=rewards)
    weights, metrics = step(4, rewards=rewards)
    assert gap(weights, expected) < 1e-5
    assert metrics["reward/unscored"] == 6


def test_a_reward_model_scores_on_all_ranks(step, base, tmp_path):
    """Each rank its share, as many passes as the others: under ZeRO-3 the reward model is sharded too."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(2)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    judge = Qwen2ForSequenceClassification(config)
    judge.score.weight.data.normal_()
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    expected, expected_metrics = step(1, judge=str(tmp_path / "judge"))
    assert expected_metrics["rewards/judge/std"] > 1e-3
    weights, metrics = step(2, judge=str(tmp_path / "judge"), deepspeed="zero3")
    assert gap(weights, expected) < 1e-4
    for name in ("rewards/judge/mean", "rewards/judge/std", "reward", "reward_std"):
        assert metrics[name] == pytest.approx(expected_metrics[name], rel=1e-4), name
