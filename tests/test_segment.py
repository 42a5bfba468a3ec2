"""Partition: exact joins, no piece over eta, whole groups, a floor, balance; and the counts that it rests on."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sft.counting import TokenCounter
from sft.data.partition import Partitioner
from sft.data.thinking import split_thinking
from sft.segment import cut_reasoning, split_reasoning
from tests.bpe_model import build_tokenizer

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = (
    "Okay, so I need to find the number of paths.\n\nFirst, the grid has 64 squares: 8 * 8 = 64. It's 3.14 "
    "or 1,000.\n\n\\[ \\frac{a}{b} = \\sqrt{2} \\]\n\n```python\nfor i in range(10):\n    print(i)\n\n```\nDon't stop; "
    "we're not done — naïve café, α + β ≤ γ², 漢字かな。 한국어 ✅\n\n"
)
END = "<|im_end|>"


def words(text):
    return len(text.split())


def trained(pre_tokenizer, normalizer=None, model=None, trainer=None):
    tokenizer = Tokenizer(model or models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    options = {"vocab_size": 600, "special_tokens": ["<think>", END], "show_progress": False}
    if trainer is None:
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    return tokenizer


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


KINDS = {
    "gpt2": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "qwen": lambda: trained(
        pre_tokenizers.Sequence([split(QWEN), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        normalizers.NFC(),
    ),
    "digits": lambda: trained(
        pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "prefix space": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "unigram": lambda: trained(
        pre_tokenizers.Metaspace(),
        model=models.Unigram(),
        trainer=trainers.UnigramTrainer(
            vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        ),
    ),
}
COUNTERS = {name: TokenCounter(make()) for name, make in KINDS.items()}

pieces_of_text = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            ["\n\n", "\n", " ", "  ", "\t", ". ", "$x+1$", "\\frac{1}{2}", "```\na\n\nb\n```", "1 000 000", "3.14",
             "Wait, ", "<think>", "</think>", "<summary>", "don't", "漢字。", "é", "e\u0301", "\u00a0", "\r\n", "😀",
             "👩\u200d🔬", "aaaa"]
        ),
    ),
    max_size=40,
).map("".join)  # fmt: skip
anything = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=200),
    pieces_of_text,
    st.integers(1, 3000).map(lambda n: " " * n),
    st.integers(1, 300).map(lambda n: "\n" * n),
    st.integers(1, 3000).map(lambda n: "x" * n),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=pieces_of_text, bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_piece_is_measured_alone(kind, text, bounds):
    start, end = sorted(round(share * len(text)) for share in bounds)
    counter = COUNTERS[kind]
    encoded = len(counter.tokenizer.encode(text[start:end], add_special_tokens=False))
    ruler = counter.ruler(text)
    assert ruler.tokens(start, end) == counter(text[start:end]) == encoded
    assert ruler.tokens(0, len(text)) == counter(text)


@pytest.mark.parametrize("packing", ["greedy", "balanced"])
@pytest.mark.parametrize("kind", [*KINDS, "words", "characters"])
@settings(max_examples=60, deadline=None)
@given(text=anything, limit=st.integers(8, 60), share=st.sampled_from([0, 16, 4, 2]))
def test_pieces_join_back_and_fit(kind, packing, text, limit, share):
    count = {"words": words, "characters": len}.get(kind) or COUNTERS[kind]
    floor = limit // share if share else 0
    # At least 8: a character is up to 4 bytes, and the qwen kind takes a precomposed one apart (NFC).
    pieces = split_reasoning(text, count, limit, floor=floor, packing=packing)
    assert "".join(pieces) == text
    assert all(pieces) and all(count(piece) <= limit for piece in pieces)
    for first, second in pairwise(pieces):
        if min(count(first), count(second)) < floor:
            assert count(first + second) > limit, "a short piece stands beside one with room"


def test_a_line_of_50000_characters():
    text = "".join(f"{n} and {n * n}; " for n in range(5000))[:50000]
    for line in (text, text.replace(" ", "")):
        pieces = split_reasoning(line, COUNTERS["qwen"], 256, floor=16)
        assert "".join(pieces) == line
        assert max(map(COUNTERS["qwen"], pieces)) <= 256
        assert min(map(COUNTERS["qwen"], pieces)) >= 16
        assert not any(re.search(r"\d\Z", a) and re.match(r"\d", b) for a, b in pairwise(pieces))


GROUPS = [
    "```python\nfor x in y:\n\n    print(x)\n\n\nprint(y)\n```",
    "\\[\nx = 1\n\ny = 2\n\\]",
    "$$\na\n\nb\n$$",
    "\\begin{align}\na &= b \\\\\n\nc &= d\n\\end{align}",
    "$a + b + c + d + e$",
    "\\( a + b + c + d \\)",
    "\\boxed{a b c {d e} f}",
    "`a b c d e f`",
    "1 000 000",
]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("before", range(1, 13))
def test_groups_stay_whole(group, before):
    """Wherever the limit falls, it is not inside a group that fits a piece."""
    text = "one " * before + group + " two" * 12
    pieces = split_reasoning(text, len, len(group) + 8)
    assert "".join(pieces) == text
    assert any(group in piece for piece in pieces), pieces


def test_a_group_that_does_not_fit_is_cut_at_its_best_place():
    code = "```\n" + "\n".join(f"line {n}" for n in range(40)) + "\n```"
    pieces = split_reasoning("Short. " + code, words, 20, floor=3)
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert words(pieces[0]) > 10, "no short piece before a group that has to be broken anyhow"


def test_an_unclosed_group_is_none():
    text = "a $5 and b ```code\n\n" + "word " * 50
    assert split_reasoning(text, words, 10)[0] == "a $5 and b ```code\n\n"


def test_balanced_has_as_many_pieces_of_like_length():
    text = "word " * 105
    assert [words(p) for p in split_reasoning(text, words, 50)] == [50, 50, 5]
    assert [words(p) for p in split_reasoning(text, words, 50, packing="balanced")] == [35, 35, 35]
    assert [words(p) for p in split_reasoning(text, words, 50, floor=20)] == [50, 35, 20]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"segment_tokens": 0}, "segment_tokens is 0"), ({"floor": 6}, "floor is 6"), ({"packing": "best"}, "packing")],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_reasoning("a b", words, **({"segment_tokens": 10} | arguments))


def test_a_character_that_is_too_long():
    assert Partitioner(COUNTERS["gpt2"], None, "greedy", 1).cut(["ok 😀"], [2]) == [
        "a character is longer than a segment"
    ]


@pytest.mark.parametrize("packing", ["greedy", "balanced"])
@pytest.mark.parametrize("eta", [128, 512, 1024, 2048])
def test_real_traces_with_a_real_tokenizer(shared_data, real_tokenizer, eta, packing):
    counter = TokenCounter(real_tokenizer)
    for row in read(shared_data):
        reasoning, conclusion = split_thinking(row["trace"])
        assert f"<think>\n{reasoning}\n</think>{conclusion}" == row["trace"].rstrip()
        cuts = cut_reasoning(reasoning, counter, eta, floor=eta // 16, packing=packing)
        ends = [0, *(end for end, _ in cuts)]
        pieces = [reasoning[a:b] for a, b in pairwise(ends)]
        assert "".join(pieces) == reasoning
        counts = [len(real_tokenizer.encode(piece, add_special_tokens=False)) for piece in pieces]
        assert counts == [tokens for _, tokens in cuts] and max(counts) <= eta
        assert len(pieces) == 1 or min(counts) >= eta // 16
        assert max(len(real_tokenizer.encode(p.strip("\n"), add_special_tokens=False)) for p in pieces) <= eta


def test_processes_cut_as_one_does(shared_data, real_tokenizer):
    texts = [split_thinking(row["trace"])[0] for row in read(shared_data)]
    counter = TokenCounter(real_tokenizer)
    alone, together = (Partitioner(counter, None, "greedy", workers) for workers in (1, 2))
    try:
        texts = texts * 2
        etas = [512 + 8 * n for n in range(len(texts))]
        assert together.cut(texts, etas) == alone.cut(texts, etas)
        assert together._pool is not None
    finally:
        together.close()


def read(shared_data):
    return [json.loads(line) for line in (shared_data / "traces.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def real_tokenizer(shared_data, tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("bpe"), [row["trace"] for row in read(shared_data)], 8000)
