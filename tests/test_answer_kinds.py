"""Answers of each kind, right and wrong, and the collected cases: all compared in one pool."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from rewards.answer import Verdict, verify_many

pytestmark = pytest.mark.slow

ROWS = [json.loads(line) for line in Path(__file__).with_name("answer_kinds.jsonl").open(encoding="utf-8")]
KINDS = sorted({(row["kind"], row["right"]) for row in ROWS})


@pytest.fixture(scope="module")
def missed():
    """The rows that come out otherwise than they should, by kind."""
    verdicts = verify_many([(row["output"], row["gold"]) for row in ROWS])
    found: dict[tuple[str, bool], list] = {}
    for row, verdict in zip(ROWS, verdicts, strict=True):
        if verdict != (Verdict.CORRECT if row["right"] else Verdict.INCORRECT):
            found.setdefault((row["kind"], row["right"]), []).append((row["gold"], row["output"], str(verdict)))
    return found


@pytest.mark.parametrize(("kind", "right"), [pytest.param(*key, id=f"{key[0]}-{key[1]}") for key in KINDS])
def test_answers_of_each_kind(missed, kind, right):
    assert not missed.get((kind, right))


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
