"""Interventions: cut rounds, demanded summaries, other summarizers, budgets; over scripted engines and a real model."""

from __future__ import annotations

import re

import pytest

from rollout.episodes import run_episodes
from rollout.interventions import Interventions
from rollout.protocol import RoundProtocol, get_protocol
from rollout.types import Completion, Sampling, StopReason, Task

INFTY = get_protocol("inftythink", segment_tokens=32, summary_tokens=4, max_rounds=3)
SUMMARY = "<think>\na\n</think><summary>b=3</summary>"
FINAL = "<think>\na\n</think>\\boxed{3}"


class Script:
    """Writes the texts of a script, as far as a call's bounds let it; goes on where a call only goes on."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts, self.calls, self.waiting = tokenizer, list(texts), [], []
        self.left, self.after = [], None  # of the last text, and the prompt that it follows

    def submit(self, request_id, prompt_ids, sampling):
        self.calls.append((self.tokenizer.decode(prompt_ids), sampling))
        if prompt_ids != self.after:
            text = self.tokenizer.encode(self.texts.pop(0), add_special_tokens=False)
            self.left = [*text, self.tokenizer.eos_token_id]
        ids = self.left[: sampling.max_tokens]
        ends = [i for i, token in enumerate(ids) if token in (*sampling.stop_ids, self.tokenizer.eos_token_id)]
        ids = ids[: ends[0] + 1] if ends else ids
        self.left, self.after = self.left[len(ids) :], prompt_ids + ids
        self.waiting.append(Completion(request_id, ids, [-1.0] * len(ids), "stop" if ends else "length"))

    def poll(self):
        return [self.waiting.pop()]


class Says:
    """A summarizer that writes what it is told to."""

    identity = "says"

    def __init__(self, *texts):
        self.texts, self.asked, self.waiting = list(texts), [], []

    def submit(self, request_id, asked):
        self.asked.append(asked)
        text = self.texts.pop(0)
        self.waiting.append((request_id, text, "" if text is not None else "asleep"))

    def poll(self, wait):
        done, self.waiting = self.waiting, []
        return done


def roll(tokenizer, steering, texts, protocol=INFTY, most=32):
    engine = Script(tokenizer, texts)
    sampling = Sampling(most, seed=7)
    (episode,) = run_episodes([Task("a=1 ?", "3")], engine, protocol, tokenizer, sampling, interventions=steering)
    return episode, engine


def test_nothing_to_steer_changes_nothing(tokenizer):
    plain, first = roll(tokenizer, None, [SUMMARY, FINAL])
    steered, second = roll(tokenizer, Interventions(), [SUMMARY, FINAL])
    assert steered.segments == plain.segments and first.calls == second.calls


def test_a_cut_round_writes_the_summary_that_is_demanded(tokenizer):
    texts = ["<think>\nabcdefgh", "b=3</summary>", FINAL]
    episode, engine = roll(tokenizer, Interventions(summarize_at="fixed:5"), texts)
    cut = episode.segments[0]
    assert cut.text == "<think>\nabc\n</think><summary>b=3</summary>" and cut.turn.summary == "b=3"
    assert [sampling.max_tokens for _, sampling in engine.calls] == [5, 24, 5, 27]  # the bound of a round holds
    assert (cut.given, cut.dropped, cut.logprobs) == (3, 0, None)
    assert episode.stop_reason == StopReason.ANSWERED
    written = sum(len(s.completion_ids) for s in episode.segments)
    assert episode.num_tokens == written - 3
    assert "<history>\nb=3\n</history>" in engine.calls[2][0]


def test_a_demanded_summary_may_pass_the_bound_of_the_round(tokenizer):
    texts = ["<think>\nabcdefgh", "b=3</summary>", FINAL]
    _, engine = roll(tokenizer, Interventions(summarize_at="fixed:5"), texts, most=6)
    assert engine.calls[1][1].max_tokens == INFTY.summary_tokens + 8


def test_a_round_that_ends_before_and_the_last_one_are_left_alone(tokenizer):
    short = Interventions(summarize_at="fixed:20")
    assert roll(tokenizer, short, [SUMMARY, FINAL])[0].segments == roll(tokenizer, None, [SUMMARY, FINAL])[0].segments
    long = "<think>\n" + "abcdefgh" * 2 + "\n</think>\\boxed{3}"
    episode, _ = roll(tokenizer, Interventions(summarize_at="fixed:5"), [long], INFTY.replace(max_rounds=1))
    assert episode.final_text == long and episode.stop_reason == StopReason.ANSWERED


def test_a_cut_behind_the_thinking_goes_on(tokenizer):
    episode, engine = roll(tokenizer, Interventions(summarize_at="fixed:5"), ["<think>\na</think>xyz\\boxed{3}"])
    assert episode.final_text == "<think>\na</think>xyz\\boxed{3}" and episode.segments[0].given == 0
    assert len(engine.calls) == 2 and engine.calls[0][1].seed != engine.calls[1][1].seed


def test_random_cuts_are_drawn_evenly_and_by_the_seed(tokenizer):
    lengths = []
    for seed_key in range(60):
        engine = Script(tokenizer, ["<think>\nabcdefghijkl", "b=3</summary>"] * 2 + [FINAL])
        task = Task("a=1 ?", seed_key=seed_key)
        steering = Interventions(summarize_at="random:3-6")
        run_episodes([task], engine, INFTY, tokenizer, Sampling(32, seed=7), interventions=steering)
        lengths.append(engine.calls[0][1].max_tokens)
    assert set(lengths) == {3, 4, 5, 6}


def test_another_writes_the_summaries(tokenizer):
    says = Says("c=5")
    episode, engine = roll(tokenizer, Interventions(summarizer=says), [SUMMARY, FINAL])
    first = episode.segments[0]
    assert first.text == "<think>\na\n</think><summary>c=5</summary>"
    assert first.given == len(tokenizer.encode("c=5</summary>")) + 1  # and the end token
    assert "<history>\nc=5\n</history>" in engine.calls[1][0]
    (asked,) = says.asked
    assert (asked.question, asked.previous, asked.thinking) == ("a=1 ?", None, "a")
    assert asked.round_text.endswith("assistant\n<think>\na\n</think><summary>")
    says = Says("c=5", "d=6")
    cut = Interventions(summarize_at="fixed:5", summarizer=says)
    episode, _ = roll(tokenizer, cut, ["<think>\nabcdefgh"] * 2 + [FINAL])
    assert [s.turn.summary for s in episode.segments] == ["c=5", "d=6", None]
    assert [asked.previous for asked in says.asked] == [None, "c=5"]


def test_a_summarizer_that_fails_fails_the_episode(tokenizer):
    episode, _ = roll(tokenizer, Interventions(summarizer=Says(None)), [SUMMARY])
    assert episode.stop_reason == StopReason.FAILED and episode.error == "round 1 has no summary: asleep"


def test_thinking_is_closed_at_its_budget(tokenizer):
    texts = [SUMMARY, "<think>\nabcdefgh", "\\boxed{3}"]
    episode, engine = roll(tokenizer, Interventions(max_thinking=8), texts)  # the first round has 4
    assert episode.final_text == "<think>\nab\n</think>\\boxed{3}" and episode.stop_reason == StopReason.ANSWERED
    assert engine.calls[-1][1].banned_ids == (tokenizer.convert_tokens_to_ids("<summary>"),)


def test_thinking_goes_on_below_its_least(tokenizer):
    texts = [FINAL, "b\n</think>\\boxed{4}"]
    episode, engine = roll(tokenizer, Interventions(min_thinking=6), texts)
    assert episode.final_text == "<think>\na\nWaitb\n</think>\\boxed{4}"
    segment = episode.segments[0]
    assert engine.calls[1][0].endswith("<think>\na\nWait")
    assert (segment.given, segment.dropped) == (4, len(tokenizer.encode("</think>\\boxed{3}")) + 1)
    assert roll(tokenizer, Interventions(min_thinking=6), [SUMMARY, FINAL])[0].num_rounds == 2  # 8 in all: enough
    assert roll(tokenizer, Interventions(min_thinking=6), [FINAL], most=8)[0].final_text == FINAL  # no room to go on


def test_an_answer_without_thinking_has_no_end_to_take_away(tokenizer):
    episode, _ = roll(tokenizer, Interventions(min_thinking=20), ["\\boxed{3}"], get_protocol("vanilla"))
    assert episode.final_text == "\\boxed{3}" and episode.segments[0].given == 0


def test_a_budget_does_not_break_into_an_answer_that_a_chunk_began(tokenizer):
    chunks = get_protocol("delethink", segment_tokens=8, carry_tokens=4, keep_tokens=1, max_rounds=4)
    texts = ["<think>\na</think>bcdefghijk", "uvw\\boxed{3}"]  # the first is cut at 8 tokens, in the answer
    plain, _ = roll(tokenizer, None, list(texts), chunks, most=8)
    steered, _ = roll(tokenizer, Interventions(max_thinking=6), list(texts), chunks, most=8)
    assert [s.text for s in steered.segments] == [s.text for s in plain.segments] and steered.num_rounds > 1
    assert not any(s.given for s in steered.segments)


def test_mistakes(tokenizer):
    for when in ("fixed", "fixed:0", "random:5-3", "never"):
        with pytest.raises(ValueError, match="summarize_at is"):
            Interventions(summarize_at=when)
    with pytest.raises(ValueError, match="max_thinking is 3"):
        Interventions(min_thinking=5, max_thinking=3)
    episode, _ = roll(tokenizer, Interventions(summarize_at="fixed:3"), [FINAL], get_protocol("vanilla"))
    assert episode.stop_reason == StopReason.FAILED and "has no summaries" in episode.error


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_with_a_real_engine(rounds_model, kind):
    from transformers import AutoTokenizer

    from examples.chains.task import questions
    from rollout.engines import make_engine

    tokenizer, protocol = AutoTokenizer.from_pretrained(rounds_model), RoundProtocol.load(rounds_model)
    engine = make_engine(kind, model_path=rounds_model, tokenizer=tokenizer, dtype="float32")
    tasks = [Task(row["question"], row["answer"]) for row in questions(6, 3, [4, 7], True)]
    sampling = Sampling(24, temperature=0.0)

    def run(**steering):
        return run_episodes(tasks, engine, protocol, tokenizer, sampling, interventions=Interventions(**steering))

    cut = run(summarize_at="fixed:3")
    assert any(segment.given for episode in cut for segment in episode.segments)
    for episode in cut:
        for segment in episode.segments[:-1]:
            assert re.fullmatch(r"<think>\n.*\n</think><summary>.*</summary>", segment.text, re.DOTALL)
            assert segment.text.startswith("<think>\n") and segment.given <= 3
    told = run(summarizer=Says(*["q=1"] * 30))
    assert any(segment.turn.summary for episode in told for segment in episode.segments)
    for episode in told:
        assert {s.turn.summary for s in episode.segments if s.turn.summary} <= {"q=1"}
        assert "<summary>" not in episode.final_text or episode.stop_reason == StopReason.MAX_ROUNDS
    for episode in run(max_thinking=5):
        assert episode.num_rounds == 1 and "\n</think>" in episode.final_text
        assert "<summary>" not in episode.final_text  # banned
    if kind == "vllm":
        engine.close()
