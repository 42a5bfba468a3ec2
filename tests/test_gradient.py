"""The update is the paper's gradient: one optimizer step in float64 against the formula written out by itself."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from rl.config import EpisodeGRPOConfig
from rl.trainer import EpisodeGRPOTrainer
from rollout.protocol import get_protocol
from rollout.types import Completion

PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=4)
SUMMARY = "<think>\n{}\n</think><summary>{}</summary>"
FINAL = "<think>\n{}\n</think>\\boxed{{{}}}"

# Two groups of four episodes with 1 to 4 rounds.
EPISODES = {
    "a=1 b+2 ?": [
        [FINAL.format("b=1+2=3", 3)],
        [SUMMARY.format("b=1+2=4", "b=4"), FINAL.format("b=4", 4)],
        [SUMMARY.format("b=1", "a=1"), SUMMARY.format("b=1+2=3", "b=3"), FINAL.format("", 3)],
        ["no format at all"],
    ],
    "c=5 d*3 e-1 ?": [
        [SUMMARY.format("d=5*3=5", "d=5"), SUMMARY.format("x", "y"), SUMMARY.format("z", "d=5"), FINAL.format("q", 4)],
        [FINAL.format("d=5*3=5\ne=5-1=4", 4)],
        [SUMMARY.format("d=5*3=5", "d=5"), FINAL.format("e=5-1=3", 3)],
        [FINAL.format("e", 0)],
    ],
}
REWARDS = {"a=1 b+2 ?": [1.0, 0.0, 0.75, 0.0], "c=5 d*3 e-1 ?": [0.25, 1.0, 0.0, 0.0]}


class PolicyEngine:
    """Plays EPISODES back, with logprobs a known distance from the policy's own."""

    def __init__(self, model, tokenizer, episodes, shift):
        self.model, self.tokenizer, self.shift = model, tokenizer, shift
        self.episodes = {q: [list(e) for e in group] for q, group in episodes.items()}
        self.started = dict.fromkeys(episodes, 0)
        self.by_request, self.waiting = {}, []

    def submit(self, request_id, prompt_ids, sampling):
        text = self.tokenizer.decode(prompt_ids)
        question = next(q for q in self.episodes if q in text)
        if "<history>" in text:
            script = self.by_request[self.last]
        else:
            script = iter(self.episodes[question][self.started[question]])
            self.started[question] += 1
        self.by_request[request_id] = script
        self.waiting.append((request_id, prompt_ids))

    def poll(self):
        request_id, prompt_ids = self.waiting.pop()  # the newest: an episode plays to its end before the next
        self.last = request_id
        ids = self.tokenizer.encode(next(self.by_request[request_id]), add_special_tokens=False)
        ids = [*ids, self.tokenizer.eos_token_id]
        logps = token_logps(self.model, prompt_ids, ids).detach()
        return [Completion(request_id, ids, (logps + self.shift(len(ids))).tolist(), "stop")]


def token_logps(model, prompt_ids, completion_ids):
    logits = model(input_ids=torch.tensor([prompt_ids + completion_ids])).logits[0]
    logps = logits.log_softmax(-1)
    positions = range(len(prompt_ids) - 1, len(prompt_ids) + len(completion_ids) - 1)
    return torch.stack([logps[p, t] for p, t in zip(positions, completion_ids, strict=True)])


def shift(length):
    """Engine minus trainer: mostly small, every seventh token far out of IcePop's range on either side."""
    values = 0.1 * torch.sin(torch.arange(length, dtype=torch.float64))
    values[::7] = 3.0  # k = exp(-3) < 0.5
    values[3::7] = -2.0  # k = exp(2) > 5
    return values


