"""The index of episodes: filters, orders and sums against plain Python."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.monitor_episodes import write_run
from rl.monitor.episodes import episodes, question, sources
from rl.monitor.filters import SORTS
from rl.monitor.index import EpisodeIndex, text_id
from rl.monitor.runs import NotThere
from rollout.store import read_episodes, schema, store_question
from rollout.types import StopReason
from tests.stored import age, episode, run_of, write

SUMMARY = "<think>\nx\n</think><summary>so far</summary>"
QUESTIONS = ["How much is 50%?", "how much is 50_?", "ÄRGER mit Straße und ΣΊΣΥΦΟΣ?", "'; DROP TABLE episodes; --",
             [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'A "quoted"\nline'}]]  # fmt: skip


def made_up(rng, count):
    """Episodes of all kinds, with rewards, advantages and verdicts, some of which are none."""
    episodes = []
    for place in range(count):
        stop = rng.choice(list(StopReason))
        rounds = 0 if stop == "failed" else rng.randint(1, 4)
        question = QUESTIONS[place // 4 % len(QUESTIONS)]
        error = "the server said no" if stop == "failed" else None
        texts = [*[SUMMARY] * (rounds - 1), "<think>\nx\n</think>y"][:rounds]
        episodes.append(episode(question, place // 4, texts, stop, rng.randint(1, 9), "42", error=error))
    totals = [math.nan if rng.random() < 0.2 else rng.choice([0.0, 0.5, 1.0]) for _ in episodes]
    return episodes, [rng.choice([0.0, 1.0, None]) for _ in episodes], totals, [rng.gauss(0, 1) for _ in episodes]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(index, run, all stored rows with their source)."""
    folder, rng = tmp_path_factory.mktemp("run"), random.Random(0)
    for step in range(4):
        write(folder, f"episodes/train_{step:06d}", step, *made_up(rng, 40))
    write(folder, "episodes/eval_000002", 2, *made_up(rng, 20))
    evaluated, correct, _, _ = made_up(rng, 100)
    write(folder, "eval/episodes/sft_held_out", 0, evaluated, correct)
    age(folder / "episodes" / "train_000000.parquet")
    rows = []
    for below, pattern, source in (
        ("episodes", "train*.parquet", "train"), ("episodes", "eval*.parquet", "eval"),
        ("eval/episodes", "*.parquet", "eval/sft_held_out"),
    ):  # fmt: skip
        rows += [row | {"source": source} for row in read_episodes(folder / below, pattern)]
    with EpisodeIndex() as index:
        run = run_of(folder)
        index.load(run, 60, every=0)
        yield index, run, rows


def places(answer):
    return [(row["source"], row["step"], row["episode"]) for row in answer["rows"]]


def test_a_row_says_what_the_file_holds(filled):
    index, run, rows = filled
    answer = episodes(index, run, limit=1000)
    assert answer["total"] == len(answer["rows"]) == len(rows) and answer["search"] is None and not answer["faults"]
    stored = {(row["source"], row["step"], row["episode"]): row for row in rows}
    for row in answer["rows"]:
        made = stored[row["source"], row["step"], row["episode"]]
        names = {"rounds": "num_rounds", "tokens": "num_tokens", "peak": "peak_context"}
        for name in ("group", "answer", "stop_reason", "error", "reward", "advantage", "seconds", *names):
            assert row[name] == made[names.get(name, name)], name
        assert row["correct"] == made.get("correct") and row["run"] == "it" and row["snippet"] is None
        assert row["qid"] == f"{text_id(made['question']):016x}"
    questions = {row["question"] for row in answer["rows"]}
    assert 'system: Be brief. user: A "quoted" line' in questions and "How much is 50%?" in questions


FILTERS = st.fixed_dictionaries({}, optional={
    "source": st.sampled_from(["train", "eval", "eval/sft_held_out", "no"]),
    "step_from": st.integers(-1, 4), "step_to": st.integers(-1, 4), "rounds_min": st.integers(0, 5),
    "rounds_max": st.integers(0, 5), "tokens_min": st.integers(0, 30), "tokens_max": st.integers(0, 2**40),
    "question": st.sampled_from(["50", "50%", "50_", "STRASSE", "σίσυφος", "drop table", 'a "QUOTED"\nl', "\\", ""]),
    "qid": st.sampled_from([f"{text_id(store_question(q)):016x}" for q in QUESTIONS]),
    "group": st.sampled_from(["0", "3", "x"]), "correct": st.sampled_from(["right", "wrong", "unknown"]),
    "stop": st.lists(st.sampled_from([*StopReason, "unheard-of"]), min_size=1, max_size=3).map(",".join),
})  # fmt: skip
PLAIN = {
    store_question(q): q if isinstance(q, str) else 'system: Be brief.\n\nuser: A "quoted"\nline' for q in QUESTIONS
}


