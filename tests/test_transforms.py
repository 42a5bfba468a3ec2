"""Repeated passages, and budgets in questions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sft.data.transforms import _PARAGRAPH, budget_rows, drop_repeats, round_up, with_budget

EIGHT = "One two three four five six seven eight."
OTHER = "This is another passage of more than eight words."


def test_the_first_of_repeated_passages_stays():
    assert drop_repeats(f"{EIGHT}\n\n{OTHER}\n\n{EIGHT}\n\nEnd.") == f"{EIGHT}\n\n{OTHER}\n\nEnd."
    assert drop_repeats(f"{EIGHT}\n\n{EIGHT}\n\n{EIGHT}") == EIGHT
    assert drop_repeats(f"{EIGHT}\n\n{EIGHT.replace(' ', chr(10))}\n \t\n\n  {OTHER}") == f"{EIGHT}\n \t\n\n  {OTHER}"


def test_what_is_short_or_differs_stays():
    for text in (
        "Wait, no.\n\nWait, no.\n\nWait, no.",
        EIGHT.removesuffix(" eight.") + "\n\n" + EIGHT.removesuffix(" eight."),
        f"{EIGHT}\n{EIGHT}",  # one paragraph
        f"{EIGHT}\n\n{EIGHT.lower()}",
        f"\n\n  {EIGHT}\n\n",
        "",
    ):
        assert drop_repeats(text) == text


def paragraphs(text):
    return [" ".join(part.split()) for part in _PARAGRAPH.split(text) if part.strip()]


PASSAGES = st.sampled_from([EIGHT, OTHER, "Wait, no.", EIGHT.replace(" ", "\n"), f"  {EIGHT}", "", " "])
TEXTS = st.lists(st.tuples(PASSAGES, st.sampled_from(["\n\n", "\n \n", "\n\n\n\n  ", "\n", "\r\n\r\n", " "])))


@given(TEXTS)
def test_dropping_repeats_loses_nothing_else(items):
    text = "".join(passage + separator for passage, separator in items)
    result = drop_repeats(text)
    assert drop_repeats(result) == result
    before, after = paragraphs(text), paragraphs(result)
    rest = iter(before)
    assert all(paragraph in rest for paragraph in after)  # a subsequence
    assert set(after) == set(before)
    long = [paragraph for paragraph in after if len(paragraph.split()) >= 8]
    assert len(long) == len(set(long))


@given(st.text("ab \n", max_size=40))
def test_without_long_passages_nothing_changes(text):
    if all(len(paragraph.split()) < 8 for paragraph in paragraphs(text)):
        assert drop_repeats(text) == text


def test_round_up():
    assert [round_up(n, {}) for n in (1, 100, 101)] == [100, 100, 200]
    assert [round_up(n, {"round_to": 64}) for n in (64, 65)] == [64, 128]
    assert round_up(7, {"round_to": None}) == 100


SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": "1 + 1?"}


def test_with_budget():
    assert with_budget("1 + 1?", 300, {}) == "Use at most 300 tokens for this problem.\n\n1 + 1?"
    own = {"prompt": "{budget} tokens, {x}, {budget}: "}
    assert with_budget("1 + 1?", 7, own) == "7 tokens, {x}, 7: 1 + 1?"
    chat = [SYSTEM, ASK, {"role": "assistant", "content": "2"}, {"role": "user", "content": "2 + 2?"}]
    assert with_budget(chat, 7, own) == [SYSTEM, {**ASK, "content": "7 tokens, {x}, 7: 1 + 1?"}, *chat[2:]]
    assert chat[:2] == [SYSTEM, {"role": "user", "content": "1 + 1?"}]


def test_budget_rows_are_drawn_by_seed_and_place():
    rows = [{"question": f"q{n}", "answer": str(n)} for n in range(200)]
    budget = {"choices": [500, 1000, 2000], "prompt": "({budget}) "}
    made = budget_rows(rows, budget, seed=1)
    assert made == budget_rows(iter(rows), budget, seed=1)
    assert budget_rows(rows[:50], budget, seed=1) == made[:50]
    assert budget_rows(rows, budget, seed=2) != made
    assert {row["budget"] for row in made} == {500, 1000, 2000}
    for n, row in enumerate(made):
        assert row == {"question": f"({row['budget']}) q{n}", "answer": str(n), "budget": row["budget"]}
    assert "budget" not in rows[0]


def test_a_rows_own_budget_stays():
    rows = [{"question": "a", "budget": 64}, {"question": [SYSTEM, ASK], "budget": None}]
    made = budget_rows(rows, {"choices": [9], "prompt": "{budget}: "}, seed=0)
    assert made == [
        {"question": "64: a", "budget": 64},
        {"question": [SYSTEM, {**ASK, "content": "9: 1 + 1?"}], "budget": 9},
    ]
