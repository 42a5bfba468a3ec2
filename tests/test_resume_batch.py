"""A batch that serves several optimizer steps, after a resume in its middle: what the undisturbed run trains."""

from __future__ import annotations

import shutil

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from rl.config import EpisodeGRPOConfig
from rl.trainer import EpisodeGRPOTrainer
from rollout.store import read_episodes

QUESTIONS = ["a=1 b+2 ?", "c=5 d*3 ?", "e=7 f-2 ?", "g=9 h+1 ?"]


class Watched(EpisodeGRPOTrainer):
    """Notes which questions each optimizer step trains."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.trained = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        step = self.state.global_step
        place = self._step % self.args.steps_per_generation
        loss = super().training_step(model, inputs, num_items_in_batch)
        rows = [s for micro in self._buffered_inputs[place] for s in micro.samples if s.episode_id >= 0]
        self.trained.append((step, sorted((s.episode_id, tuple(s.completion_ids)) for s in rows)))
        return loss


def vowels(completions, **_):
    return [float(sum(ord(c) for c in text) % 7) for text in completions]


def run(tiny_model, tokenizer, folder, episodes, resume=None, **given):
    settings = {
        "per_device_train_batch_size": 2, "num_generations": 2, "max_steps": 4, "save_steps": 1, "bf16": False,
        "use_cpu": True, "report_to": "none", "gradient_checkpointing": False, "disable_tqdm": True,
        "max_completion_length": 6, "learning_rate": 1e-2, "logging_steps": 1, "lr_scheduler_type": "constant",
    }  # fmt: skip
    trainer = Watched(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), vowels,
        EpisodeGRPOConfig(output_dir=str(folder), **settings | given),
        Dataset.from_list([{"prompt": q} for q in QUESTIONS]), processing_class=tokenizer, episodes_dir=episodes,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


CASES = {
    "num_iterations": ({"num_iterations": 2}, 1),
    "steps_per_generation": ({"steps_per_generation": 2, "gradient_accumulation_steps": 1}, 1),
    "both, with accumulation": (
        {"num_iterations": 2, "steps_per_generation": 2, "gradient_accumulation_steps": 2, "max_steps": 5}, 3
    ),
    "a batch that ends within a step": ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, 1),
    "seeded": ({"num_iterations": 2, "seeded_rollouts": True}, 1),
    "KL to the reference": ({"num_iterations": 2, "beta": 0.1}, 3),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_each_step_trains_what_the_undisturbed_run_trains(tiny_model, tokenizer, tmp_path, case):
    given, step = CASES[case]
    whole = run(tiny_model, tokenizer, tmp_path / "whole", tmp_path / "e", **given)
    expected = [
        (row["step"], row["question"], row["rounds"], row["advantage"]) for row in read_episodes(tmp_path / "e")
    ]
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / f"whole/checkpoint-{step}", tmp_path / f"cut/checkpoint-{step}")
    resumed = run(
        tiny_model, tokenizer, tmp_path / "cut", tmp_path / "e", str(tmp_path / f"cut/checkpoint-{step}"), **given
    )  # fmt: skip
    assert resumed.trained == [entry for entry in whole.trained if entry[0] >= step]
    found = [(row["step"], row["question"], row["rounds"], row["advantage"]) for row in read_episodes(tmp_path / "e")]
    assert found == expected
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(weights, resumed.model.state_dict()[name]), name
    tokens = [log["num_tokens"] for log in whole.state.log_history if "num_tokens" in log]
    assert tokens == [log["num_tokens"] for log in resumed.state.log_history if "num_tokens" in log]
    assert tokens == sorted(tokens) and len(set(tokens)) > 1


def test_a_batch_of_other_ranks_is_refused(tiny_model, tokenizer, tmp_path):
    run(tiny_model, tokenizer, tmp_path / "whole", tmp_path / "e", num_iterations=2, max_steps=2)
    middle, end = tmp_path / "whole/checkpoint-1", tmp_path / "whole/checkpoint-2"
    for folder in (middle, end):
        state = torch.load(folder / "generation-0.pt", weights_only=True)
        assert (state["slots"] is None) == (folder == end)
        torch.save(state | {"ranks": 2}, folder / "generation-0.pt")
    with pytest.raises(ValueError, match=r"was saved by 2 ranks in the middle of a generation batch .* with 1"):
        run(tiny_model, tokenizer, tmp_path / "whole", tmp_path / "e", str(middle), num_iterations=2)
    run(tiny_model, tokenizer, tmp_path / "whole", tmp_path / "e", str(end), num_iterations=2, max_steps=3)


def test_an_older_checkpoint_keeps_its_place_among_the_batches(tiny_model, tokenizer, tmp_path):
    """Without the batch under way: its questions are rolled out anew, and the next batch begins where it should."""
    whole = run(tiny_model, tokenizer, tmp_path / "whole", tmp_path / "e", num_iterations=2)
    (tmp_path / "whole/checkpoint-1/generation-0.pt").unlink()
    resumed = run(
        tiny_model, tokenizer, tmp_path / "whole", tmp_path / "e", str(tmp_path / "whole/checkpoint-1"),
        num_iterations=2,
    )  # fmt: skip
    assert [step for step, _ in resumed.trained] == [1, 2, 3]
    assert resumed.trained[1][1] == resumed.trained[2][1] != resumed.trained[0][1]
    assert whole._step == resumed._step
