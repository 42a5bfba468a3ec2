"""Samples that are drawn once: order, number, other questions, kills and other processes change nothing."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from rl.evaluation.cache import EpisodeCache, Kept, default_path, hash_question, open_cache
from rl.evaluation.models import fingerprint, open_model, open_models
from rl.evaluation.sampler import Sampler
from rollout.protocol import get_protocol
from rollout.types import Completion, Episode, Sampling, Segment, StopReason, Task

PROTOCOL = get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=3)
SAMPLING = Sampling(32, temperature=1.0, seed=7)
ROWS = [{"question": f"a={n} b+1 ?", "answer": str(n), "difficulty": n} for n in range(4)]


class SeededEngine:
    """A round's text is made of its seed. Fails, or raises, at a request's number."""

    def __init__(self, tokenizer, fail_at: int | None = None, stop_at: int | None = None):
        self.tokenizer, self.fail_at, self.stop_at = tokenizer, fail_at, stop_at
        self.waiting: list[tuple[int, int]] = []
        self.served = 0

    def submit(self, request_id, prompt_ids, sampling):
        self.waiting.append((request_id, sampling.seed))

    def poll(self):
        request_id, seed = self.waiting.pop()
        self.served += 1
        if self.served == self.stop_at:
            raise KeyboardInterrupt
        if self.served == self.fail_at:
            return [Completion(request_id, [], None, "error", "out of luck")]
        end = f"<summary>b={seed % 10}</summary>" if seed % 2 else f"\\boxed{{{seed % 10}}}"
        ids = [*self.tokenizer.encode(f"<think>\nb:+1={seed // 10 % 10}\n</think>{end}"), self.tokenizer.eos_token_id]
        return [Completion(request_id, ids, [-0.1] * len(ids), "stop")]


@pytest.fixture
def cache(tmp_path):
    made = EpisodeCache(tmp_path / "episodes.sqlite")
    yield made
    made.close()


def draw(tokenizer, rows, samples, cache=None, **faults):
    """(texts of all rounds by question and sample, requests that the engine served)."""
    engine = SeededEngine(tokenizer, **faults)
    key = (cache, cache.open({"model": "m"})) if cache else None
    drawn = Sampler(lambda: engine, tokenizer, PROTOCOL, SAMPLING, cache=key).draw(rows, range(samples), "t").episodes
    texts = [([s.text for s in e.segments], e.stop_reason, e.answer, e.columns, e.group_id) for e in drawn]
    return {row["question"]: texts[i * samples : (i + 1) * samples] for i, row in enumerate(rows)}, engine.served


def outputs(drawn):
    return {question: [sample[:2] for sample in samples] for question, samples in drawn.items()}


def test_a_sample_depends_on_its_question_and_number_alone(tokenizer, cache):
    """Without a cache in another order; with one, more samples, fewer questions: the same, and nothing twice."""
    alone, served = draw(tokenizer, ROWS, 4)
    assert served >= 16
    backwards = outputs(draw(tokenizer, ROWS[::-1], 3)[0])
    assert all(backwards[question] == samples[:3] for question, samples in outputs(alone).items())
    two, first = draw(tokenizer, ROWS[:3], 2, cache)
    four, more = draw(tokenizer, ROWS, 4, cache)
    assert four == alone and first + more == served
    assert all(four[question][:2] == samples for question, samples in two.items())
    assert draw(tokenizer, [ROWS[2]], 4, cache)[1] == 0
    assert len({str(sample) for samples in alone.values() for sample in samples}) > 8  # they do differ


def test_a_gold_answer_is_not_part_of_the_key_and_the_same_question_is_asked_once(tokenizer, cache):
    draw(tokenizer, ROWS[:1], 2, cache)
    again = Sampler(lambda: None, tokenizer, PROTOCOL, SAMPLING, cache=(cache, cache.open({"model": "m"})))
    mended = [ROWS[0] | {"answer": "9"}, ROWS[0]]
    drawn = again.draw(mended, range(2), "t")
    assert [e.answer for e in drawn.episodes] == ["9", "9", "0", "0"] and drawn.kept == 2
    assert [e.group_id for e in drawn.episodes] == [0, 0, 1, 1] and drawn.in_flight == [2] * 4
    other = cache.open({"model": "another"})
    assert not cache.samples(other, [hash_question(ROWS[0]["question"])])


def test_what_was_finished_before_a_stop_is_kept_and_what_failed_is_asked_again(tokenizer, cache):
    whole, served = draw(tokenizer, ROWS, 4)
    with pytest.raises(KeyboardInterrupt):
        draw(tokenizer, ROWS, 4, cache, stop_at=12)
    _, failed = draw(tokenizer, ROWS, 4, cache, fail_at=2)
    assert 0 < failed < served
    mended, last = draw(tokenizer, ROWS, 4, cache)
    assert mended == whole and 0 < last < failed


def test_an_episode_comes_back_as_it_was(tokenizer, cache):
    text = "<think>\nb:+1=3\n</think><summary>b=3</summary>"
    segment = Segment(
        [1, 2], [3, 4, 5], [-0.5, -1.25, 0.0], text, "stop", PROTOCOL.parse(text), summary_tokens=2, given=1, dropped=4
    )
    rounds = [segment, replace(segment, logprobs=None, finish_reason="length")]
    task = Task([{"role": "user", "content": "ä?"}], "3", 5, {"difficulty": 2})
    episode = Episode(task.question, "3", 5, rounds, StopReason.TRUNCATED, {"difficulty": 2}, seconds=1.5)
    setting, place = cache.open({}), (hash_question(task.question), 0)
    cache.put(setting, place, Kept(episode, 12))
    assert cache.get(setting, place, task, PROTOCOL) == Kept(episode, 12)


def test_two_processes_keep_the_same_episode(tokenizer, tmp_path):
    """Both sampled it; what the first kept is what both give."""
    first, second = (EpisodeCache(tmp_path / "shared.sqlite") for _ in range(2))
    task = Task(ROWS[0]["question"], "0")
    made = [Kept(Episode(task.question, "0", 0, [], StopReason.MALFORMED, seconds=s), 1) for s in (1.0, 2.0)]
    setting, place = first.open({}), ("q", 0)
    first.put(setting, place, made[0])
    second.put(second.open({}), place, made[1])
    assert second.get(setting, place, task, PROTOCOL) == first.get(setting, place, task, PROTOCOL) == made[0]
    assert second.samples(setting, ["q", "q"]) == {("q", 0)}
    first.close()
    second.close()


def test_places_and_what_is_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "sawtooth" / "episodes.sqlite"
    assert open_cache("none") is None
    (tmp_path / "note.txt").write_text("not a database, and long enough to be looked at as one" * 20)
    with pytest.raises(ValueError, match=r"note.txt can't be used as the cache of samples .* name another --cache"):
        open_cache(str(tmp_path / "note.txt"))
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE episodes (name TEXT)")
    with pytest.raises(ValueError, match="can't be used"):
        open_cache(str(tmp_path / "other.sqlite"))


def test_a_model_is_known_by_its_weights_and_tokenizer(tiny_model, tmp_path, cache):
    for name in ("one/rl/final", "two/rl/final"):
        (tmp_path / name).mkdir(parents=True)
        for path in Path(tiny_model).iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    one, two = open_models([str(tmp_path / n) for n in ("one/rl/final", "two/rl/final")], cache.digest)
    assert one.identity == two.identity and (one.name, two.name) == ("one-rl", "two-rl")
    assert one.protocol is None and one.shape() == two.shape()
    PROTOCOL.save(two.folder)
    (two.folder / "README.md").write_text("a card")
    assert fingerprint(two.folder, cache.digest) == one.identity
    template = two.folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert fingerprint(two.folder, cache.digest) != one.identity
    (one.folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        open_model(str(one.folder), cache.digest)
    with pytest.raises(ValueError, match=r"has no config\.json"):
        open_model(str(tmp_path), cache.digest)
    with pytest.raises(ValueError, match="is not a local folder, and the Hub returns"):
        open_model("nobody/nothing-of-the-kind", cache.digest)
