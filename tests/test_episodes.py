"""The episode loop over a scripted engine."""

from __future__ import annotations

import math

import pyarrow.parquet as pq
import pytest

from rewards.score import Scores
from rollout.episodes import run_episodes
from rollout.metrics import episode_metrics
from rollout.protocol import FAULTS, get_protocol
from rollout.store import EpisodeStore, read_episodes, schema
from rollout.types import Sampling, StopReason, Task
from tests.conftest import ScriptedEngine

INFTY = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=3)
SUMMARY = "<think>\na\n</think><summary>b=3</summary>"
FINAL = "<think>\na\n</think>\\boxed{3}"


def roll(tokenizer, scripts, protocol=INFTY):
    engine = ScriptedEngine(tokenizer, scripts)
    tasks = [Task(q, "3", index, {"tag": q}) for index, q in enumerate(scripts)]
    return run_episodes(tasks, engine, protocol, tokenizer, Sampling(max_tokens=32)), engine


def test_stop_reasons(tokenizer):
    scripts = {
        "a=1 ?": [SUMMARY, FINAL],
        "b=1 ?": [SUMMARY, SUMMARY, SUMMARY],
        "c=1 ?": [SUMMARY, "<think>\nx"],
        "d=1 ?": [(FINAL, "length")],
        "e=1 ?": [SUMMARY, ("out of memory", "error")],
        "f=1 ?": [FINAL],
    }
    episodes, _ = roll(tokenizer, scripts)
    assert [e.stop_reason for e in episodes] == [
        StopReason.ANSWERED, StopReason.MAX_ROUNDS, StopReason.MALFORMED, StopReason.TRUNCATED, StopReason.FAILED,
        StopReason.ANSWERED,
    ]  # fmt: skip
    assert [e.num_rounds for e in episodes] == [2, 3, 2, 1, 1, 1]
    assert episodes[4].error == "out of memory"
    assert [e.columns["tag"] for e in episodes] == list(scripts)
    metrics = episode_metrics(episodes, [1, 0, 0, 0, None, 1])
    assert metrics["episode/stop/answered"] == pytest.approx(1 / 3)
    assert metrics["accuracy/mean"] == pytest.approx(2 / 5)
    assert metrics["accuracy/rounds/1"] == pytest.approx(1 / 2)
    assert metrics["summary/tokens/mean"] == 2


def test_token_in_token_out(tokenizer):
    (episode,), engine = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL]})
    first, second = episode.segments
    assert [s.prompt_ids for s in episode.segments] == engine.prompts
    assert second.prompt_ids == INFTY.render_prompt(tokenizer, "a=1 ?", "b=3")
    assert first.completion_ids[-1] == tokenizer.eos_token_id
    assert first.text == SUMMARY
    assert episode.final_text == FINAL
    assert episode.num_tokens == len(first.completion_ids) + len(second.completion_ids)


def test_an_episode_goes_on_as_soon_as_its_round_ends(tokenizer):
    """The engine serves the newest request first: one episode runs to its end while the others wait."""
    episodes, engine = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL], "b=1 ?": [SUMMARY, SUMMARY, FINAL]})
    assert engine.order == [1, 2, 3, 0, 4]
    assert [e.num_rounds for e in episodes] == [2, 3]


def test_delethink_carries_tokens(tokenizer):
    protocol = get_protocol("delethink", segment_tokens=8, carry_tokens=3, keep_tokens=2, max_rounds=3)
    chunk = ("<think>\nabcdefg", "length")
    (episode,), engine = roll(tokenizer, {"a=1 ?": [chunk, ("hijklmno", "length"), "</think>\\boxed{3}"]}, protocol)
    question = protocol.render_prompt(tokenizer, "a=1 ?")
    assert tokenizer.decode(engine.prompts[1][len(question) :]) == "efg"
    assert tokenizer.decode(engine.prompts[2][len(question) :]) == "<think>\nmno"
    assert episode.stop_reason == StopReason.ANSWERED


def test_a_question_that_the_template_refuses_fails_alone(tokenizer):
    engine = ScriptedEngine(tokenizer, {"a=1 ?": [FINAL]})
    tasks = [Task([{"no": "role"}]), Task("a=1 ?")]
    tokenizer_template = tokenizer.chat_template
    tokenizer.chat_template = "{{ messages[0].role + '' }} {{ messages[0].content }}"
    try:
        bad, good = run_episodes(tasks, engine, INFTY, tokenizer, Sampling())
    finally:
        tokenizer.chat_template = tokenizer_template
    assert bad.stop_reason == StopReason.FAILED
    assert good.stop_reason == StopReason.ANSWERED


