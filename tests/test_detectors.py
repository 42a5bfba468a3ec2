"""Measures of cheats: what they catch, what they leave alone, and that no text makes them fail or crawl."""

from __future__ import annotations

import time
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.detectors import DETECTORS, MEASURES, guard_metrics
from rewards.score import Reward, score_episodes
from rollout.protocol import RoundProtocol, get_protocol
from rollout.types import Episode, Segment, StopReason, Turn

PROTOCOL = get_protocol("inftythink")
THOUGHT = "First I add three and four, which gives seven. Then I take away two and get five."


def episode(*texts, gold="137", protocol=PROTOCOL, stop=StopReason.ANSWERED):
    segments = [Segment([1], [2, 3], None, text, "stop", protocol.parse(text)) for text in texts]
    return Episode("q", gold, 0, segments, stop)


def summed(summary, think=THOUGHT):
    return RoundProtocol.render_completion(think, summary=summary)


def concluded(conclusion="\\boxed{137}", think=THOUGHT):
    return RoundProtocol.render_completion(think, conclusion=conclusion)


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("empty_thinking", [concluded()], 0.0),
        ("empty_thinking", [concluded(think="")], 1.0),
        ("empty_thinking", [concluded(think=" \n\n ")], 1.0),
        ("empty_thinking", [concluded(think="Okay.")], 1.0),
        ("empty_thinking", [summed("five", think=""), concluded()], 0.5),
        ("empty_thinking", [concluded(think="a:+4=7\nb:*2=4\nc:-1=3\nd:+1=4")], 0.0),
        ("empty_thinking", [concluded(think="先把三和四相加")], 0.0),
        ("empty_thinking", ["<think>cut off at the token limit"], 0.0),
        ("copied_summary", [summed(THOUGHT), concluded()], 1.0),
        ("copied_summary", [summed("The sum, less two, is what we go on with."), concluded()], 0.0),
        ("copied_summary", [summed("and get five."), concluded()], 1.0),  # a phrase: an overlap all the same
        ("copied_summary", [summed("which gives seven. Then so on"), concluded()], 1 / 3),
        ("copied_summary", [summed("five", think=""), concluded()], 0.0),
        ("copied_summary", [summed(THOUGHT), summed("nothing of that at all"), concluded()], 0.5),
        ("copied_summary", [concluded()], None),
        ("repeated_summary", [summed("we have seven so far"), summed("we have seven so far"), concluded()], 1.0),
        ("repeated_summary", [summed("we have seven so far"), summed("five is left after that")], 0.0),
        ("repeated_summary", [summed("a b c d"), summed("a b c d e"), summed("a b c d e")], 0.75),
        ("repeated_summary", [summed("only one of them"), concluded()], None),
        ("answer_in_summary", [summed("\\boxed{5}"), concluded()], 1.0),
        ("answer_in_summary", [summed("So the Answer\nis five."), concluded()], 1.0),
        ("answer_in_summary", [summed("Final answer: five"), concluded()], 1.0),
        ("answer_in_summary", [summed("we get x=137."), concluded()], 1.0),
        ("answer_in_summary", [summed("1370, 0.137, 137.5, 2,137, n137"), concluded()], 0.0),
        ("answer_in_summary", [summed("we have 12 and go on"), summed("$137$ it is"), concluded()], 0.5),
        ("answer_in_summary", [concluded()], None),
        ("several_boxes", [concluded("\\boxed{137} or \\boxed{138}")], 1.0),
        ("several_boxes", [concluded("\\boxed{137}, so \\boxed{ 137 }")], 0.0),
        ("several_boxes", [concluded(think="\\boxed{1} or \\boxed{2}")], 0.0),
        ("several_boxes", [concluded("I don't know")], 0.0),
        ("several_boxes", [summed("\\boxed{1} \\boxed{2}")], None),
        ("repeated_thinking", [concluded(think="wait, let me check that once more please. " * 40)], 1 - 8 / 313),
        ("repeated_thinking", [concluded()], 0.0),
        ("repeated_thinking", [summed("s"), concluded()], 0.5),  # the second round thinks what the first one thought
        ("repeated_thinking", [concluded(think="too short")], None),
    ],
)
def test_cheats_and_honest_episodes(name, texts, expected):
    found = MEASURES[name](episode(*texts))
    assert found == (None if expected is None else pytest.approx(expected))
    assert DETECTORS[name](episodes=[episode(*texts)], prompts=["q"]) == [pytest.approx(expected or 0.0)]


