"""Rows that can't be read: each has its reason, and no row whatever is another error."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rollout.protocol import SPECIAL_TOKENS
from sft.data.formats import COLUMNS, read_row, recognize
from sft.data.thinking import END_TOKENS, THINKING, Unreadable, split_thinking
from tests.test_formats import ASK, FORMATS, THOUGHT, TRACE, reply


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It is 2.", "no thinking"),
        ("", "no thinking"),
        ("<think>\nOne", "thinking not closed"),
        ("Well: <think>\nOne", "thinking not closed"),
        ("<thinking>\nOne</think>2", "thinking not closed"),
        ("Well: <think>\nOne</think>2", "text before the thinking"),
        ("<think>\n \n</think>2", "empty thinking"),
        ("<think>One</think>\n\n", "no conclusion"),
        ("<think>One</think>\n<|im_end|>", "no conclusion"),
        ("<think>One</think>2</think>2", "a second thinking tag after the thinking"),
        ("One</think>2</think>2", "a second thinking tag after the thinking"),
        ("<think>a <think>b</think> c</think>2", "a second thinking tag after the thinking"),
        ("<think>One</think><think>Two</think>2", "a second thinking tag after the thinking"),
        ("[THINK]One[/THINK]<think>Two</think>2", "a second thinking tag after the thinking"),
        ("[THINK]One</think>Two[/THINK]2", "a closing tag inside the thinking"),
        ("<think><summary>One</summary></think>2", "holds the protocol's own tags"),
        ("<think>One</think>2 <history>", "holds the protocol's own tags"),
        (THOUGHT.removesuffix("<|end_of_solution|>"), "solution not closed"),
        (THOUGHT + " More.", "text after the solution"),
        ("<think>\ud800</think>2", "text is not valid Unicode"),
        (None, "generation is not text"),
        (b"<think>One</think>2", "generation is not text"),
    ],
)
def test_reasons_of_a_text(text, reason):
    with pytest.raises(Unreadable) as error:
        split_thinking(text)
    assert str(error.value) == reason


def columns(reasoning="One", content="2", **more):
    return {"question": "1 + 1?", "reasoning": reasoning, "content": content, **more}


def trace(**more):
    return {"question": "1 + 1?", "trace": TRACE, **more}


def generations(**more):
    return {"problem": "1 + 1?", "generations": [TRACE], **more}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": 1, "b\ud800": 2, 3: 4}, "no known format: columns a, b?"),
        ([TRACE], "row is not a dict"),
        ({"trace": TRACE}, "no question"),
        (trace(question=" "), "no question"),
        ({"messages": [reply(TRACE)]}, "no question"),
        ({"messages": [ASK]}, "no assistant message"),
        ({"messages": None}, "no assistant message"),
        ({"prompt": [ASK], "completion": [ASK]}, "no assistant message"),
        ({"messages": [ASK, reply("2"), reply(TRACE)]}, "question ends in an assistant message"),
        (
            {"messages": [ASK, {"role": "critic", "content": "2"}, reply(TRACE)]},
            "message has the role 'critic', which is none we know",
        ),
        (
            {"messages": [ASK, {"from": "tool\x1b", "value": "2"}, reply(TRACE)]},
            "message has the role 'tool\\x1b', which is none we know",
        ),
        ({"messages": ["1 + 1?", reply(TRACE)]}, "message has no role"),
        ({"messages": [ASK, {"role": None, "content": "2"}, reply(TRACE)]}, "message has no role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, reply(TRACE)]}, "user message is not text"),
        ({"messages": [ASK, reply(2)]}, "assistant message is not text"),
        ({"messages": [ASK, reply(TRACE)], "system": 1}, "system prompt is not text"),
        (trace(question=["1 + 1?"]), "question is not text"),
        (trace(question="\ud800"), "text is not valid Unicode"),
        (trace(answer=["2", "3"]), "answer is not text"),
        (trace(answer=10**5000), "answer is not text"),
        (trace(id=b"7"), "id is not text"),
        (trace(trace=2), "generation is not text"),
        (trace(trace=None), "no generation"),
        (generations(generations=[]), "no generation"),
        (generations(is_reasoning_complete=[False]), "generation not complete"),
        (generations(correctness_llama=[True, True]), "flags and generations differ in number"),
        (generations(correctness_llama=["perhaps"]), "flag is not true or false"),
        (columns(reasoning=2), "reasoning is not text"),
        (columns(content=2), "conclusion is not text"),
        (columns(reasoning="<think></think>"), "empty thinking"),
        (columns(content=None), "no conclusion"),
        (columns(reasoning="One</think>Two"), "a closing tag inside the thinking"),
        (columns(content="<think>Two</think>2"), "reasoning differs from the thinking in the text"),
        (columns(reasoning=["One", "Two"]), "reasonings and conclusions differ in number"),
        (columns(reasoning="<summary>One"), "holds the protocol's own tags"),
    ],
)
def test_reasons_of_a_row(row, reason):
    with pytest.raises(Unreadable) as error:
        read_row(row)
    assert str(error.value) == reason


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"answer": "gold"}, "no column 'gold'; it has question, trace, meta"),
        ({"answer": "meta.gold"}, "no column 'meta.gold'; it has question, trace, meta"),
        ({"gold": "meta"}, "columns has no 'gold'; known: generations"),
        ({"trace": "trace", "reasoning": "meta"}, "several forms"),
    ],
)
def test_a_wrong_column_map_is_the_users_error(named, message):
    with pytest.raises(ValueError, match=message) as error:
        read_row(trace(meta={"a": 1}), named)
    assert not isinstance(error.value, Unreadable)


PIECES = [tag for pair in THINKING for tag in pair] + ["<summary>", "<|begin_of_solution|>", "</s>", "a", "b"]


TEXTS = st.text(st.characters()) | st.lists(st.sampled_from(PIECES)).map("".join)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | TEXTS | st.just(TRACE)


KEYS = sorted({name for names in COLUMNS.values() for name in names.split()})


KEYS += ["correctness_math_verify", "correctness_llama", "is_reasoning_complete", "system", "Question"]


ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt"])


MESSAGES = st.fixed_dictionaries(
    {"role": ROLES | SCALARS, "content": SCALARS | st.lists(SCALARS | st.fixed_dictionaries({"text": SCALARS}))},
    optional={"from": ROLES, "value": SCALARS, "thinking": SCALARS, "ground_truth": SCALARS},
)


VALUES = SCALARS | MESSAGES | st.lists(SCALARS | MESSAGES | st.lists(SCALARS)) | st.dictionaries(TEXTS, SCALARS)


CHANGES = st.dictionaries(st.sampled_from(KEYS) | TEXTS | st.integers(), VALUES, max_size=4)


@settings(deadline=None)
@given(TEXTS)
def test_any_text_is_split_or_unreadable(text):
    try:
        reasoning, conclusion = split_thinking(text)
    except Unreadable:
        return
    assert reasoning.strip() and conclusion.strip() and reasoning in text
    assert split_thinking(f"<think>\n{reasoning}\n</think>{conclusion}") == (reasoning, conclusion)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([{}, *FORMATS.values()]), CHANGES)
def test_any_row_is_read_or_unreadable(row, changes):
    try:
        source = read_row(row | changes)
    except Unreadable as error:
        assert str(error).encode()
        return
    assert source.generations and source.question and recognize(row | changes)


@settings(deadline=None)
@given(st.text(), st.text())
def test_what_is_written_is_read_again(reasoning, conclusion):
    assume(not any(tag in reasoning + conclusion for tag in [*PIECES[:-2], *SPECIAL_TOKENS, *END_TOKENS]))
    reasoning, conclusion = reasoning + "r", "c" + conclusion
    assert split_thinking(f"<think>\n{reasoning}\n</think>{conclusion}") == (reasoning.strip("\n"), conclusion.rstrip())