def test_store_keeps_every_episode(tokenizer, tmp_path):
    episodes, _ = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL], "b=1 ?": [FINAL]})
    EpisodeStore(tmp_path).write("train_000001", 1, episodes)
    rows = read_episodes(tmp_path)
    assert [r["num_rounds"] for r in rows] == [2, 1]
    assert rows[0]["rounds"][1]["completion_ids"] == episodes[0].segments[1].completion_ids
    assert [path.name for path in tmp_path.iterdir()] == ["train_000001.parquet"]


def test_a_file_has_the_same_columns_whatever_a_batch_holds(tokenizer, tmp_path):
    """An error, a verdict or a policy step in one batch only must not change the types of a column."""
    episodes, _ = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL], "b=1 ?": [("down", "error")]})
    store = EpisodeStore(tmp_path)
    scores = Scores(total=[1.0, math.nan], values={"answer": [1.0, None]}, correct=[1.0, None])
    store.write("a", 1, episodes, scores, [0.5, 0.0])
    store.write("b", 2, episodes[:1])
    store.write("c", 3, episodes, correct=[0.0, None])
    store.write("d", 4, [])
    assert all(pq.read_schema(tmp_path / f"{name}.parquet").equals(schema()) for name in "abcd")
    rows = read_episodes(tmp_path)
    assert [r["correct"] for r in rows] == [1.0, None, None, 0.0, None]
    assert [r["reward"] for r in rows] == [1.0, None, None, None, None]
    assert rows[1]["rounds"] == [] and rows[1]["error"] == "down"


def test_row_groups_hold_so_many_tokens(tokenizer, tmp_path, monkeypatch):
    """A reader of one group decodes little of a file of long episodes; one of short ones is in one piece."""
    episodes, _ = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL]})
    tokens = sum(len(s.prompt_ids) + len(s.completion_ids) for s in episodes[0].segments)
    assert pq.ParquetFile(EpisodeStore(tmp_path).write("short", 1, episodes * 200)).num_row_groups == 1
    monkeypatch.setattr("rollout.store.TOKENS_A_ROW_GROUP", 64 * tokens)
    file = pq.ParquetFile(EpisodeStore(tmp_path).write("long", 1, episodes * 200))
    assert file.num_row_groups == math.ceil(200 / 64)
    assert file.read_row_group(3).to_pylist()[0]["episode"] == 3 * 64
    monkeypatch.setattr("rollout.store.TOKENS_A_ROW_GROUP", 1)
    assert pq.ParquetFile(EpisodeStore(tmp_path).write("huge", 1, episodes * 3)).num_row_groups == 3


def test_shares_by_rounds_and_faults_are_complete(tokenizer):
    """With several batches a log, a mean over those that have a name would be no share of all episodes."""
    bad = "<think>\na=1\n</think><summary></summary>"
    episodes, _ = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL], "b=1 ?": [bad], "c=1 ?": [("<think>", "length")]})
    metrics = episode_metrics(episodes, max_rounds=4)
    assert [metrics[f"episode/rounds/{n}"] for n in (1, 2, 3, 4)] == [2 / 3, 1 / 3, 0, 0]
    faults = {fault: metrics[f"episode/malformed/{fault}"] for fault in FAULTS}
    assert faults.pop("empty_summary") == pytest.approx(1 / 3)
    assert not any(faults.values())  # a truncated round is not a malformed one


def test_all_batches_of_a_step_are_kept_and_told_apart(tokenizer, tmp_path):
    """Fewer accumulation steps a generation than an optimizer step has: it has several batches, each with group 0."""
    episodes, _ = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL], "b=1 ?": [FINAL]})
    for step, size in ((3, 2), (3, 1), (3, 2), (4, 2)):  # a batch of its own size, and a process of its own
        scores = Scores(total=[1.0, 0.0][:size], values={}, correct=[1.0, 0.0][:size])
        EpisodeStore(tmp_path).write_step("train", step, episodes[:size], scores, [0.0] * size)
    names = ["train_000003", "train_000003_1", "train_000003_2", "train_000004"]
    assert sorted(path.stem for path in tmp_path.glob("*.parquet")) == names
    rows = [row for row in read_episodes(tmp_path) if row["step"] == 3]
    assert [row["episode"] for row in rows] == list(range(5))
    assert [row["group"] for row in rows] == ["0", "1", "1.0", "2.0", "2.1"]


def test_what_a_resumed_training_repeats_goes(tokenizer, tmp_path):
    episodes, _ = roll(tokenizer, {"a=1 ?": [SUMMARY, FINAL]})
    store = EpisodeStore(tmp_path)
    for name in ("train_000009", "train_000010", "train_000010_1", "eval_000011", "notes"):
        store.write(name, 1, episodes)
    store.drop_from(10)
    assert sorted(path.stem for path in tmp_path.glob("*.parquet")) == ["notes", "train_000009"]
