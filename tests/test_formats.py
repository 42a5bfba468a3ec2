"""Rows of public data sets, in the shapes that they really have, become questions and generations."""

from __future__ import annotations

import json
import math

import pytest

from sft.data.formats import Generation, read_row, recognize
from sft.data.thinking import END_TOKENS, THINKING, split_thinking

TRACE = "<think>\nOne and one.\n\nTwo.\n</think>\n\nIt is **2**."
PARTS = ("One and one.\n\nTwo.", "\n\nIt is **2**.")
THOUGHT = (
    "<|begin_of_thought|>\n\nOne and one.\n\nTwo.\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\nIt is **2**.\n\n<|end_of_solution|>"
)
ASK = {"role": "user", "content": "1 + 1?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def chat(*turns, keys=("role", "content")):
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


def reply(content, **more):
    return {"role": "assistant", "content": content, **more}


FORMATS = {
    "OpenR1-Math": {
        "problem": "1 + 1?",
        "solution": "The sum is 2.",
        "answer": "2",
        "uuid": "7",
        "is_reasoning_complete": [True],
        "generations": [TRACE],
        "correctness_math_verify": [True],
        "correctness_llama": None,
        "messages": [ASK, reply("<think>\nother\n</think>x")],
    },
    "OpenThoughts": {
        "system": "Write the thought between <|begin_of_thought|> and <|end_of_thought|>.",
        "conversations": chat(("user", "1 + 1?"), ("assistant", THOUGHT), keys=("from", "value")),
    },
    "ShareGPT": {"id": 7, "conversations": chat(("human", "1 + 1?"), ("gpt", TRACE), keys=("from", "value"))},
    "messages": {
        "messages": [{**ASK, "reasoning_content": None}, reply(PARTS[1], reasoning_content=PARTS[0])],
        "answer": 2,
    },
    "thinking_trajectories + attempt": {
        "solution": "2",
        "question": "1 + 1?",
        "cot": None,
        "thinking_trajectories": [PARTS[0]],
        "attempt": PARTS[1],
    },
    "deepseek_thinking_trajectory + deepseek_attempt": {
        "solution": "2",
        "question": "1 + 1?",
        "gemini_thinking_trajectory": "another",
        "gemini_attempt": "another",
        "deepseek_thinking_trajectory": PARTS[0],
        "deepseek_attempt": PARTS[1],
    },
    "deepseek_reasoning + deepseek_solution": {
        "problem": "1 + 1?",
        "deepseek_reasoning": PARTS[0],
        "deepseek_solution": PARTS[1],
        "ground_truth_solution": None,
    },
    "Complex_CoT + Response": {"Question": "1 + 1?", "Complex_CoT": PARTS[0], "Response": PARTS[1]},
    "question + trace": {"id": "7", "question": "1 + 1?", "answer": "2", "trace": TRACE, "source": "us"},
    "problem + generated_solution": {"problem": "1 + 1?", "generated_solution": TRACE, "expected_answer": "2"},
    "question + solution": {"question": "1 + 1?", "solution": TRACE},
    "prompt + completion": {"prompt": [ASK], "completion": [reply(TRACE)]},
    "prompt + response": {
        "prompt": "1 + 1?",
        "response": TRACE,
        "reward_model": {"ground_truth": "2", "style": "rule"},
    },
    "input + output": {"input": [ASK], "output": TRACE, "reasoning": "on", "system_prompt": "detailed thinking on"},
}


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ('{"ground_truth": "2", "style": "rule"}', "2"),
        ('{"ground_truth": 2}', "2"),
        ('{"ground_truth": ["2"]}', "2"),
        ('{"ground_truth": "2"', '{"ground_truth": "2"'),  # no JSON: the text
        ('{"a": 2}', '{"a": 2}'),  # a gold answer that is JSON
        ({"ground_truth": 1e-05}, "1e-05"),
        (1e-05, "1e-05"),
        (2.0, "2.0"),
    ],
)
def test_gold_answers_in_json_text_and_as_numbers(gold, answer):
    row = {"prompt": [ASK], "response": TRACE, "reward_model": gold}
    assert read_row(row).answer == answer


@pytest.mark.parametrize("role", ["ai", "AI", "bot", "gpt", "model", "assistant "])
def test_names_of_the_assistant(role):
    row = {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": role, "value": TRACE}]}
    assert read_row(row).question == "1 + 1?"


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_recognized_and_read(name):
    row = FORMATS[name]
    source = read_row(row)
    assert recognize(row).lower() == name.lower()
    assert (source.question, source.problems) == ("1 + 1?", [])
    assert [(g.reasoning.strip(), g.conclusion) for g in source.generations] == [PARTS]
    assert source.answer == ("2" if {"answer", "expected_answer", "reward_model"} & {*row} else None)
    assert source.id == ("7" if {"id", "uuid"} & {*row} else None)


def test_openr1_flags_and_incomplete_generations():
    row = {
        "problem": "1 + 1?",
        "answer": "2",
        "generations": [TRACE] * 4 + ["<think>\ncut", None],
        "correctness_math_verify": [True, False, None, True, False, False],
        "correctness_llama": [False, None, True, None, None, None],
        "is_reasoning_complete": [True, True, True, False, True, None],
    }
    source = read_row(row)
    assert [g.correct for g in source.generations] == [True, False, True]
    assert source.problems == ["generation not complete", "thinking not closed", "no generation"]
    nothing = {"correctness_math_verify": None, "correctness_llama": None, "is_reasoning_complete": None}
    assert {g.correct for g in read_row(row | nothing).generations} == {None}
    assert read_row(row | {"correctness_math_verify": None}).generations[0].correct is False


def test_null_columns_of_a_mixture_are_passed_over():
    row = {"messages": None, "generations": None, "reasoning": "", "conversations": [], "trace": math.nan}
    row |= {"question": None, "prompt": "1 + 1?", "response": TRACE, "answer": math.nan, "gold": ["2"], "id": 0}
    source = read_row(row)
    assert (source.question, source.answer, source.id) == ("1 + 1?", "2", "0")


def test_the_last_assistant_message_is_the_generation():
    turns = [ASK, reply("<think>\nearlier\n</think>2"), {"role": "user", "content": "2 + 2?"}, reply(TRACE)]
    question = read_row({"messages": [*turns, {"role": "user", "content": "Thanks."}]}).question
    assert question == turns[:3]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, ASK, reply(TRACE)]},
        {"system": "Be brief.", "conversations": [ASK, reply(TRACE)]},
        {"prompt": [SYSTEM, ASK], "response": TRACE},
        {"messages": [SYSTEM, ASK], "reasoning_content": PARTS[0], "content": PARTS[1]},
    ],
)
def test_a_system_message_makes_the_question_a_chat(row):
    assert read_row(row).question == [SYSTEM, ASK]


