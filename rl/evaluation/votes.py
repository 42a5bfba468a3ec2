"""Majority votes over samples of a question: answers are grouped into equivalence classes, and maj@k is exact.

texts -> readings that the verifier confirms -> classes -> maj@k
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from math import comb, lcm

from rewards.answer import Verdict, answer_part, boxed_answers, verify_many
from rewards.readers import NOTHING, read_number
from rollout.types import Episode, StopReason

_MOST_COMPARED = 64  # distinct answers of a question that are compared; rarer ones equal only the same string
_MOST_TEXT = 2_000  # characters read from the end of an output without a box, as in the verifier
_MATH = re.compile(r"\$([^$]+)\$")
_SAID = re.compile(r"answer(?:\s+is|\s*[:=])\s*(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_PLAIN = "\\frac{1}{7}"  # any answer that is quick to compare with


def answer_texts(episodes: Sequence[Episode]) -> list[str | None]:
    """Returns final outputs that may vote; None if the episode did not end in an answer."""
    return [e.final_text if e.stop_reason == StopReason.ANSWERED else None for e in episodes]


def classes(texts: Sequence[str | None], timeout: float = 2.0) -> list[int | None]:
    """Returns the class of each final output's answer, numbered in order of appearance; None: it does not vote.

    Answers share a class if their strings are equal, or if each verifies as an answer to the other. (One direction
    does not suffice: the verifier accepts `5` for `\\geq 5`, but `\\geq 5` hedges if 5 is the gold answer.) An answer
    equal to a member of a class belongs to it.

    An output without an answer that the verifier can read does not vote. An answer whose comparison with a plain number
    times out is not compared with others: it equals only the same string, so a pathological answer costs one timeout.

    Args:
        texts: of the samples of one question.
        timeout: CPU seconds of one comparison.
    """
    readings = read_answers(texts, timeout)
    parent = {reading: reading for reading in readings if reading is not None}

    def root(reading: str) -> str:
        while parent[reading] != reading:
            reading = parent[reading]
        return reading

    for one, other in _equal_pairs(_comparable(readings, timeout), timeout):
        parent[root(one)] = root(other)
    numbers: dict[str, int] = {}
    return [None if r is None else numbers.setdefault(root(r), len(numbers)) for r in readings]


def read_answers(texts: Sequence[str | None], timeout: float = 2.0) -> list[str | None]:
    """Returns each output's answer, written as a gold answer would be; None if the verifier can read none.

    A candidate counts only if the verifier accepts the output with the candidate as gold answer.
    """
    outputs = [None if text is None else answer_part(text) for text in texts]  # often equal among samples
    pairs = [(output, proposal) for output in dict.fromkeys(outputs) if output for proposal in _proposals(output)]
    confirmed: dict[str, str] = {}
    for (output, proposal), verdict in zip(pairs, verify_many(pairs, timeout), strict=True):
        if verdict == Verdict.CORRECT:
            confirmed.setdefault(output, proposal)
    return [confirmed.get(output) for output in outputs]


def _proposals(text: str) -> list[str]:
    """Returns candidates for an output's answer, the likeliest first."""
    boxes = list(dict.fromkeys(boxed_answers(text)))
    if boxes:
        found = [boxes[-1], ", ".join(boxes)]
    else:
        text = text[-_MOST_TEXT:].strip()
        found = [match[-1] for match in (_MATH.findall(text), _SAID.findall(text)) if match]
        found += [] if _WORD.search(text) else [text]
        found += [number.rstrip(",") for number in _NUMBER.findall(text)[-1:]]
    return list(dict.fromkeys(part for part in (f.strip().removesuffix(".") for f in found) if part))


def _comparable(readings: Sequence[str | None], timeout: float) -> list[str]:
    """Returns the most frequent answers, less those that hang the verifier on a comparison with a plain number."""
    counts = Counter(reading for reading in readings if reading is not None)
    frequent = sorted(counts, key=lambda reading: (-counts[reading], reading))[:_MOST_COMPARED]
    unknown = [reading for reading in frequent if read_number(reading) is NOTHING]
    verdicts = verify_many([(_boxed(reading), _PLAIN) for reading in unknown], timeout)
    slow = {r for r, v in zip(unknown, verdicts, strict=True) if v not in (Verdict.CORRECT, Verdict.INCORRECT)}
    return [reading for reading in frequent if reading not in slow]


def _equal_pairs(readings: Sequence[str], timeout: float) -> list[tuple[str, str]]:
    """Returns pairs in which each verifies as an answer to the other."""
    pairs = list(combinations(readings, 2))
    for _ in ("one way", "the other"):
        verdicts = verify_many([(_boxed(answer), gold) for answer, gold in pairs], timeout)
        pairs = [(b, a) for (a, b), verdict in zip(pairs, verdicts, strict=True) if verdict == Verdict.CORRECT]
    return pairs


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def maj_at_k(class_ids: Sequence[int | None], correct: Sequence[float | None], k: int) -> float:
    """Returns the probability that the majority vote of k of n samples, drawn without replacement, is correct.

    The mean over all C(n, k) subsets of: 0 if no sample votes; else the share of correct members of the class with
    most votes, averaged over classes that tie. (Members of a class are equal, so the share is between 0 and 1 only if
    the verifier accepts some of them and not others.) Majority vote: self-consistency, Wang et al. 2022, arXiv
    2203.11171; maj@k: Lewkowycz et al. 2022, arXiv 2206.14858; over subsets, as pass@k is by Chen et al. 2021, arXiv
    2107.03374.

    Exact, in integers: for each winning number of votes, subsets are counted class by class.

    Args:
        class_ids: of each sample, from `classes`; None: no vote.
        correct: 1 or 0 for each sample; None (could not be judged) counts as 0.

    Raises:
        ValueError: k is below 1, or above n.
    """
    n = len(class_ids)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} with {n} samples per question: k must be from 1 to the number of samples")
    members: dict[int, list[Fraction]] = {}
    for class_id, value in zip(class_ids, correct, strict=True):
        if class_id is not None:
            members.setdefault(class_id, []).append(Fraction(value or 0))
    shares = [sum(values) / len(values) for values in members.values()]
    scale = lcm(*(share.denominator for share in shares))
    sized = [(len(values), int(share * scale)) for values, share in zip(members.values(), shares, strict=True)]
    silent = n - sum(size for size, _ in sized)
    most = min(k, max((size for size, _ in sized), default=0))
    right = sum(_won_with(votes, sized, silent, k) for votes in range(1, most + 1))
    return float(right / (scale * comb(n, k)))


def _won_with(votes: int, sized: Sequence[tuple[int, int]], silent: int, k: int) -> Fraction:
    """Counts subsets won with exactly `votes` votes, each weighted by its winners' mean share of correct members.

    Args:
        sized: size of each class, and its correct share times a common factor.
        silent: samples that do not vote.
    """
    # (drawn, winners) -> [subsets, sum over them of the winners' shares], over the classes seen so far
    states: dict[tuple[int, int], list[int]] = {(0, 0): [1, 0]}
    for size, share in sized:
        after: dict[tuple[int, int], list[int]] = {}
        for (drawn, winners), (count, weight) in states.items():
            for taken in range(min(size, votes, k - drawn) + 1):
                won = taken == votes
                ways = comb(size, taken)
                state = after.setdefault((drawn + taken, winners + won), [0, 0])
                state[0] += ways * count
                state[1] += ways * (weight + share * count if won else weight)
        states = after
    total = Fraction(0)
    for (drawn, winners), (_, weight) in states.items():
        if winners:
            total += Fraction(weight * comb(silent, k - drawn), winners)
    return total