def holds(row, filters):
    """The filters in plain Python."""
    correct = row.get("correct")
    verdict = "unknown" if correct is None else "right" if correct else "wrong"
    tests = {
        "source": lambda v: row["source"] == v,
        "step_from": lambda v: row["step"] >= v,
        "step_to": lambda v: row["step"] <= v,
        "rounds_min": lambda v: row["num_rounds"] >= v,
        "rounds_max": lambda v: row["num_rounds"] <= v,
        "tokens_min": lambda v: row["num_tokens"] >= v,
        "tokens_max": lambda v: row["num_tokens"] <= v,
        "question": lambda v: v.casefold() in PLAIN[row["question"]].casefold(),
        "qid": lambda v: f"{text_id(row['question']):016x}" == v,
        "group": lambda v: row["group"] == v,
        "correct": lambda v: verdict == v,
        "stop": lambda v: row["stop_reason"] in v.split(","),
    }
    return all(tests[name](value) for name, value in filters.items())


@settings(max_examples=150, deadline=None)
@given(FILTERS, st.sampled_from(SORTS), st.integers(0, 30), st.integers(1, 60))
def test_filters_and_orders_are_those_of_plain_python(filled, filters, sort, offset, limit):
    index, run, rows = filled
    name = sort.removeprefix("-")
    name = {"tokens": "num_tokens", "rounds": "num_rounds"}.get(name, name)
    sign = -1 if sort.startswith("-") else 1
    ties = {"step": lambda row: ()}.get(name, lambda row: (-row["step"],))

    def key(row):
        value = row.get(name)
        return (value is None, sign * (value or 0), *ties(row), row["source"], row["episode"])

    expected = sorted((row for row in rows if holds(row, filters)), key=key)
    answer = episodes(index, run, sort=sort, offset=offset, limit=limit, **filters)
    assert answer["total"] == len(expected)
    page = expected[offset : offset + limit]
    assert places(answer) == [(row["source"], row["step"], row["episode"]) for row in page]


def test_sources_and_a_question_through_the_training(filled):
    index, run, rows = filled
    answer = sources(index, run)
    assert [one["source"] for one in answer["sources"]] == ["train", "eval", "eval/sft_held_out"]
    for one in answer["sources"]:
        of = [row for row in rows if row["source"] == one["source"]]
        assert one["episodes"] == len(of) and one["steps"] == [min(r["step"] for r in of), max(r["step"] for r in of)]
        assert one["graded"] == sum(row.get("correct") is not None for row in of)
        reasons = [row["stop_reason"] for row in of]
        assert one["stops"] == {reason: reasons.count(reason) for reason in set(reasons)}
        assert one["tokens_max"] == max(row["num_tokens"] for row in of)
    assert answer["sources"][0]["files"] == 4 and answer["indexing"] == {"files": 6, "of": 6}
    story = question(index, run, f"{text_id(QUESTIONS[0]):016x}")
    of = [row for row in rows if row["question"] == QUESTIONS[0] and row["source"] == "train" and row["step"] == 1]
    line = next(s for s in story["steps"] if (s["source"], s["step"], s["group"]) == ("train", 1, of[0]["group"]))
    same = [row for row in of if row["group"] == of[0]["group"]]
    assert line["right"] == sum(row["correct"] == 1 for row in same) and line["episodes"] == len(same) == 4
    assert story["answer"] == "42" and story["question"] == [{"text": QUESTIONS[0]}]
    assert [s["step"] for s in story["steps"] if s["source"] == "train"] == sorted(
        s["step"] for s in story["steps"] if s["source"] == "train"
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"qid": "zz"}, "qid is 'zz', which is not the id of a question"),
        ({"qid": "f" * 17}, "not the id of a question"),
        ({"text": "x", "after": "nonsense"}, "after is not a token of a search"),
        ({"text": "x", "after": "WzFd"}, "after is not a token of a search"),
    ],
)
def test_mistakes_are_one_line(filled, asked, message):
    index, run, _ = filled
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        episodes(index, run, **asked)
    assert message in str(error.value)
    with pytest.raises(NotThere, match="it has no question 0000000000000000"):
        question(index, run, "0" * 16)


def test_no_query_reaches_a_file_or_an_extension(filled, tmp_path):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for sql in (
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        "INSTALL httpfs",
        "SET enable_external_access=true",
    ):
        with pytest.raises(Exception, match=r"disabled|not allowed|Cannot"):
            filled[0].query(sql)


def test_a_made_up_run_is_like_a_real_one(tmp_path):
    write_run(tmp_path / "it", episodes=1250, per_step=500)
    for path in (tmp_path / "it" / "episodes").iterdir():
        assert pq.read_schema(path) == schema()
    run = run_of(tmp_path / "it")
    with EpisodeIndex() as index:
        index.load(run, 60, every=0)
        (source,) = sources(index, run)["sources"]
        assert (source["episodes"], source["files"], source["steps"]) == (1250, 3, [0, 2]) and not index.faults(run)
        assert 0 < source["graded"] <= 1250 and source["rounds_max"] == 4
        assert run.curves.refresh() is None and run.curves.stages() == ["sft", "rl"]


def test_the_monitor_imports_nothing_heavy():
    code = (
        "import sys, rl.monitor.groups, rl.monitor.compare; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib', 'pandas') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