def test_an_empty_system_message_does_not():
    assert read_row({"messages": [{"role": "system", "content": ""}, ASK, reply(TRACE)]}).question == "1 + 1?"


def test_content_in_parts_and_an_alpaca_input():
    parts = [{"type": "text", "text": "1 +"}, {"type": "text", "text": " 1?"}]
    assert read_row({"messages": [{"role": "user", "content": parts}, reply(TRACE)]}).question == "1 + 1?"
    alpaca = {"instruction": "Add.", "input": "1 and 1", "output": TRACE}
    assert read_row(alpaca).question == "Add.\n\n1 and 1"


def test_an_answer_column_that_is_the_conclusion_is_no_gold_answer():
    row = {"question": "1 + 1?", "reasoning": PARTS[0], "answer": "It is 2."}
    assert read_row(row).answer is None
    assert read_row(row).generations == [Generation(PARTS[0], "It is 2.", None)]


@pytest.mark.parametrize(("opening", "closing"), THINKING)
def test_thinking_tags(opening, closing):
    assert split_thinking(f" {opening}\n{PARTS[0]}\n{closing}{PARTS[1]}\n") == PARTS
    assert split_thinking(f"{PARTS[0]}\n{closing}{PARTS[1]}") == PARTS
    row = {"question": "1 + 1?", "reasoning": f"{opening}\n{PARTS[0]}\n{closing}\n", "content": PARTS[1]}
    assert read_row(row).generations == [Generation(*PARTS, None)]


def test_text_inside_the_tags_is_kept_byte_for_byte():
    inside = "  <think> is a tag,\r\n\tso is <thinking>; </thinking> too.  "
    assert split_thinking(f"<think>\n{inside}\n</think>\n\n\nx") == (inside, "\n\n\nx")


@pytest.mark.parametrize("token", END_TOKENS)
def test_end_tokens_are_taken_off(token):
    assert split_thinking(f"{TRACE}{token}\n{token}\n") == PARTS
    assert split_thinking(f"<think>a</think>{token} inside") == ("a", f"{token} inside")
    assert split_thinking(THOUGHT + token)[1] == PARTS[1]


def test_thinking_given_twice_is_read_once():
    assert read_row({"question": "1 + 1?", "reasoning": PARTS[0], "content": TRACE}).generations == [
        Generation(*PARTS, None)
    ]


def test_named_columns_win():
    row = {"q": "1 + 1?", "meta": {"gold": 2, "none": None}, "out": TRACE, "ok": "True", "key": 7}
    row |= {"question": "2 + 2?", "answer": "4", "messages": [ASK, reply("x")], "grade": [0, "yes"]}
    named = {"question": "q", "answer": "meta.gold", "trace": "out", "correct": "ok", "id": "key"}
    source = read_row(row, named)
    assert (source.question, source.answer, source.id) == ("1 + 1?", "2", "7")
    assert source.generations == [Generation(*PARTS, True)]
    assert read_row(row, named | {"answer": "meta.none.deeper"}).answer is None
    pairs = {"t": [PARTS[0], "b"], "c": [PARTS[1], "c"], **row}
    both = read_row(pairs, {"reasoning": "t", "conclusion": "c", "correct": "grade"}).generations
    assert both == [Generation(*PARTS, False), Generation("b", "c", True)]
    plain = {"question": "1 + 1?", "trace": TRACE}
    assert read_row({"expected": "3", **plain}, {"answer": "expected"}).answer == "3"
    assert read_row({"a.b": "3", **plain}, {"answer": "a.b"}).answer == "3"
    assert read_row({"talk": [ASK, reply(TRACE)], **plain}, {"messages": "talk", "question": "trace"}).question == TRACE


def test_every_shared_trace_is_read(shared_data):
    rows = [json.loads(line) for line in (shared_data / "traces.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 175
    for row in rows:
        source = read_row(row)
        (generation,) = source.generations
        assert (source.question, source.answer, source.id) == (row["question"], row["answer"], row["id"])
        assert generation.reasoning in row["trace"]
        assert row["trace"].strip() == f"<think>\n{generation.reasoning}\n</think>{generation.conclusion}"