@pytest.mark.parametrize(
    ("gold", "share"), [(None, 0.0), ("7", 0.0), (42, 1.0), ("$\\frac{1}{2}$", 1.0), ("(3, 4)", 1.0)]
)
def test_gold_answers_of_any_kind(gold, share):
    summary = "we have 7 now, then 42 and \\frac{1}{2} at (3, 4)"
    assert DETECTORS["answer_in_summary"]([episode(summed(summary), gold=gold)]) == [share]


def test_thinking_without_tags_is_not_empty_thinking():
    assert guard_metrics([episode("It is \\boxed{3}", protocol=get_protocol("vanilla"))]) == {
        "guard/several_boxes/mean": 0.0,
        "guard/several_boxes/share": 0.0,
    }


def test_settings():
    text = [episode(summed("which gives seven. Then so on"))]
    copied = DETECTORS["copied_summary"]
    assert copied(text, n=6) == [0.0]
    assert copied(text, threshold=0.3) == [pytest.approx(1 / 3)]
    assert copied(text, threshold=0.4) == [0.0]
    assert DETECTORS["empty_thinking"](text, min_words=100) == [1.0]


@pytest.mark.parametrize("episodes", [[], [episode(concluded())]])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("copied_summary", {"n": 0}),
        ("repeated_summary", {"n": True}),
        ("repeated_thinking", {"n": 2.5}),
        ("empty_thinking", {"min_words": "3"}),
        ("several_boxes", {"threshold": 1.0}),
        ("answer_in_summary", {"threshold": -0.1}),
        ("repeated_thinking", {"threshold": float("nan")}),
        ("copied_summary", {"threshold": "0.5"}),
    ],
)
def test_bad_settings_are_named(name, given, episodes):
    with pytest.raises(ValueError, match=f"^{next(iter(given))} is "):
        DETECTORS[name](episodes, **given)


def test_as_a_reward_of_negative_weight():
    detector = Reward(partial(DETECTORS["copied_summary"], threshold=0.9), "copied_summary", weight=-0.5)
    scores = score_episodes([episode(summed(THOUGHT)), episode(summed("something else"))], [detector])
    assert scores.total == [-0.5, 0.0] and scores.errors == {}


def test_metrics_of_a_batch():
    metrics = guard_metrics([episode(summed(THOUGHT), concluded(think="")), episode(summed("not so")), episode()])
    assert metrics["guard/copied_summary/mean"] == metrics["guard/copied_summary/share"] == 0.5
    assert metrics["guard/empty_thinking/mean"] == 0.25
    assert metrics["guard/empty_thinking/share"] == 0.0  # half of the rounds is not above 0.5
    assert not any(name.startswith("guard/repeated_summary") for name in metrics)
    assert guard_metrics([]) == {}


PIECES = ["<think>", "</think>", "<summary>", "</summary>", "\\boxed{", "}", "the answer is ", "137", " ", "\n", "a b "]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rounds=st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=20), max_size=30).map("".join), max_size=4),
    gold=st.none() | st.text(max_size=5) | st.integers(),
    protocol=st.sampled_from(["inftythink", "vanilla", "delethink"]).map(get_protocol),
)
def test_any_text_has_a_measure_from_0_to_1(rounds, gold, protocol):
    attempt = episode(*rounds, gold=gold, protocol=protocol)
    for name, measure in MEASURES.items():
        value = measure(attempt)
        assert value is None or 0.0 <= value <= 1.0
        assert DETECTORS[name]([attempt]) == [value or 0.0]


@pytest.mark.parametrize("piece", ["a ", "the ", "\\boxed{", "\\boxed{1}", "final ", "13", " ", "。思", "{}"])
def test_long_rounds_are_measured_at_once(piece):
    text = piece * (400_000 // len(piece))  # about 100,000 tokens
    turns = [Turn("summary", think=text, summary=text + "x"), Turn("conclusion", think=text, conclusion=text)]
    long = Episode("q", piece * 2, 0, [Segment([1], [2], None, "", "stop", turn) for turn in turns], "answered")
    started = time.process_time()
    guard_metrics([long])
    assert time.process_time() - started < 20.0  # takes 2 at most; a scan of the rest at each word would take minutes
