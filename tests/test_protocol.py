"""The text format of rounds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.errors import InputError
from rollout.protocol import FAULTS, RoundProtocol, get_protocol
from rollout.types import Turn

TAGS = ["<think>", "</think>", "<summary>", "</summary>"]
INFTY = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=3)


@pytest.mark.parametrize("end", ["", "<|im_end|>", "<|im_end|>\n", "</s>"])
@pytest.mark.parametrize("start", ["<think>\n", "", "\n<think>\n"])
def test_parse_reads_what_render_writes(start, end):
    summary = RoundProtocol.render_completion("a\nb", summary="s: 1").removeprefix("<think>\n")
    turn = INFTY.parse(start + summary + end)
    assert (turn.kind, turn.think.strip("\n"), turn.summary, turn.conclusion) == ("summary", "a\nb", "s: 1", None)
    final = RoundProtocol.render_completion("a", conclusion="\\boxed{7}").removeprefix("<think>\n")
    turn = INFTY.parse(start + final + end)
    assert (turn.kind, turn.think.strip("\n"), turn.conclusion) == ("conclusion", "a", "\\boxed{7}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no tags at all",
        "<think>\nnever closed",
        "<think>\na\n</think>",
        "<think>\na\n</think>  <|im_end|>",
        "<think>a</think><summary></summary>",
        "<think>a</think><summary>  </summary>",
        "<think>a</think><summary>open",
        "<think>a</think>close</summary>",
        "<think>a</think><summary>a</summary><summary>b</summary>",
        "<think>a</think><summary>a</summary> and more",
        "<think>a</think>before <summary>a</summary>",
        "<think>a</think><summary><summary>a</summary>",
    ],
)
def test_malformed(text):
    assert INFTY.parse(text).kind == "malformed"


def test_tags_inside_the_thinking_are_thinking():
    assert INFTY.parse("<think>a <summary>x</summary> b</think>done").kind == "conclusion"


def test_vanilla_takes_output_without_thinking():
    vanilla = get_protocol("vanilla")
    assert vanilla.parse("42").conclusion == "42"
    assert vanilla.parse("<think>a</think>42").conclusion == "42"
    assert vanilla.parse("<think>a").kind == "malformed"
    assert vanilla.max_rounds == 1


def test_history_follows_the_generation_prompt(tokenizer):
    first = INFTY.render_prompt(tokenizer, "a=1 b+2 ?")
    later = INFTY.render_prompt(tokenizer, "a=1 b+2 ?", "b=3")
    assert later[: len(first)] == first
    assert tokenizer.decode(later[len(first) :]) == "<history>\nb=3\n</history>"
    assert first == INFTY.render_prompt(tokenizer, [{"role": "user", "content": "a=1 b+2 ?"}])


def test_template_that_opens_the_thinking(tokenizer):
    template = tokenizer.chat_template
    try:
        plain = INFTY.render_prompt(tokenizer, "q", "s")
        tokenizer.chat_template = template.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
        assert INFTY.render_prompt(tokenizer, "q", "s") == plain
    finally:
        tokenizer.chat_template = template


def test_saved_with_a_checkpoint(tmp_path):
    INFTY.save(tmp_path)
    assert RoundProtocol.load(tmp_path) == INFTY
    with pytest.raises(InputError, match=r"protocol.json is missing"):
        RoundProtocol.load(tmp_path / "nowhere")
    assert RoundProtocol.load(tmp_path / "protocol.json") == INFTY
    for text in ('{"name"', "[]", "{}", '{"name": "vanilla", "new": 1}'):
        (tmp_path / "protocol.json").write_text(text)
        with pytest.raises(InputError, match=r"protocol.json is not a valid protocol: "):
            RoundProtocol.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("infty", {}, "known protocols: inftythink"),
        ("inftythink", {"max_rounds": 0}, "max_rounds"),
        ("inftythink", {"rounds": 3}, "no setting 'rounds'"),
        ("delethink", {"segment_tokens": 10, "carry_tokens": 10}, "no progress"),
    ],
)
def test_bad_settings(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_protocol(name, **settings)


def test_parse_takes_time_in_proportion_to_the_text():
    started = time.perf_counter()
    for run in (
        " " * 200_000,
        "\n" * 200_000,
        "<|" * 100_000,
        "</s> " * 40_000,
        "<summary>" * 20_000,
        "</summary> " * 20_000,
    ):
        INFTY.parse(f"<think>\nx\n</think>{run}x")
        INFTY.parse(f"<think>\nx{run}")
    assert time.perf_counter() - started < 60  # quadratic: minutes


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        ("  <|im_end|>", "empty"),
        ("<think>\nx", "open_thinking"),
        ("<think>\nx\n</think>\n", "no_answer"),
        ("<think>\nx\n</think><summary> </summary>", "empty_summary"),
        ("<think>\nx\n</think><summary>a", "open_summary"),
        ("<think>\nx\n</think>a</summary>", "open_summary"),
        ("<think>\nx\n</think><summary>a</summary><summary>b</summary>", "several_summaries"),
        ("<think>\nx\n</think>so <summary>a</summary>", "text_around_summary"),
        ("<think>\nx\n</think><summary>a</summary> \\boxed{1}", "text_around_summary"),
    ],
)
def test_a_malformed_round_says_what_is_wrong(text, fault):
    turn = INFTY.parse(text)
    assert (turn.kind, turn.fault) == ("malformed", fault)
    assert fault in FAULTS
    assert turn == Turn("malformed", think=turn.think)  # the reason is beside the meaning


@given(st.text(alphabet="ab<>/ \n", max_size=30), st.lists(st.sampled_from(TAGS), max_size=5))
def test_every_malformed_round_has_a_fault(text, tags):
    turn = INFTY.parse(text.join(tags))
    assert (turn.kind == "malformed") == (turn.fault in FAULTS)
