"""Partition, reconstruction, and the one prompt that SFT, rollout and evaluation share."""

from __future__ import annotations

import pytest

from rollout.episodes import run_episodes
from rollout.protocol import get_protocol
from rollout.types import Sampling, Task
from sft.reconstruct import Round, reconstruct_rounds
from sft.segment import split_reasoning
from sft.tokens import read_rounds, tokenize_rounds
from tests.conftest import ScriptedEngine
from tests.test_data_stage import make_data

INFTY = get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=4)


def words(text):
    return len(text.split())


TEXTS = [
    "",
    "one",
    "a b c d e f g h i j",
    "first paragraph here\n\nsecond one is a bit longer\n\n\nthird",
    "line one\nline two is here\nline three",
    "A sentence. Another one! A third? And the end of it",
    "   \n\n  \n",
    "ünï 漢字。漢字。 😀 \r\n tail ",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("limit", [1, 3, 5, 100])
@pytest.mark.parametrize("count", [words, len], ids=["words", "characters"])
def test_pieces_join_back_and_fit(text, limit, count):
    pieces = split_reasoning(text, count, limit)
    assert "".join(pieces) == text
    assert all(piece and count(piece) <= limit for piece in pieces)


def test_best_boundary_that_fits():
    text = "alpha beta\n\ngamma delta. epsilon zeta eta theta"
    assert split_reasoning(text, words, 4) == ["alpha beta\n\n", "gamma delta. ", "epsilon zeta eta theta"]
    assert split_reasoning("a b\nc d\ne f", words, 4) == ["a b\nc d\n", "e f"]
    assert split_reasoning("x" * 10, len, 4) == ["xxxx", "xxxx", "xx"]


def test_a_character_over_the_limit_is_an_error():
    with pytest.raises(ValueError, match="alone takes more than 1 tokens"):
        split_reasoning("é", lambda text: len(text.encode()), 1)


def test_rows_are_the_methods_table():
    assert reconstruct_rounds("q", ["r1", "r2", "r3"], ["s1", "s2"], "c") == [
        Round("q", None, "<think>\nr1\n</think><summary>s1</summary>"),
        Round("q", "s1", "<think>\nr2\n</think><summary>s2</summary>"),
        Round("q", "s2", "<think>\nr3\n</think>c"),
    ]
    assert reconstruct_rounds("q", ["r"], [], "c") == [Round("q", None, "<think>\nr\n</think>c")]
    with pytest.raises(ValueError, match="2 segments need 1 summaries, got 2"):
        reconstruct_rounds("q", ["a", "b"], ["s", "t"], "c")


def test_sft_rollout_and_evaluation_prompts_are_the_same_ids(tokenizer, tmp_path):
    """The most valuable test of the house: one question, one summary, one list of ids."""
    from examples.chains.task import summarize, traces

    make_data(traces(5, seed=3, steps=[7, 9]), tmp_path, INFTY, tokenizer, summarize)
    rounds = list(read_rounds(tmp_path, INFTY))
    assert len(rounds) > 10
    dataset, _ = tokenize_rounds(rounds, INFTY, tokenizer)
    scripts: dict[str, list[str]] = {}
    for item in rounds:
        scripts.setdefault(item.question, []).append(item.completion)
    engine = ScriptedEngine(tokenizer, scripts)
    protocol = INFTY.replace(max_rounds=9)
    episodes = run_episodes([Task(q) for q in scripts], engine, protocol, tokenizer, Sampling())
    segments = [segment for episode in episodes for segment in episode.segments]
    assert len(segments) == len(dataset)
    for row, segment in zip(dataset, segments, strict=True):
        prompt = len(segment.prompt_ids)
        assert row["input_ids"] == segment.prompt_ids + segment.completion_ids
        assert row["labels"] == [-100] * prompt + segment.completion_ids
