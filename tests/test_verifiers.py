"""Final outputs against gold answers, by each verifier."""

from __future__ import annotations

import time

import pytest

from rewards.load import load_rewards
from rewards.score import Reward, score_episodes
from rewards.verifiers import VERIFIERS
from rollout.protocol import get_protocol
from rollout.types import Episode, Segment, StopReason, Turn


def episode(text="\\boxed{3}", gold="3", stop=StopReason.ANSWERED, **columns):
    segment = Segment([1], [2, 3], None, text, "stop", Turn("conclusion", conclusion=text))
    return Episode("q", gold, 0, [segment], stop, columns)


def box(*answers):
    return " so ".join(f"\\boxed{{{answer}}}" for answer in answers)


CASES = {
    "exact": [
        (" Paris\n", "Paris", 1.0),
        (box("Paris"), " Paris ", 1.0),
        ("paris", "Paris", 0.0),
        ("I think it is Paris", "Paris", 0.0),
        (box("Paris", "Paris"), "Paris", 1.0),
        (box("Paris", "Rome"), "Paris", 0.0),
        ("Paris</think>Rome", "Paris", 0.0),
        ("<think>Rome</think>Paris", "Paris", 1.0),
        (box(""), "Paris", 0.0),
        ("3", 3, 1.0),
        ("", "", None),
        ("x", None, None),
    ],
    "normalized": [
        ("The  Eiffel-Tower!", "eiffeltower", 1.0),
        (box("an apple"), "Apple.", 1.0),
        ("STRASSE", "straße", 1.0),
        (box("apple", "An Apple"), "apple", 1.0),
        ("theatre", "atre", 0.0),
        ("", "apple", 0.0),
        ("the", "The", None),
    ],
    "choice": [
        *((text, "B", 1.0) for text in ("B", "(B)", "B.", "b", "**B**", "B) the second", "(B) the second", "B: two")),
        *((box(text), "(B)", 1.0) for text in ("B", "\\text{B}", "\\text{(B)}", "\\mathbf{B}", "B. two", "b")),
        ("A is too small. The answer is (B).", "B", 1.0),
        ("**Answer:** B", "B", 1.0),
        ("The correct option is \\text{B} because A is odd.", "B", 1.0),
        ("So it must be (B).", "B", 1.0),
        ("The answer is B, since 3 > 2", "B) second", 1.0),
        ("The answer is A", "B", 0.0),
        ("The answer is B or C", "B", 0.0),
        ("The answer is A. No, the answer is B", "B", 0.0),
        ("(A) or (B)", "B", 0.0),
        ("A) one\nB) two", "B", 0.0),
        (box("A", "B"), "B", 0.0),
        ("Because", "B", 0.0),
        ("The answer is not A", "A", 0.0),
        ("", "B", 0.0),
        ("B", "second", None),
        ("K", "K", None),
    ],
    "numeric": [
        *((text, "1234", 1.0) for text in ("1234", "1,234", "1{,}234", "1.234e3", "$1234.0$", "+1234.", "2468/2")),
        *((box(text), "-0.5", 1.0) for text in ("-1/2", "-\\frac{1}{2}", "\\dfrac{-1}{2}", "−.5", "-50\\%", "-5E-1")),
        ("50%", "50", 1.0),
        ("50", "50%", 1.0),
        ("0.5", "50%", 1.0),
        ("0.5%", "50%", 0.0),
        ("0.3333333", "1/3", 1.0),
        ("0.333", "1/3", 0.0),
        (box("3", "3.0"), "3", 1.0),
        (box("3", "4"), "3", 0.0),
        *(
            (text, "1", 0.0)
            for text in ("one", "", "/", ".", "1/0", "nan", "inf", "1e999", "1 1/2", "1,2", "1_0", "x=1")
        ),
        ("1\\frac{1}{2}", "5.5", 0.0),
        ("9" * 500, "1", 0.0),
        ("3", 3, 1.0),
        *(("1", gold, None) for gold in ("one", "", None, True, float("nan"), "1/0")),
    ],
    "json_equal": [
        ('{"a": [1, 2.0], "b": null}', '{"b": null, "a": [1.0, 2]}', 1.0),
        ('Here:\n```json\n{"a": 0}\n```\nno:\n```json\n{"a": 1}\n```\ndone', {"a": 1}, 1.0),
        ('```\n{"a": 1}\n```', {"a": 1}, 0.0),
        ("```json\n1\n```\n```json\n2", 1, 1.0),
        (box("[1, 2]"), "[1, 2]", 1.0),
        ("[2, 1]", [1, 2], 0.0),
        ("[true]", [1], 0.0),
        ("[true]", "[true]", 1.0),
        ("null", "null", 1.0),
        ('"1"', 1, 0.0),
        ('{"a": 1, "a": 1}', {"a": 1}, 0.0),
        ("[NaN]", "[1]", 0.0),
        ("1e999", "1", 0.0),
        ("[" * 100_000, "[]", 0.0),
        ("[" * 101 + "]" * 101, "[]", 0.0),
        ('"' + "[" * 200 + '"', '"' + "[" * 200 + '"', 1.0),
        ('"\\' * 200_000, "1", 0.0),
        ("9" * 5000, "1", 0.0),
        ("", "1", 0.0),
        ("{}", "{", None),
        ("1", "[NaN]", None),
        ("1", None, None),
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "gold", "value"),
    [pytest.param(name, *case, id=f"{name}{i}") for name, cases in CASES.items() for i, case in enumerate(cases)],
)
def test_values(name, text, gold, value):
    start = time.process_time()
    assert VERIFIERS[name]([episode(text, gold)]) == [value]
    assert time.process_time() - start < 3


