"""A round read as it is written says what `RoundProtocol.parse` says of the whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.serving.reader import RoundReader, Stops, TextStream
from rollout.protocol import get_protocol
from rollout.types import Segment

PIECES = st.sampled_from(
    ["<think>", "</think>", "<summary>", "</summary>", "<|im_end|>", "</s>", "\n", " ", "a", "<", "|>", "</", "thi",
     "nk>", "<sum", "mary>", "é€🙂", "\ufffd", "7 = 7", "<|", "<eos>", "</think>42", "<think>x</think>"]
)  # fmt: skip
PROTOCOLS = [get_protocol("inftythink"), get_protocol("vanilla"), get_protocol("delethink", carry_tokens=10)]


class Bytes:
    """A tokenizer whose tokens are bytes: characters come in parts, tags in many."""

    eos_token_id = 256

    def decode(self, ids, **_):
        return bytes(ids).decode("utf-8", "replace")


def segment(protocol, text, finish="stop"):
    return Segment([], [], None, text, finish, protocol.parse(text))


def read(protocol, text, cuts, prompt="", finish="stop", stop=()):
    reader = RoundReader(protocol, Bytes(), list(prompt.encode()), stop)
    data = text.encode()
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    pieces = []
    for start, end in pairwise(edges):
        pieces += reader.read(list(data[start:end]))
    pieces += reader.end_round(segment(protocol, text, finish), over=True)
    assert all(piece for _, piece in pieces)
    return {kind: "".join(p for k, p in pieces if k == kind) for kind in ("think", "summary", "answer")}


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECES, max_size=9), st.lists(st.integers(0, 99), max_size=12), st.sampled_from(PROTOCOLS))
def test_pieces_are_what_parse_gives(pieces, cuts, protocol):
    text = "".join(pieces)
    for prompt in ("", "<think>\n"):
        told = read(protocol, text, cuts, prompt)
        turn = protocol.parse(text)
        if turn.kind == "summary":
            assert (told["think"], told["summary"], told["answer"]) == (turn.think, turn.summary, "")
        elif turn.kind == "conclusion":
            unopened = protocol.name != "inftythink" and not prompt and not text.lstrip().startswith("<think>")
            if not (unopened and "</think>" in text):  # told as an answer before it could be known
                assert told["answer"] == turn.conclusion
                assert turn.think is None or told["think"] == turn.think


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<think>a</think><summary>b</summary>c", ("a", "b", "c")),  # text after a summary
        ("<think>a</think><summary>b", ("a", "b", "")),  # a summary that is not closed
        ("<think>a</think>c<summary>b</summary>", ("a", "", "c<summary>b</summary>")),
        ("<think>a</th", ("a</th", "", "")),  # it stopped by itself: no tag is coming
        ("<think>\na\n</think>\n<|im_end|>", ("a", "", "")),
    ],
)
def test_what_is_told_of_a_malformed_round(text, told):
    assert tuple(read(PROTOCOLS[0], text, range(99)).values()) == told


def test_a_round_cut_at_its_limit_shows_no_half_tag_and_no_half_character():
    assert read(PROTOCOLS[0], "<think>a b</thi", range(99), finish="length")["think"] == "a b"
    reader = RoundReader(PROTOCOLS[1], Bytes(), [])
    assert list(reader.read(list("a€".encode())[:-1])) == [("answer", "a")]
    assert list(reader.end_round(segment(PROTOCOLS[1], "a\ufffd", "length"), over=True)) == []


def test_the_answer_is_cut_before_the_first_stop_text_and_the_thinking_is_not():
    text = "<think>one STOP two</think>three ST four STOP five END"
    for cuts in ([], range(99)):
        told = read(PROTOCOLS[0], text, cuts, stop=["END", "STOP"])
        assert (told["think"], told["answer"]) == ("one STOP two", "three ST four ")
    assert read(PROTOCOLS[0], "<think>a</think>b STO", range(99), stop=["STOP"])["answer"] == "b STO"
    stops = Stops(["ab", "abcd"])
    assert stops.push("xa") == "x" and stops.push("b") == "" and stops.hit


def test_chunks_of_delethink_are_one_text():
    protocol, chunks = PROTOCOLS[2], ["<think>\na €"[:9], "</think>4", "2"]
    data = ["<think>\na €".encode()[:-1], "€".encode()[-1:] + b" b</thi", b"nk>4", b"2"]
    reader, told = RoundReader(protocol, Bytes(), []), []
    for number, part in enumerate(data):
        told += reader.read(list(part))
        last = number == len(data) - 1
        told += reader.end_round(segment(protocol, chunks[-1] if last else "-", "stop" if last else "length"), last)
    assert "".join(t for k, t in told if k == "think") == "a € b"
    assert "".join(t for k, t in told if k == "answer") == "42"


@given(st.text(max_size=20), st.lists(st.integers(0, 99), max_size=9))
def test_text_comes_whole_however_it_is_cut(text, cuts):
    data, stream = text.encode(errors="replace"), TextStream(Bytes())
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    told = "".join(stream.push(list(data[a:b])) for a, b in pairwise(edges)) + stream.rest()
    assert told == data.decode()


@pytest.mark.parametrize("piece", ["</s>", "<|x|>", "\n ", "\ufffd", "<", "<|x", "</th", "<|x|> </s>\n"])
@pytest.mark.parametrize("end", ["", "c", "</think>d"])
def test_a_long_text_of_what_may_be_the_end_is_read_to_the_letter(piece, end):
    for opening in ("<think>\na", "<think>a</think>b"):
        text = opening + piece * 100 + end
        told = read(PROTOCOLS[0], text, range(len(text.encode())))
        turn = PROTOCOLS[0].parse(text)
        if turn.kind == "conclusion":
            assert (told["think"], told["answer"]) == (turn.think, turn.conclusion)


def test_a_text_of_end_tokens_is_read_once():
    """It was read again for each token, and again for each end token in it: three thousand took an hour."""
    text = "<think>\n" + "<|x|>" * 3000 + "c</think>d"
    assert read(PROTOCOLS[0], text, range(len(text)))["answer"] == "d"