def formula_gradient(model, tokenizer, episodes, rewards):
    """The method's loss written out (arXiv 2602.06960, eq. 8 and the token mean over all rounds), one row at a time."""
    terms, tokens = [], 0
    for question, group in episodes.items():
        r = torch.tensor(rewards[question], dtype=torch.float64)
        for episode, reward in zip(group, r, strict=True):
            advantage = (reward - r.mean()) / r.std()
            history = None
            for text in episode:
                prompt = PROTOCOL.render_prompt(tokenizer, question, history)
                ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
                logps = token_logps(model, prompt, ids)
                k = torch.exp(-shift(len(ids)))
                k = torch.where((k >= 0.5) & (k <= 5.0), k, 0.0)
                ratio = torch.exp(logps - logps.detach())
                surrogate = torch.min(ratio * advantage, ratio.clamp(1 - 0.20, 1 + 0.26) * advantage)
                terms.append((k * surrogate).sum())
                tokens += len(ids)
                history = PROTOCOL.parse(text).summary
    model.zero_grad()
    (-torch.stack(terms).sum() / tokens).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def model(tokenizer):
    """float64 throughout: GPT-2's norms, unlike those of Llama and Qwen, don't pass through float32."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double()
    for parameter in model.parameters():  # far from the symmetric start, so that every gradient counts
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def trainer_gradient(model, tokenizer, tmp_path, episodes=EPISODES, rewards=REWARDS, per_device=8, **settings):
    rewards = {q: list(r) for q, r in rewards.items()}

    def scripted(prompts, episodes, **_):
        count = dict.fromkeys(prompts, 0)
        values = []
        for question in prompts:
            values.append(rewards[question][count[question]])
            count[question] += 1
        return values

    count = len(next(iter(episodes.values())))
    args = EpisodeGRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=per_device, num_generations=count, max_steps=1,
        learning_rate=1e-3, max_grad_norm=0.0, bf16=False, use_cpu=True, report_to="none", save_strategy="no",
        gradient_checkpointing=False, disable_tqdm=True, shuffle_dataset=False, logging_steps=1, **settings,
    )  # fmt: skip
    trainer = EpisodeGRPOTrainer(
        copy.deepcopy(model), scripted, args, Dataset.from_list([{"prompt": q} for q in episodes]),
        processing_class=tokenizer, protocol=PROTOCOL,
        engine=PolicyEngine(copy.deepcopy(model), tokenizer, episodes, shift),
    )  # fmt: skip
    gradients = []

    def keep(*_):
        named = trainer.model.named_parameters()
        gradients.append({n: p.grad.clone() for n, p in named if p.grad is not None})

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train()
    return trainer, gradients


def relative_gap(left, right):
    assert left.keys() == right.keys()
    norm = torch.sqrt(sum((v**2).sum() for v in right.values()))
    return float(torch.sqrt(sum(((left[n] - right[n]) ** 2).sum() for n in right)) / norm)


SPLITS = {
    "one pass": {},
    "micro-batches of one row": {"max_tokens_per_microbatch": 1},
    "micro-batches of 150 tokens": {"max_tokens_per_microbatch": 150},
    "padding-free": {"padding_free": True},
    "padding-free micro-batches of 150 tokens": {"padding_free": True, "max_tokens_per_microbatch": 150},
    "accumulation 2": {"per_device": 4, "gradient_accumulation_steps": 2},
    "accumulation 4": {"per_device": 2, "gradient_accumulation_steps": 4},
    "old logprobs by a pass of their own": {"num_iterations": 2},
}


@pytest.mark.parametrize("split", SPLITS)
def test_gradient_is_the_formula(model, tokenizer, tmp_path, split):
    expected = formula_gradient(copy.deepcopy(model), tokenizer, EPISODES, REWARDS)
    _, gradients = trainer_gradient(model, tokenizer, tmp_path, **SPLITS[split])
    assert relative_gap(gradients[0], expected) < 1e-8


def reordered(values):
    order = {"a=1 b+2 ?": [2, 0, 3, 1], "c=5 d*3 e-1 ?": [3, 1, 0, 2]}
    return {q: [values[q][i] for i in order[q]] for q in reversed(values)}


def test_order_of_groups_and_episodes_is_irrelevant(model, tokenizer, tmp_path):
    expected = formula_gradient(copy.deepcopy(model), tokenizer, EPISODES, REWARDS)
    _, gradients = trainer_gradient(model, tokenizer, tmp_path, reordered(EPISODES), reordered(REWARDS))
    assert relative_gap(gradients[0], expected) < 1e-8


def test_zero_variance_group_has_no_gradient(model, tokenizer, tmp_path):
    rewards = {q: [1.0] * 4 for q in REWARDS}
    trainer, gradients = trainer_gradient(model, tokenizer, tmp_path, rewards=rewards)
    assert all(float(g.abs().max()) == 0.0 for g in gradients[0].values())
    for after, before in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(after, before)


def test_unscored_episode_changes_nothing(model, tokenizer, tmp_path):
    """Its text may be anything: neither the statistics nor the token count see it."""
    rewards = {**REWARDS, "a=1 b+2 ?": [1.0, 0.0, 0.75, None]}
    _, one = trainer_gradient(model, tokenizer, tmp_path, rewards=rewards)
    longer = {q: [list(e) for e in group] for q, group in EPISODES.items()}
    longer["a=1 b+2 ?"][3] = [SUMMARY.format("something else", "s"), FINAL.format("and longer", 7)]
    _, other = trainer_gradient(model, tokenizer, tmp_path, longer, rewards)
    assert relative_gap(one[0], other[0]) < 1e-12


def bigram_model(tokenizer):
    """A model whose next token depends on the last one only, so cutting a text moves no logprob."""
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=128, n_embd=32, n_layer=0, n_head=2, embd_pdrop=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double()
    torch.nn.init.zeros_(model.transformer.wpe.weight)
    return model


@pytest.mark.parametrize("limit", [1, 32768])
def test_more_rounds_do_not_change_a_tokens_weight(tokenizer, tmp_path, limit, monkeypatch):
    """The same tokens as one round and as three, with the same advantage: the same gradient."""
    from rollout.types import Episode, Segment, StopReason, Turn

    model = bigram_model(tokenizer)
    prompt = PROTOCOL.render_prompt(tokenizer, "a=1 b+2 ?")
    texts = ["b:+2=3\nc:+4=7\nd", "e:+5=2\nf:*3=6\n", "g", "h:-1=5\n"]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    def episodes(cuts):
        found = []
        for index, tokens in enumerate(ids):
            bounds = [0, *(c for c in cuts[index] if c < len(tokens)), len(tokens)]
            pieces = [(tokens[:a], tokens[a:b]) for a, b in pairwise(bounds)]
            segments = [Segment(prompt + old, new, None, "", "stop", Turn("malformed")) for old, new in pieces]
            found.append(Episode("a=1 b+2 ?", None, 0, segments, StopReason.MALFORMED))
        return found

    gradients = []
    for cuts in ([[], [], [], []], [[2, 5], [4], [], [1, 2, 3]]):
        args = EpisodeGRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=1, bf16=False,
            use_cpu=True, report_to="none", save_strategy="no", gradient_checkpointing=False, disable_tqdm=True,
            max_grad_norm=0.0, max_tokens_per_microbatch=limit,
        )  # fmt: skip
        policy, seen = copy.deepcopy(model), {}
        trainer = EpisodeGRPOTrainer(
            policy, lambda **_: [1.0, 0.0, 0.25, 0.0], args, Dataset.from_list([{"prompt": "a=1 b+2 ?"}]),
            processing_class=tokenizer, protocol=PROTOCOL, engine=object(),
        )  # fmt: skip
        monkeypatch.setattr(trainer, "roll_out", lambda tasks, cuts=cuts: episodes(cuts))

        def keep(*_, policy=policy, seen=seen):
            seen.update({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})

        trainer.create_optimizer()
        trainer.optimizer.register_step_pre_hook(keep)
        trainer.train()
        gradients.append({n: g for n, g in seen.items() if "wpe" not in n})
    assert relative_gap(gradients[1], gradients[0]) < 1e-8
