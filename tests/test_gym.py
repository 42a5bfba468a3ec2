"""Tasks of reasoning-gym: rows, errors in one line, its own score as the verdict, and the traces of the second demo."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (requirements/gym.lock)")

from examples.smollm2.task import steps, summarize, traces
from rewards.gym import reasoning_gym
from rewards.load import load_rewards
from rewards.score import score_episodes
from rl.app.data_stage import shared_questions
from rl.app.run_config import parse_config
from rollout.gym import ANY_ANSWER, COLUMN, entry_of
from rollout.protocol import get_protocol
from rollout.types import Episode, Segment, StopReason
from sft.data.contamination import Contamination
from sft.data.sources import load_rows, open_source

CHAIN = {"size": 4, "seed": 3, "min_terms": 4, "max_terms": 6}


def episode(row, text, stop=StopReason.ANSWERED):
    segment = Segment(prompt_ids=[1], completion_ids=[2], logprobs=[-1.0], text=text, finish_reason="stop", turn=None)
    columns = {key: value for key, value in row.items() if key not in ("question", "answer")}
    return Episode(row["question"], row["answer"], 0, [segment], stop, columns)


def test_rows_are_the_library_s_own_from_any_one_on():
    import reasoning_gym as library

    rows = load_rows("reasoning_gym:chain_sum", **CHAIN)
    theirs = library.create_dataset("chain_sum", **CHAIN)
    assert [(r["question"], r["answer"]) for r in rows] == [(e["question"], e["answer"]) for e in theirs]
    source = open_source("reasoning_gym:chain_sum", **CHAIN)
    assert source.length == 4
    assert list(source.rows(2)) == rows[2:]
    assert [entry_of(r[COLUMN])[1]["question"] for r in rows] == [r["question"] for r in rows]


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("chainsum", {}, "did you mean 'chain_sum'"),
        ("chain_sum", {"terms": 3}, "has no setting 'terms'; known: min_terms"),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, "max_terms must be >= min_terms"),
        ("chain_sum", {"size": "many"}, "rejects"),
    ],
)
def test_a_mistake_is_one_line(task, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        load_rows(f"reasoning_gym:{task}", **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("task", ["chain_sum", "number_sorting", "countdown", "prime_factorization", "leg_counting"])
def test_the_task_s_own_score_is_the_verdict(task):
    row = load_rows(f"reasoning_gym:{task}", size=2, seed=5)[1]
    right = row["answer"]
    cases = {
        f"<think>\nx\n</think><answer>{right}</answer>": 1.0,
        f"<think>\nx\n</think>{right}": 1.0,
        f"<think>\n<answer>{right}</answer>\n</think>none": 0.0,
        f"<answer>{right}</answer> or <answer>nothing</answer>": 0.0,
        "</think>\\boxed{never}": 0.0,
    }
    episodes = [episode(row, text) for text in cases]
    assert reasoning_gym(episodes) == list(cases.values())
    assert reasoning_gym([episode(row, f"\\boxed{{{right}}}", StopReason.TRUNCATED)]) == [0.0]


def test_what_is_not_reasoning_gym_s_can_t_be_judged():
    row = load_rows("reasoning_gym:chain_sum", **CHAIN)[0]
    other = json.loads(row[COLUMN]) | {"digest": "another"}
    metrics = {}
    episodes = [
        episode(row | {COLUMN: None}, row["answer"]),
        episode(row | {COLUMN: json.dumps(other)}, row["answer"]),
        episode(row, row["answer"]),
    ]
    assert reasoning_gym(episodes, log_metric=metrics.__setitem__) == [None, None, 1.0]
    assert metrics == {"reasoning_gym/timeout": 0, "reasoning_gym/error": 1}


def test_it_is_the_run_s_verifier():
    rows = load_rows("reasoning_gym:chain_sum", **CHAIN)
    entries = [{"fn": "reasoning_gym"}, {"fn": "iteration_decay", "combine": "multiply"}]
    episodes = [episode(rows[0], f"\\boxed{{{rows[0]['answer']}}}"), episode(rows[1], "\\boxed{x}")]
    scores = score_episodes(episodes, load_rewards(entries, get_protocol("inftythink")))
    assert scores.correct == [1.0, 0.0]
    assert scores.total == [1.0, 0.0]


def test_a_task_without_a_single_answer_has_rows_too():
    row = load_rows("reasoning_gym:graph_color", size=1, seed=1)[0]
    assert row["answer"] == ANY_ANSWER


def test_traces_write_down_the_steps_and_what_is_left():
    for row in traces(**CHAIN, allow_negation=True):
        lines = steps(row["question"]).splitlines()
        for line in lines:
            left, _, right = line.rpartition(" = ")
            assert eval(left) == int(right)
        assert lines[-1].rpartition("= ")[2] == row["answer"]
        assert reasoning_gym([episode(row, row["trace"])]) == [1.0]
        first = summarize(row["question"], None, lines[0] + "\n")
        for cut in range(1, len(lines)):
            left = summarize(row["question"], None, "\n".join(lines[:cut]))
            assert eval(left) == int(row["answer"])
            assert left == (first if cut == 1 else summarize(row["question"], first, "\n".join(lines[1:cut])))


def test_a_template_is_no_contamination_but_an_equal_question_is():
    settings = {"size": 40, "min_terms": 9, "max_terms": 9, "min_digits": 4}
    train, held_out = (
        [row["question"] for row in load_rows("reasoning_gym:chain_sum", seed=seed, **settings)] for seed in (1, 1000)
    )
    contamination = Contamination({"held_out": held_out})
    assert [contamination.find(question) for question in train] == [None] * 40
    assert [contamination.find(question) for question in held_out] == ["held_out"] * 40
    assert contamination.find("Work out " + held_out[0].partition(": ")[2]) == "held_out"


def test_evaluation_questions_among_those_of_rl_are_counted():
    config = parse_config({
        "name": "x",
        "model": {"path": "m"},
        "data": {
            "questions": {"source": "reasoning_gym:chain_sum", "size": 50, "seed": 0},
            "eval": {
                "near": {"source": "reasoning_gym:chain_sum", "size": 50, "seed": 20},
                "far": {"source": "reasoning_gym:chain_sum", "size": 20, "seed": 1000, "min_digits": 4},
            },
        },
    })  # fmt: skip
    questions = load_rows("reasoning_gym:chain_sum", size=50, seed=0)
    assert shared_questions(config, questions) == [("near", 30, 50)]
