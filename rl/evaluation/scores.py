"""Scores of a question's answers that need no gold answer, for searches that stop when one is good enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from statistics import fmean

from rl.evaluation.votes import answer_texts, classes
from rollout.types import Episode, StopReason

Score = Callable[[Sequence[Episode]], list[float]]
"""A score of each episode of one question, in order; higher is better. An episode without an answer has 0."""


def confidence(episode: Episode) -> float:
    """Returns exp(min over rounds of the mean logprob of the round's sampled tokens); 0 if a round has no logprobs.

    A round stands for the group in DeepConf's lowest group confidence (arXiv 2508.15260), which takes the top-k
    logprobs; here there are those of the sampled tokens. Values of two models are not comparable.
    """
    means = []
    for segment in episode.segments:
        sampled = segment.logprobs[segment.opening :] if segment.logprobs is not None else []
        if not sampled:
            return 0.0
        means.append(fmean(sampled))
    return math.exp(min(means)) if means else 0.0


def by_confidence(episodes: Sequence[Episode]) -> list[float]:
    """Scores each answer by `confidence`."""
    return [confidence(e) if e.stop_reason == StopReason.ANSWERED else 0.0 for e in episodes]


def agreement(votes: Sequence[int]) -> float:
    """Returns the probability that the leading answer is the majority: 1 - I_1/2(v1 + 1, v2 + 1).

    Adaptive-Consistency (arXiv 2305.11860), over the two answers with most votes.

    Args:
        votes: of each answer, in any order.
    """
    first, second = [*sorted(votes, reverse=True), 0, 0][:2]
    total = first + second + 1
    return sum(comb(total, j) for j in range(first + 1)) / 2**total if first else 0.0


def by_agreement(episodes: Sequence[Episode]) -> list[float]:
    """Scores each episode by `agreement` if its answer leads, else 0."""
    voices = classes(answer_texts(episodes))
    counts = Counter(voice for voice in voices if voice is not None)
    if not counts:
        return [0.0] * len(voices)
    leader = max(counts, key=lambda voice: counts[voice])  # on a tie, the first to appear
    value = agreement(list(counts.values()))
    return [value if voice == leader else 0.0 for voice in voices]


def same_answers(episodes: Sequence[Episode]) -> bool:
    """Returns whether two successive episodes end in equal answers."""
    voices = classes(answer_texts(episodes))
    return len(voices) == 2 and voices[0] is not None and voices[0] == voices[1]
