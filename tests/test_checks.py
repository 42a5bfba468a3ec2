"""What is wrong with a summary: language, copies, answers that it gives away; on any text, in little time."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.checks import is_answer, problem_of, stated_answers
from sft.data.settings import CHECKS

ENGLISH = (
    "Okay, so I need to find the number of paths on this grid. First, let me think about what a change of direction "
    "means here, and then count how many ways there are to split the eight steps into three parts.\n\n"
)
OTHERS = {
    "zh": "首先把路径看成由向右和向上的步子组成的序列。已知需要恰好四次转向,因此序列分成五段。"
    "接下来要计算把八步分成三段的方法数。",
    "fr": "On a montré que le chemin se compose de cinq parties, et il reste à compter de combien de façons les huit "
    "pas peuvent être répartis entre les trois parties horizontales.",
    "de": "Bisher ist gezeigt, dass der Weg aus fünf Stücken besteht; als Nächstes muss gezählt werden, auf wie viele "
    "Arten sich die acht Schritte auf die drei waagerechten Stücke verteilen lassen.",
}


def problem(summary, segment, check):
    return problem_of(summary, 10, 100, segment, 1000, [check])


@pytest.mark.parametrize("code", OTHERS)
def test_another_language_than_the_segments_is_found(code):
    other = OTHERS[code]
    assert problem(other, ENGLISH, "language") == "in another language"
    assert problem(ENGLISH, other * 2, "language") == "in another language"
    assert problem(other, other * 2, "language") == ""
    assert problem(f"{other} The sum is then 12, and we go on.", other * 3, "language") == ""


@pytest.mark.parametrize(
    "summary",
    [
        "x = 3, y = 4.",
        "Il reste y.",
        "\\[ \\sum_{k=1}^{n} \\binom{n}{k} x^k = (1+x)^n - 1, \\quad \\frac{a}{b} = \\sqrt{2} \\cdot \\pi \\]" * 4,
        "$\\mathrm{lorem}\\ \\text{ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt "
        "ut labore et dolore magna aliqua}$ so far",
        "3.14159 2.71828 1,000,000 " * 20,
        "`def paths(grid, turns): return sum(choose(grid, part) for part in partitions(grid, turns) if part.valid())`",
        "for i in range(n):\n    total += choose(n, i) * paths(grid, turns - i)\n    if total > limit:\n        break\n"
        * 2,
        "Five parts: R, U, R, U, R. The parts of the rights: a + b + c = 8, each at least one; C(7, 2) = 21. Next: up.",
    ],
)
def test_formulas_numbers_code_and_little_text_are_in_no_other_language(summary):
    assert problem(summary, ENGLISH * 5, "language") == ""


def test_paragraphs_of_real_traces_are_in_their_own_language(shared_data):
    """13,800 stand-ins for summaries, each against the 6,000 characters that it stands in."""
    said = []
    for line in (shared_data / "traces.jsonl").read_text().splitlines():
        text = json.loads(line)["trace"]
        for start in range(0, len(text), 6000):
            segment = text[start : start + 6000]
            parts = (part.strip() for part in segment.split("\n\n"))
            said += [problem(part, segment, "language") for part in parts if part]
    assert len(said) > 10_000 and set(said) == {""}


def test_a_copied_block_is_a_copy_and_a_state_is_none():
    block = ENGLISH * 2 + "Then there are twenty-one ways to split the rights and as many for the ups."
    sentences = block.split(". ")
    assert problem(sentences[-1], block, "copy") == "copied from its segment"  # 16 words in a row
    assert problem(block, block, "copy") == "copied from its segment"
    assert problem(block.upper(), block, "copy") == ""  # word for word
    assert problem("There are 21 ways. Next: the ups.", block, "copy") == ""
    assert problem("x = 3.", "x = 3.", "copy") == "copied from its segment"
    assert problem("x = 3.", "Let me see. x = 3.", "copy") == ""  # short: only the whole segment is a copy
    mixed = "Known: a path has five parts. The parts of one kind add to 8. Next: " + " ".join(block.split()[:10])
    assert problem(mixed, block, "copy") == ""


def test_the_first_problem_is_named_and_only_what_is_asked_for():
    assert problem_of("", 0, 10, "a", 10, []) == "empty"
    assert problem_of("a <history> b", 3, 10, "a", 10, []) == "holds the protocol's own tags"
    assert problem_of("a b", 11, 10, "a", 5, CHECKS) == "over its limit"
    assert problem_of("a b", 5, 10, "a", 5, CHECKS) == "not shorter than its segment"
    assert problem_of("a b", 10, 10, "a", 5, []) == ""


LEAKS = [
    ("the answer is 12", "12"),
    ("So the answer is 12, because it works.", "12"),
    ("The answer must be an integer. The answer is 12.", "12"),
    ("The answer is 12; what is left is to check it.", "12"),
    ("**Answer:** $\\frac{1}{2}$", "1/2"),
    ("**Answer**: 12", "12"),
    ("**Final Answer**\n\n12", "12"),
    ("The final answer is:\n\\[\n\\frac{1}{2}\n\\]", "0.5"),
    ("The final answer is \\(x = 12\\), as found.", "12"),
    ("The answer is $x=12$ and all is done", "12"),
    ("Thus \\boxed{\\dfrac{1}{2}}.", "\\frac{1}{2}"),
    ("the answer is \\$12.50.", "12.5"),
    ("The answer is $12. She pays it.", "12"),
    ("The answer is 1,234", "1234"),
    ("Answer = 12%", "12"),
    ("the answer is 12 dollars", "12"),
    ("The answer is (C).", "C"),
]
NO_LEAKS = [
    ("x = 12 so far", "12"),
    ("the answer is not 12", "12"),
    ("The answer isn't 12.", "12"),
    ("The answer is at most 12", "12"),
    ("The answer is less than 12.", "12"),
    ("The answer is unknown; so far x = 12.", "12"),
    ("The answer is not yet known. x = 12", "12"),
    ("Answer choices: 12, 13, 14", "12"),
    ("It is left to be answered: is 12 a sum?", "12"),
    ("The answer is the sum of 5 and 7", "12"),
    ("The answer is 12 or 13", "12"),
    ("The answer is 13", "12"),
]
NOT_FOUND = [  # they give the answer away, and the check misses them
    ("the answer should be 12", "12"),
    ("the answer to part (a) is 12", "12"),
    ("la réponse est 12", "12"),
    ("so there are 12 ways in all, and we are done", "12"),
]


@pytest.mark.parametrize(("summary", "gold"), LEAKS)
def test_a_stated_answer_is_a_leak(summary, gold):
    assert is_answer(stated_answers(summary), gold)


@pytest.mark.parametrize(("summary", "gold"), NO_LEAKS + NOT_FOUND)
def test_a_value_on_the_way_is_none(summary, gold):
    stated = stated_answers(summary)
    assert not stated or not is_answer(stated, gold)


def test_the_last_eight_statements_count():
    assert stated_answers("\n".join(f"The answer is {n}." for n in range(20))) == [str(n) for n in range(12, 20)]


PIECES = [
    "answer",
    "final ",
    "is",
    ":",
    "\\boxed{",
    "}",
    "$",
    "\\$",
    "\\[",
    "`",
    "*",
    "\n",
    " ",
    ".",
    "12",
    "漢",
    "é",
    "\ud83d",
]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join), st.text(max_size=50))
def test_no_text_makes_the_checks_raise(summary, segment):
    assert isinstance(problem_of(summary, 5, 10, segment, 8, CHECKS), str)
    assert all(text and len(text) <= len(summary) for text in stated_answers(summary))


MANY = [
    "answer:\n",
    "answer is $",
    "**Answer:** ",
    "final answer ",
    "\\boxed{a}",
    "\\a",
    "1 ",
    ". ",
    ", so ",
    "answer" + 60 * "\n",
]


@pytest.mark.parametrize("piece", PIECES + MANY)
def test_100_000_characters_of_one_kind_take_little_time(piece):
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    for form in (text, f"answer{text}", f"final{text}", f"\\boxed{text}"):
        stated_answers(form)
        problem_of(form, 5, 10, form + " end", 8, CHECKS)
    assert time.process_time() - started < 5 * 4
