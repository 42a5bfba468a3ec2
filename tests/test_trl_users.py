"""What users of TRL bring along: reward models, its aggregation, its metric names, its generation settings."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from rewards.load import load_rewards
from rewards.model import RewardModel
from rewards.score import Reward
from rl.advantages import group_advantages, normalized_sum, zero_variance_share
from rl.settings.schema import ConfigError
from rl.trainer import EpisodeGRPOTrainer
from rollout.hf_engine import TransformersEngine
from rollout.protocol import get_protocol
from rollout.store import read_episodes
from rollout.types import Completion, Sampling

QUESTIONS = ["a=1 b+2 ?", "c=5 d*3 ?", "e=7 f-2 ?"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory, tokenizer) -> str:
    """Folder of an untrained reward model with the tiny tokenizer."""
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, num_labels=1, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("judges") / "tiny-judge"
    model = Qwen2ForSequenceClassification(config)
    model.score.weight.data.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def settings(tmp_path, **given):
    return {
        "output_dir": str(tmp_path / "out"), "per_device_train_batch_size": 4, "num_generations": 2, "max_steps": 1,
        "bf16": False, "use_cpu": True, "report_to": "none", "save_strategy": "no", "gradient_checkpointing": False,
        "disable_tqdm": True, "max_completion_length": 6, "logging_steps": 1, "learning_rate": 0.0, **given,
    }  # fmt: skip


def trainer_of(tiny_model, tokenizer, tmp_path, reward, cls=EpisodeGRPOTrainer, rows=QUESTIONS, extra=None, **given):
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    dataset = Dataset.from_list([{"prompt": row} for row in rows])
    args = GRPOConfig(**settings(tmp_path, **given))
    return cls(policy, reward, args, dataset, processing_class=tokenizer, **(extra or {}))


def scores_by_hand(folder, texts, tokenizer):
    model = Qwen2ForSequenceClassification.from_pretrained(folder).eval()
    values = []
    for text in texts:  # one at a time: padding must not matter
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        with torch.no_grad():
            values.append(float(model(input_ids=ids).logits[0, 0]))
    return values


def length(completions, **_):
    return [float(len(c)) for c in completions]


@pytest.mark.parametrize("way", ["path", "module", "Reward", "yaml"])
def test_a_reward_model_beside_a_function(tiny_model, tokenizer, tmp_path, judge, way):
    model = {
        "path": judge,
        "module": Qwen2ForSequenceClassification.from_pretrained(judge).train(),
        "Reward": Reward(RewardModel(judge, batch_size=3), "tiny-judge", weight=1.0),
        "yaml": load_rewards([{"model": judge, "batch_size": 1}], get_protocol("vanilla", chat=False))[0],
    }[way]
    trainer = trainer_of(
        tiny_model, tokenizer, tmp_path, [length, model], reward_weights=[0.25, 2.0],
        extra={"reward_processing_classes": [None, tokenizer], "episodes_dir": tmp_path / "episodes"},
    )  # fmt: skip
    trainer.train()
    rows = read_episodes(tmp_path / "episodes")
    texts = [row["question"] + row["rounds"][-1]["text"] for row in rows]
    given = [json.loads(row["rewards"]) for row in rows]
    assert [g["tiny-judge"] for g in given] == pytest.approx(scores_by_hand(judge, texts, tokenizer), abs=1e-4)
    for row, values in zip(rows, given, strict=True):
        assert row["reward"] == pytest.approx(0.25 * values["length"] + 2.0 * values["tiny-judge"], abs=1e-6)
    log = trainer.state.log_history[0]
    assert log["rewards/tiny-judge/mean"] == pytest.approx(sum(g["tiny-judge"] for g in given) / 4, abs=1e-6)
    assert not trainer.rewards[1].fn.model.training


def test_a_reward_model_reads_chat_through_its_template(tokenizer, judge):
    asked = [{"role": "user", "content": "a=1 b+2 ?"}]
    expected = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "b=3"}], tokenize=False)
    model = RewardModel(judge, chat=True)
    model.load()
    assert model.text(asked, "b=3") == model.text("a=1 b+2 ?", "b=3") == expected
    model.chat = False
    assert model.text("a=1 b+2 ?", "b=3") == "a=1 b+2 ?b=3"


def test_a_text_too_long_for_the_reward_model_is_counted(tiny_model, tokenizer, tmp_path, judge):
    """Only the episodes of that pass are lost, with a reason."""
    rows = [QUESTIONS[0], "a=1 " * 60]
    model = RewardModel(judge, tokenizer, batch_size=2)
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, Reward(model, "judge"), rows=rows, shuffle_dataset=False)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["reward/judge/errors"] == 2 == log["reward/unscored"]


def test_what_is_no_reward_model_is_refused(tiny_model, tokenizer, tmp_path, judge):
    with pytest.raises(ValueError, match="is not a reward model: its checkpoint has no weights for score"):
        RewardModel(tiny_model).load()
    with pytest.raises(ValueError, match="can't be read"):
        RewardModel(str(tmp_path / "nowhere")).load()
    with pytest.raises(ValueError, match="must match"):
        trainer_of(
            tiny_model, tokenizer, tmp_path, [judge, judge], extra={"reward_processing_classes": tokenizer}
        )  # fmt: skip
    protocol = get_protocol("vanilla")
    for entry, message in (
        ({"model": judge, "batch_size": 0}, "batch_size is 0"),
        ({"model": judge, "batchsize": 2}, "no setting 'batchsize'"),
        ({"model": 3}, "model is 3"),
        ({"model": judge, "fn": "answer"}, "answer has no setting .model."),
    ):
        with pytest.raises(ValueError, match=message):
            load_rewards([entry], protocol)


def reference_gdpo(values, weights, size):
    """TRL 1.16's normalize_then_sum, as its `_generate_and_score_completions` writes it, in float64."""

    def nanstd(given, dim, keepdim=False):  # TRL's own has its n / (n - 1) in float32
        squares = (given - torch.nanmean(given, dim=dim, keepdim=True)) ** 2
        count = (~torch.isnan(given)).sum(dim=dim, keepdim=keepdim).double()
        return (torch.nansum(squares, dim=dim, keepdim=keepdim) / (count - 1)).sqrt()

    unscorable = torch.isnan(values).all(dim=1)
    grouped = values.view(-1, size, values.size(1))
    mean, std = torch.nanmean(grouped, dim=1, keepdim=True), nanstd(grouped, dim=1, keepdim=True)
    sums = (((grouped - mean) / (std + 1e-4)).view(-1, values.size(1)) * weights).nansum(dim=1)
    sums[unscorable] = torch.nan
    return torch.nan_to_num((sums - torch.nanmean(sums)) / (nanstd(sums, 0) + 1e-4), nan=0.0)


