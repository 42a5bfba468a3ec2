"""Answers of each kind, right and wrong, and the collected cases: all compared in one pool."""

from __future__ import annotations

import json
import random

import pytest
from answer_kinds import RIGHT, WRONG

from rewards.answer import Verdict, verify_many


def _output(text: str) -> str:
    return text[1:] if text.startswith("~") else f"\\boxed{{{text}}}"


@pytest.fixture(scope="module")
def verdicts():
    """(kind, expected) -> the pairs that came out otherwise."""
    kinds = [(kind, True, pair) for kind, pairs in RIGHT.items() for pair in pairs]
    kinds += [(kind, False, pair) for kind, pairs in WRONG.items() for pair in pairs]
    found = verify_many([(_output(text), gold) for _, _, (gold, text) in kinds])
    missed: dict[tuple[str, bool], list] = {}
    for (kind, right, pair), verdict in zip(kinds, found, strict=True):
        if verdict != (Verdict.CORRECT if right else Verdict.INCORRECT):
            missed.setdefault((kind, right), []).append((*pair, str(verdict)))
    return missed


@pytest.mark.parametrize("kind", RIGHT)
def test_right_answers(verdicts, kind):
    assert not verdicts.get((kind, True))


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answers(verdicts, kind):
    assert not verdicts.get((kind, False))


def test_reported_cases(shared_data):
    rows = [json.loads(line) for line in (shared_data / "reported_cases.jsonl").open(encoding="utf-8")]
    rows = [row for row in rows if "gold" in row]
    found = verify_many([(row["prediction"], row["gold"]) for row in rows])
    missed = [
        (row["gold"], row["prediction"], str(verdict))
        for row, verdict in zip(rows, found, strict=True)
        if (verdict == Verdict.CORRECT) != row["expected"]
    ]
    assert len(rows) == 154 and not missed


def test_ordinary_answers_are_judged_as_by_math_verify(shared_data):
    from math_verify import parse, verify

    rng = random.Random(0)
    pairs, expected = [], []
    for name in ("math500.jsonl", "gsm8k_train_1000.jsonl"):
        golds = [str(json.loads(line)["answer"]) for line in (shared_data / name).open(encoding="utf-8")]
        golds = golds[:500]
        for gold, other in zip(golds, rng.sample(golds, len(golds)), strict=True):
            pairs += [(f"So the answer is $\\boxed{{{text}}}$.", gold) for text in (gold, other)]
    for text, gold in pairs:
        sides = parse(f"${gold}$", parsing_timeout=None), parse(text, parsing_timeout=None)
        expected.append(verify(*sides, timeout_seconds=None))
    found = [verdict == Verdict.CORRECT for verdict in verify_many(pairs)]
    assert len(pairs) == 2000
    assert not [pair for pair, a, b in zip(pairs, found, expected, strict=True) if a != b]
