"""Episodes that start from something: a text before the question, a summary, an opening of the first output."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from rl.evaluation.cache import EpisodeCache, hash_question
from rl.evaluation.sampler import Sampler, sample_task
from rl.monitor.groups import _start
from rl.samples import episode_to_samples
from rollout.engines import make_engine
from rollout.episodes import RunningEpisode, run_episodes
from rollout.errors import InputError
from rollout.interventions import Interventions
from rollout.protocol import RoundProtocol, get_protocol, with_text
from rollout.store import EpisodeStore, read_episodes, to_episode
from rollout.types import Sampling, Start, StopReason, Task
from sft.reconstruct import reconstruct_rounds
from sft.tokens import encode_round
from tests.conftest import ScriptedEngine
from tests.test_interventions import Says, Script

INFTY = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=3)
SUMMARY = "<think>\na\n</think><summary>b=3</summary>"
FINAL = "<think>\na\n</think>\\boxed{3}"


def roll(tokenizer, texts, start, protocol=INFTY):
    engine = ScriptedEngine(tokenizer, {"a=1 ?": texts})
    (episode,) = run_episodes([Task("a=1 ?", "3", start=start)], engine, protocol, tokenizer, Sampling(max_tokens=32))
    return episode, engine


def test_an_empty_start_is_none(tokenizer):
    plain, empty = (roll(tokenizer, [SUMMARY, FINAL], start)[0] for start in (None, Start()))
    assert plain.segments == empty.segments and not plain.segments[0].opening
    tasks = [Task("a=1 ?"), Task("a=1 ?", start=Start())]
    first, second = (RunningEpisode(task, INFTY, tokenizer, Sampling(8, seed=3)).call() for task in tasks)
    assert first == second


def test_the_cache_knows_questions_without_a_start_by_their_key_of_before_starts():
    assert hash_question("a=1 ?") == hash_question("a=1 ?", Start()) == "6ad4c6ece8690c6d0f6a13adc715a2c7"
    starts = [Start(text="x"), Start(history="x"), Start(opening="x"), Start(rounds=1)]
    assert len({hash_question("a=1 ?", start) for start in (None, *starts)}) == 5
    assert hash_question("a=1 ?", Start("x", sources=(1,))) == hash_question("a=1 ?", Start("x", sources=(2,)))


def test_a_text_stands_before_the_question_in_every_round(tokenizer):
    episode, _ = roll(tokenizer, [SUMMARY, FINAL], Start(text="c=2 3"))
    assert episode.segments[0].prompt_ids == INFTY.render_prompt(tokenizer, "c=2 3\n\na=1 ?")
    assert episode.segments[1].prompt_ids == INFTY.render_prompt(tokenizer, "c=2 3\n\na=1 ?", "b=3")
    assert episode.question == "a=1 ?"  # rewards and tables see the question that was asked


def test_a_text_stands_before_the_last_message_of_the_user():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "r"}]
    chat = [{"role": "system", "content": "s"}, *turns]
    assert with_text(chat, "x") == [*chat[:3], {"role": "user", "content": "x\n\nr"}]
    assert with_text(chat, None) == with_text(chat, "") == chat
    parts = [{"role": "user", "content": [{"type": "text", "text": "r"}]}]
    assert [part["text"] for part in with_text(parts, "x")[0]["content"]] == ["x", "r"]
    with pytest.raises(InputError, match="needs a user message"):
        with_text(chat[:1], "x")


def test_the_first_round_of_a_history_is_an_sft_row(tokenizer):
    episode, _ = roll(tokenizer, [FINAL], Start(history="b=3"))
    rows = reconstruct_rounds("a=1 ?", ["a", "b"], ["b=3"], "\\boxed{3}")
    labels = encode_round(rows[1], INFTY, tokenizer)
    prompt = [token for token, label in zip(labels["input_ids"], labels["labels"], strict=True) if label == -100]
    assert episode.segments[0].prompt_ids == prompt


def test_rounds_done_before_count_for_the_limit_and_the_seeds(tokenizer):
    last, _ = roll(tokenizer, [SUMMARY], Start(history="b=3", rounds=2))
    assert (last.stop_reason, last.num_rounds) == (StopReason.MAX_ROUNDS, 1)
    task = Task("a=1 ?", start=Start(history="b=3", rounds=1))
    later = RunningEpisode(task, INFTY, tokenizer, Sampling(8, seed=3), "k").call()
    engine = ScriptedEngine(tokenizer, {"a=1 ?": [SUMMARY, FINAL]})
    seeds = []
    submit = engine.submit
    engine.submit = lambda *call: (seeds.append(call[2].seed), submit(*call))
    run_episodes([replace(task, start=None, seed_key="k")], engine, INFTY, tokenizer, Sampling(8, seed=3))
    assert later.sampling.seed == seeds[1] != seeds[0]


def test_an_opening_is_given_and_not_trained(tokenizer):
    opening = "<think>\na"
    engine = Script(tokenizer, ["\n</think>\\boxed{3}"])
    sampling = Sampling(max_tokens=32, seed=3)
    (episode,) = run_episodes([Task("a=1 ?", "3", start=Start(opening=opening))], engine, INFTY, tokenizer, sampling)
    (segment,) = episode.segments
    given = tokenizer.encode(opening, add_special_tokens=False)
    assert episode.final_text == FINAL and episode.stop_reason == StopReason.ANSWERED
    assert segment.completion_ids[: len(given)] == given and segment.opening == segment.given == len(given)
    assert segment.logprobs == [0.0] * len(given) + [-1.0] * (len(segment.completion_ids) - len(given))
    assert episode.num_tokens == len(segment.completion_ids) - len(given)
    asked = engine.calls[0][1]
    assert asked.max_tokens == 32 - len(given)
    (row,) = episode_to_samples(episode, 1.0)
    assert row.prompt_ids == segment.prompt_ids + given and row.completion_ids == segment.completion_ids[len(given) :]
    assert row.logprobs == [-1.0] * len(row.completion_ids)


def test_control_tokens_of_an_opening_are_real_ones(tokenizer):
    episode, _ = roll(tokenizer, ["c=5</summary>", FINAL], Start(opening="<think>\na\n</think><summary>"))
    assert tokenizer.convert_tokens_to_ids("<summary>") in episode.segments[0].completion_ids
    assert [s.turn.kind for s in episode.segments] == ["summary", "conclusion"]
    assert episode.segments[1].opening == 0


@pytest.mark.parametrize("kind", ["vanilla", "delethink"])
def test_only_summaries_can_be_started_from(tokenizer, kind):
    protocol = get_protocol(kind, segment_tokens=32, carry_tokens=8)
    with pytest.raises(InputError, match=f"the {kind} protocol has no summaries"):
        roll(tokenizer, [FINAL], Start(history="b=3"), protocol)
    episode, _ = roll(tokenizer, [FINAL], Start(text="c=2 3"), protocol)
    assert episode.stop_reason == StopReason.ANSWERED


def test_a_summarizer_sees_the_summary_that_the_episode_started_from(tokenizer):
    says = Says("b=4")
    rules, task = Interventions(summarizer=says), Task("a=1 ?", "3", start=Start(history="b=3"))
    engine = Script(tokenizer, ["<think>\na\n</think><summary>", FINAL])
    run_episodes([task], engine, INFTY, tokenizer, Sampling(max_tokens=32, seed=3), interventions=rules)
    assert says.asked[0].previous == "b=3"


def test_a_start_survives_the_store_and_the_cache(tokenizer, tmp_path):
    start = Start("c=2 3", "b=3", "<think>\n", 1, (4, 7))
    episode, _ = roll(tokenizer, ["a\n</think>\\boxed{3}"], start)
    plain, _ = roll(tokenizer, [FINAL], None)
    EpisodeStore(tmp_path).write("train_000001", 1, [episode, plain])
    stored, other = read_episodes(tmp_path)
    again = to_episode(stored, INFTY)
    assert (again.start, again.segments) == (start, episode.segments) and to_episode(other, INFTY).start is None
    assert stored["prompt_tokens"] == episode.prompt_tokens == len(episode.segments[0].prompt_ids)
    assert _start(stored) == {"text before the question": "c=2 3", "summary": "b=3", "first output": "<think>\n"}
    assert _start(other) == {}

    texts = {"a=1 ?": ["a\n</think>\\boxed{3}"]}
    sample = sample_task(Task("a=1 ?", "3", start=start), 0)
    for engine in (ScriptedEngine(tokenizer, texts), None):  # the second time, nothing is sampled
        cache = EpisodeCache(tmp_path / "cache.sqlite")
        described = (cache, cache.open({"model": "m"}))
        sampler = Sampler(lambda e=engine: e, tokenizer, INFTY, Sampling(max_tokens=32), cache=described)
        (drawn,) = sampler.draw_samples([sample], "").episodes
        assert (drawn.start, drawn.segments[0].opening) == (start, episode.segments[0].opening)
        cache.close()


def test_rounds_one_by_one_are_the_plain_episode(rounds_model):
    tokenizer, protocol = AutoTokenizer.from_pretrained(rounds_model), RoundProtocol.load(rounds_model)
    engine = make_engine("transformers", model_path=rounds_model, tokenizer=tokenizer, dtype="float32")
    sampling = Sampling(max_tokens=40, seed=3)
    tasks = [Task(f"a={a} b+4 c*2 d+1 e-3 ?", seed_key=a) for a in range(1, 9)]
    plain = run_episodes(tasks, engine, protocol, tokenizer, sampling)
    assert max(episode.num_rounds for episode in plain) > 1
    for task, whole in zip(tasks, plain, strict=True):
        history, segments = None, []
        for done in range(whole.num_rounds):
            one = replace(task, start=Start(history=history, rounds=done))
            (part,) = run_episodes([one], engine, protocol.replace(max_rounds=done + 1), tokenizer, sampling)
            segments += part.segments
            history = part.segments[0].turn.summary
        assert [s.completion_ids for s in segments] == [s.completion_ids for s in whole.segments]
        assert [s.prompt_ids for s in segments] == [s.prompt_ids for s in whole.segments]
