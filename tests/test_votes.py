"""Majority votes: classes of equal answers by the real verifier, maj@k against all subsets, early stop without gold."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.evaluation.consistency import Vote, Voted, summarize_votes, vote_on
from rl.evaluation.votes import answer_texts, classes, maj_at_k, read_answers
from rollout.types import Episode, Segment, StopReason, Turn

OUTPUTS = {
    "five": [
        "\\boxed{5}",
        "<think>\\boxed{6}</think>\n\\boxed{5}",
        "\\boxed{5.0}",
        "so the answer is 10/2.",
        "It is 5",
    ],
    "at least five": ["\\boxed{\\geq 5}"],
    "a half": ["\\boxed{\\frac12}", "\\boxed{1/2} or \\boxed{0.5}"],
    "a thousand": ["about 1,000 apples", "\\boxed{1000}"],
    "seven": ["So $x=7$ holds", "\\boxed{7}"],
    "a sum": ["x+2", "\\boxed{2+x}"],
    "two": ["\\boxed{3} and \\boxed{4}", "\\boxed{3, 4}"],
    "B": ["\\boxed{B}", "The answer is B."],
    "a bomb": ["\\boxed{9^{9^9}}", "hence \\boxed{9^{9^9}}"],
    "another bomb": ["\\boxed{8^{8^{8^8}}}"],
    None: ["I give up", "\\boxed{}", "", None],
}


def partition(texts, class_ids):
    groups: dict = {}
    for text, class_id in zip(texts, class_ids, strict=True):
        groups.setdefault(class_id, set()).add(text)
    silent = groups.pop(None, set())
    return {frozenset(group) for group in groups.values()}, silent


@pytest.mark.slow
def test_answers_that_the_verifier_finds_equal_are_one_class():
    texts = [text for group in OUTPUTS.values() for text in group]
    expected = {frozenset(group) for name, group in OUTPUTS.items() if name}, set(OUTPUTS[None])
    first = classes(texts, timeout=1.0)
    assert partition(texts, first) == expected
    assert [c for c in dict.fromkeys(first) if c is not None] == list(range(len(OUTPUTS) - 1))
    shuffled = random.Random(0).sample(texts, len(texts))
    assert partition(shuffled, classes(shuffled, timeout=1.0)) == expected


def test_readings_are_those_of_the_verifier():
    texts = [
        "\\boxed{1/2} or \\boxed{0.5}",
        "\\boxed{3} or \\boxed{4}",
        "it is 3, no, 4",
        "the answer is 7.",
        "no idea",
    ]
    assert read_answers(texts) == ["0.5", "3, 4", "4", "7", None]


def test_only_answered_episodes_vote():
    ended = [episode(5), episode(None), episode(5, StopReason.TRUNCATED), episode(5, StopReason.MAX_ROUNDS)]
    texts = answer_texts([*ended, Episode("q", "5", 0, [], StopReason.FAILED)])
    assert [text is not None for text in texts] == [True, True, False, False, False]
    assert classes(texts) == [0, None, None, None, None]


def by_all_subsets(class_ids, correct, k):
    """maj@k from its definition: every subset, every winner, every member of the winner."""
    total, subsets = Fraction(0), list(combinations(range(len(class_ids)), k))
    for subset in subsets:
        voters = [i for i in subset if class_ids[i] is not None]
        votes = {c: sum(class_ids[i] == c for i in voters) for c in {class_ids[i] for i in voters}}
        winners = [c for c, count in votes.items() if count == max(votes.values())]
        for winner in winners:
            members = [i for i in subset if class_ids[i] == winner]
            right = sum(Fraction(correct[i] or 0) for i in members)
            total += right / (len(members) * len(winners))
    return total / len(subsets)


samples = st.lists(st.tuples(st.none() | st.integers(0, 3), st.sampled_from([0.0, 1.0, None])), min_size=1, max_size=8)


@settings(deadline=None)
@given(samples, st.data())
def test_maj_is_the_mean_over_all_subsets(drawn, data):
    class_ids, correct = zip(*drawn, strict=True)
    k = data.draw(st.integers(1, len(drawn)))
    value = maj_at_k(class_ids, correct, k)
    assert value == float(by_all_subsets(class_ids, correct, k))
    mixed = data.draw(st.permutations(drawn))
    renamed = dict(zip(range(4), data.draw(st.permutations(range(10, 14))), strict=True))
    assert value == maj_at_k([renamed.get(c) for c, _ in mixed], [right for _, right in mixed], k)


def test_maj_of_many_samples():
    right, wrong = [0] * 40, [1] * 20
    values = [maj_at_k([*right, *wrong, None, 2, 2, 3], [1.0] * 40 + [0.0] * 24, k) for k in (1, 3, 9, 33, 64)]
    assert values == sorted(values) and values[0] == 40 / 64 and values[-1] == 1.0
    assert maj_at_k([None, None], [0.0, None], 2) == 0.0
    for k in (0, 3):
        with pytest.raises(ValueError, match="k must be from 1 to the number of samples"):
            maj_at_k([0, 0], [1.0, 1.0], k)


def episode(answer, stop=StopReason.ANSWERED, gold="5") -> Episode:
    text = "no answer" if answer is None else f"\\boxed{{{answer}}}"
    segment = Segment(
        [1, 2], [3] * 10, None, f"<think>\nx\n</think>{text}", "stop", Turn("conclusion", conclusion=text)
    )
    return Episode("q", gold, 0, [segment], stop)


SAMPLES = [
    [5, 5, 5, 5, 1, 1, 1, 1, 1, 1, 1],  # the first window agrees
    [5, 5, 5, None, 5, 5, 5, 5, 1, 1, 1],  # a window with a silent sample does not; the second does
    [1, 5, 1, 1, 1, 5, 1, 1, 5, 5, 5],  # nobody can catch up after the second
    [1, 5, 2, 5, 1, 5, 1, 5, 1, 5, 1],  # all; equal votes but one
    [None] * 11,
    [1, 5, 1, 5, None, None, None, None, None, None, None],  # a draw: who came first
]


def vote_in(order):
    asked, judged = [], []

    def draw(questions, first, count):
        asked.append((questions, range(first, first + count)))
        return [[episode(answer) for answer in SAMPLES[order[q]][first : first + count]] for q in questions]

    def judge(episodes):
        judged.extend(episodes)
        return [float("{5}" in e.final_text) for e in episodes]

    return vote_on(len(order), draw, judge, Vote(11, 4)), asked, judged


def test_a_question_is_asked_while_its_vote_is_open():
    voted, asked, judged = vote_in(range(6))
    outcomes = [(v.answer, v.correct, v.votes, v.samples, v.silent, v.why) for v in voted]
    assert outcomes == [
        ("5", 1.0, 4, 4, 0, "agreed"),
        ("5", 1.0, 7, 8, 1, "agreed"),
        ("1", 0.0, 6, 8, 0, "decided"),
        ("1", 0.0, 5, 11, 0, "all"),
        (None, 0.0, 0, 11, 11, "all"),
        ("1", 0.0, 2, 11, 7, "all"),
    ]
    assert asked == [([0, 1, 2, 3, 4, 5], range(4)), ([1, 2, 3, 4, 5], range(4, 8)), ([3, 4, 5], range(8, 11))]
    assert len(judged) == 5  # only winners, and only at the end
    assert [v.tokens for v in voted] == [10 * v.samples for v in voted]
    for seed in range(3):
        order = random.Random(seed).sample(range(6), 6)
        assert vote_in(order)[0] == [voted[question] for question in order]


def test_summary_of_votes():
    voted = [
        Voted("5", 1.0, 4, 4, 0, 40, "agreed"),
        Voted("1", 0.0, 6, 8, 0, 160, "decided"),
        Voted("x", None, 6, 12, 0, 120, "all"),
        Voted(None, 0.0, 0, 12, 12, 120, "all"),
    ]
    row = summarize_votes(voted, Vote(12))
    assert (row["accuracy"], row["samples_mean"], row["samples_saved"]) == (0.25, 9.0, 0.25)
    assert (row["tokens_mean"], row["tokens_all_mean"]) == (110.0, 150.0)
    assert (row["agreed"], row["decided"], row["all"], row["no_vote"], row["unjudged"]) == (0.25, 0.25, 0.5, 1, 1)
    assert row["accuracy_ci95"][0] == 0.0 and 0.25 < row["accuracy_ci95"][1] < 1.0
    with pytest.raises(ValueError, match="1 <= WINDOW <= N"):
        Vote(3, 4)