@pytest.mark.parametrize("name", VERIFIERS)
def test_only_a_concluded_episode_can_be_right(name):
    stops = [StopReason.TRUNCATED, StopReason.MAX_ROUNDS, StopReason.MALFORMED]
    assert VERIFIERS[name]([episode(stop=stop) for stop in stops]) == [0.0] * 3
    assert VERIFIERS[name]([]) == []


def test_settings():
    assert VERIFIERS["numeric"]([episode("3.1")], abs_tol=0.2) == [1.0]
    assert VERIFIERS["numeric"]([episode("3.1")], rel_tol=0.1) == [1.0]
    assert VERIFIERS["choice"]([episode("E", "E"), episode("D", "D")], letters="ABCD") == [None, 1.0]


def block(code):
    return f"Try:\n```python\nsyntax error\n```\nBetter:\n```python\n{code}\n```\nIt adds one."


def test_programs_against_their_tests():
    right, wrong = "def f(x):\n    return x + 1", "def f(x):\n    return x"
    gold = "assert f(1) == 2\nassert f(-1) == 0"
    texts = [block(right), block(wrong), right, block("import os; os._exit(0)"), block("while True: pass")]
    values = VERIFIERS["python_tests"]([episode(text, gold) for text in texts], cpu_seconds=0.5)
    assert values == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_tests_from_a_column_and_unusable_ones():
    text, lists = block("def f(x):\n    return x + 1"), ["assert f(1) == 2", "assert f(2) == 3"]
    rows = [(lists, None), (None, lists[0]), ("assert f(1) == 3", lists[0]), ("", ""), ("assert (", ""), ("# none", "")]
    episodes = [episode(text, gold, tests=tests) for tests, gold in rows]
    scores = score_episodes(episodes, [Reward(VERIFIERS["python_tests"], "python_tests")])
    assert scores["python_tests"] == [1.0, 1.0, 0.0, None, None, None]


def test_without_a_sandbox_nothing_is_scored(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "vax")
    assert VERIFIERS["python_tests"]([episode(block("f = 1"), "assert f")]) == [None]


def test_the_former_name_of_normalized_stays():
    assert load_rewards([{"fn": "normalised"}], get_protocol("vanilla"))[0].fn is VERIFIERS["normalized"]