def test_normalize_then_sum_is_trls_formula():
    torch.manual_seed(0)
    values = torch.randn(24, 3, dtype=torch.float64) * torch.tensor([1.0, 100.0, 1e-3], dtype=torch.float64)
    values[2, 0] = values[7] = values[11, 1:] = torch.nan
    values[16:20, 1] = 3.0  # a reward that is equal over a group
    weights = [0.7, 0.3, 2.0]
    expected = reference_gdpo(values, torch.tensor(weights, dtype=torch.float64), 4)
    found = normalized_sum(values, weights, [i // 4 for i in range(24)])
    assert found.dtype == torch.float64 and float((found - expected).abs().max()) < 1e-12
    assert found[7] == 0 and found[2] != 0
    order = torch.randperm(24)  # groups in any order
    shuffled = normalized_sum(values[order], weights, (order // 4).tolist())
    assert float((shuffled - expected[order]).abs().max()) < 1e-12


def test_a_run_by_normalize_then_sum(tiny_model, tokenizer, tmp_path):
    def first(completions, **_):
        return [1.0, 3.0, 2.0, 2.0]

    def second(completions, **_):
        return [300.0, 100.0, 100.0, 200.0]

    trainer = trainer_of(
        tiny_model, tokenizer, tmp_path, [first, second], reward_weights=[0.7, 0.3],
        multi_objective_aggregation="normalize_then_sum", extra={"episodes_dir": tmp_path / "episodes"},
    )  # fmt: skip
    trainer.train()
    values = torch.tensor([[1.0, 300], [3, 100], [2, 100], [2, 200]], dtype=torch.float64)
    expected = reference_gdpo(values, torch.tensor([0.7, 0.3], dtype=torch.float64), 2)
    rows = read_episodes(tmp_path / "episodes")
    assert [row["advantage"] for row in rows] == pytest.approx(expected.tolist())
    assert [row["reward"] for row in rows] == pytest.approx([90.7, 32.1, 31.4, 61.4])
    with pytest.raises(ConfigError, match="reward 2 multiplies the others"):
        trainer_of(
            tiny_model, tokenizer, tmp_path, [first, Reward(second, "second", combine="multiply")],
            multi_objective_aggregation="normalize_then_sum",
        )  # fmt: skip


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 1000.0, -5.0])
def test_rewards_equal_up_to_float32_rounding_say_nothing(scale):
    import numpy as np

    equal = [float(np.float32(scale) * (np.float32(1) + np.float32(i) * np.finfo(np.float32).eps)) for i in range(4)]
    assert len(set(equal)) > 1
    assert group_advantages(equal, [0] * 4).tolist() == [0.0] * 4
    assert zero_variance_share([*equal, scale, 1.001 * scale], [0] * 4 + [1] * 2) == 0.5
    assert group_advantages([scale, 1.001 * scale], [0, 0]).abs().min() > 0.5


def test_metrics_have_trls_names_and_meaning(tiny_model, tokenizer, tmp_path):
    """The same completions give stock TRL's values under TRL's names."""
    texts = ["b:+2=3\n", "no", "\\boxed{3}", "b", "d:*3=5\nend", "x"]
    completions = [[*tokenizer.encode(t, add_special_tokens=False), tokenizer.eos_token_id] for t in texts]
    completions[3] = tokenizer.encode("bbbbbb", add_special_tokens=False)  # reached its limit

    class Replay:
        def __init__(self):
            self.waiting = []

        def submit(self, request_id, prompt_ids, sampling):
            self.waiting.append(request_id)

        def poll(self):
            number = self.waiting.pop(0)
            ids = completions[number]
            reason = "stop" if ids[-1] == tokenizer.eos_token_id else "length"
            return [Completion(number, ids, [-1.0] * len(ids), reason)]

    def rollout(prompts, trainer):
        ids = [tokenizer.encode(p, add_special_tokens=False) for p in prompts]
        return {"prompt_ids": ids, "completion_ids": completions, "logprobs": [[-1.0] * len(c) for c in completions]}

    def half(completions, **_):
        return [1.0, 0.5, None, None, 0.25, 0.25]

    given = {
        "per_device_train_batch_size": 6, "max_completion_length": 32, "shuffle_dataset": False,
        "reward_weights": [1.0, 3.0],
    }  # fmt: skip
    logs = [
        trained.state.log_history[0]
        for trained in (
            trainer_of(
                tiny_model, tokenizer, tmp_path, [length, half], GRPOTrainer, **given, extra={"rollout_func": rollout}
            ),
            trainer_of(tiny_model, tokenizer, tmp_path, [length, half], **given, extra={"engine": Replay()}),
        )
        if trained.train()
    ]
    stock, ours = logs
    missing = {n for n in stock if n not in ours} - {"epoch"}
    assert not missing
    apart = {"loss", "grad_norm", "step_time"}
    names = {n for n in stock if n.split("/")[0] in ("reward", "reward_std", "rewards", "completions", "num_tokens")}
    assert len(names) >= 14 and not names & apart
    for name in [*names, "frac_reward_zero_std"]:
        assert ours[name] == pytest.approx(stock[name], rel=1e-5), name


def test_generation_settings_reach_the_engine(tiny_model, tokenizer, tmp_path):
    seen = []

    class Watched(TransformersEngine):
        def submit(self, request_id, prompt_ids, sampling):
            seen.append(sampling)
            super().submit(request_id, prompt_ids, sampling)

    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    args = GRPOConfig(**settings(
        tmp_path, repetition_penalty=1.3, top_p=0.9, cache_implementation="dynamic",
        generation_kwargs={"top_k": 7, "num_beams": 2, "length_penalty": -0.1, "temperature": 1.0},
    ))  # fmt: skip
    dataset = Dataset.from_list([{"prompt": q} for q in QUESTIONS])
    EpisodeGRPOTrainer(
        policy, length, args, dataset, processing_class=tokenizer, engine=Watched(policy, tokenizer)
    ).train()  # fmt: skip
    assert {(s.repetition_penalty, s.top_p, s.top_k) for s in seen} == {(1.3, 0.9, 7)}
    assert dict(seen[0].further) == {"num_beams": 2, "length_penalty": -0.1, "cache_implementation": "dynamic"}


def test_a_repetition_penalty_changes_what_is_generated(tiny_model, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    engine = TransformersEngine(model, tokenizer)
    prompt = tokenizer.encode("a=1 b+2 ?", add_special_tokens=False)

    def greedy(**given):
        engine.submit(0, prompt, Sampling(max_tokens=12, temperature=0.0, **given))
        return engine.poll()[0].token_ids

    plain, penalised = greedy(), greedy(repetition_penalty=50.0)
    assert len(set(penalised)) > len(set(plain))
    assert greedy(further=(("max_new_tokens", 3),)) == plain[:3]


def test_the_policys_own_generate_needs_no_correction(tiny_model, tokenizer, tmp_path):
    """top_k leaves few tokens, whose logprobs are far from the trainer's: that is not a mismatch of weights."""
    trainer = trainer_of(
        tiny_model, tokenizer, tmp_path, length, top_k=2, repetition_penalty=1.5, learning_rate=0.1, max_steps=2
    )
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_log_extra_and_the_warning_on_silent_rewards(tiny_model, tokenizer, tmp_path, caplog):
    def noted(completions, log_extra, log_metric, **_):
        log_extra("first", [c[:2] for c in completions])
        log_metric("noted/half", 0.5)
        return [None] * len(completions)

    trainer = trainer_of(tiny_model, tokenizer, tmp_path, noted, log_completions=True)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert caplog.text.count("All reward functions returned None for the following kwargs") == 1
    assert trainer.state.log_history[0]["noted/half"] == 0.5
    assert trainer.state.log_history[0]["reward"] is None
    rows = read_episodes(tmp_path / "out/episodes")  # log_completions without a tracker keeps them here
    assert [json.loads(row["extra"])["first"] for row in rows] == [row["rounds"][-1]["text"][:2] for row in rows]
    assert len(trainer._logs["extra"]["first"]) == 4


def test_chat_template_kwargs_reach_the_template(tiny_model, tokenizer, tmp_path):
    import copy

    marked = copy.deepcopy(tokenizer)
    marked.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if loud %}!{% endif %}"
    args = settings(tmp_path, chat_template_kwargs={"loud": True})
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer = EpisodeGRPOTrainer(
        policy,
        length,
        GRPOConfig(**args),
        Dataset.from_list([{"prompt": q} for q in QUESTIONS]),
        processing_class=marked,
    )
    asked = [{"role": "user", "content": "a=1"}]
    assert trainer.protocol.question_text(marked, asked) == "a=1!"
    assert get_protocol("vanilla").question_text(marked, asked) == "a=1"


def test_rows_are_padded_to_a_multiple(tiny_model, tokenizer, tmp_path):
    trainer = trainer_of(tiny_model, tokenizer, tmp_path, length, pad_to_multiple_of=8)
    trainer.train()
    for micro in trainer._buffered_inputs[0]:
        batch = trainer._inputs_of(micro)
        assert (batch["prompt_ids"].size(1) + batch["completion_ids"].size(1)) % 8 == 0
    assert math.isfinite(trainer.state.log_history[0]["grad_norm"])
