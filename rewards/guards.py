r"""Measures of known cheats, from the text of the rounds alone: to log, or to name as rewards with a negative weight.

Each measure is a pure function `f(episode, settings)`: 0 (clean) to 1, or None where the episode has not the part that
it looks at. Words are what whitespace parts; each Chinese or Japanese character is one. The time is in proportion to
the text: under a second for a round of 100,000 tokens. A measure is no verdict: a short honest summary often stands
word for word in its thinking. `threshold` and the weight are the user's to choose.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from rewards.answer import answer_part, boxed_answers
from rollout.errors import InputError
from rollout.types import Episode, StopReason

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_ANSWER = re.compile(r"\\boxed\s*\{|\bthe\s+answer\s+is\b|\bfinal\s+answer\b", re.IGNORECASE)


def empty_thinking(episode: Episode, min_words: int = 4) -> float | None:
    """Share of rounds whose thinking has fewer than `min_words` words. Rounds that need no thinking tags don't count.

    Raises:
        InputError: `min_words` is no whole number of at least 1; so for `n` below.
    """
    _check_count("min_words", min_words)
    thinking = [s.turn.think for s in episode.segments if s.turn.think is not None]
    return fmean(len(words_of(text)) < min_words for text in thinking) if thinking else None


def copied_summary(episode: Episode, n: int = 4) -> float | None:
    """Share of a summary's n-grams of words that its round's thinking holds, mean over the summaries.

    1: copied word for word. A summary of fewer than `n` words is one n-gram.
    """
    _check_count("n", n)
    turns = [s.turn for s in episode.segments if words_of(s.turn.summary)]
    return fmean(ngram_overlap(words_of(t.summary), words_of(t.think), n) for t in turns) if turns else None


def repeated_summary(episode: Episode, n: int = 4) -> float | None:
    """Share of a summary's n-grams of words that the summary before it holds, mean over the pairs: getting nowhere."""
    _check_count("n", n)
    summaries = [words for s in episode.segments if (words := words_of(s.turn.summary))]
    pairs = list(pairwise(summaries))
    return fmean(ngram_overlap(later, earlier, n) for earlier, later in pairs) if pairs else None


def answer_in_summary(episode: Episode) -> float | None:
    r"""Share of summaries that give a final answer: `\boxed{`, "the answer is", "final answer", or the gold answer.

    The gold answer counts where it stands by itself and has two characters or more: a digit is in every summary. One
    that is also a value on the way, or in the question, is found as well.
    """
    summaries = [s.turn.summary for s in episode.segments if s.turn.summary]
    gold = _alone("" if episode.answer is None else str(episode.answer))
    return fmean(bool(_ANSWER.search(s) or (gold and gold.search(s))) for s in summaries) if summaries else None


def several_boxes(episode: Episode) -> float | None:
    """1 where the conclusion holds different boxed answers, as `rewards.answer` judges a hedge, else 0."""
    conclusion = episode.segments[-1].turn.conclusion if episode.segments else None
    if conclusion is None:
        return None
    return float(len(set(boxed_answers(answer_part(conclusion)))) > 1)


def repeated_thinking(episode: Episode, n: int = 8) -> float | None:
    """Share of n-grams of words in the thinking of all rounds that were there before: 1 - distinct / all."""
    _check_count("n", n)
    grams = [gram for s in episode.segments for gram in _ngrams(words_of(s.turn.think), n)]
    return 1.0 - len(set(grams)) / len(grams) if grams else None


class Guard:
    """A measure as a reward function of TRL's signature, with its settings named in the signature."""

    def __init__(self, measure: Callable[..., float | None]):
        self.measure, self.__name__, self.__doc__ = measure, measure.__name__, measure.__doc__
        own = list(inspect.signature(measure).parameters.values())[1:]
        self.settings = [parameter.name for parameter in own]
        call = inspect.signature(type(self).__call__).parameters
        self.__signature__ = inspect.Signature([call["episodes"], *own, call["threshold"], call["columns"]])

    def __call__(self, episodes: Sequence[Episode], threshold: float = 0.0, **columns: Any) -> list[float]:
        """The measure of each episode; 0.0 where it is at most `threshold`, or where there is nothing to measure.

        Raises:
            InputError: `threshold` outside [0, 1), or a bad setting of the measure; for an empty list too.
        """
        if not isinstance(threshold, int | float) or not 0.0 <= threshold < 1.0:
            raise InputError(f"threshold is {threshold!r}; it must be at least 0 and below 1")
        settings = {name: columns[name] for name in self.settings if name in columns}
        self.measure(_NO_ROUNDS, **settings)
        values = [self.measure(episode, **settings) for episode in episodes]
        return [value if value is not None and value > threshold else 0.0 for value in values]


MEASURES = (empty_thinking, copied_summary, repeated_summary, answer_in_summary, several_boxes, repeated_thinking)

GUARDS: dict[str, Guard] = {measure.__name__: Guard(measure) for measure in MEASURES}
"""By name, for a config: `{fn: copied_summary, weight: -0.5, threshold: 0.8}`."""

_NO_ROUNDS = Episode("", None, 0, [], StopReason.FAILED)


def guard_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """`guard/<name>/mean` and `guard/<name>/share` (of episodes above 0.5) over a batch, with the default settings.

    An episode without the part that a measure looks at is not counted; no key where that leaves none.
    """
    metrics: dict[str, float] = {}
    for measure in MEASURES:
        values = [value for episode in episodes if (value := measure(episode)) is not None]
        if values:
            metrics[f"guard/{measure.__name__}/mean"] = fmean(values)
            metrics[f"guard/{measure.__name__}/share"] = fmean(value > 0.5 for value in values)
    return metrics


def words_of(text: str | None) -> list[str]:
    """Words, as this module counts them."""
    return _WORD.findall(text or "")


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False)) if len(words) >= n else []


def ngram_overlap(words: Sequence[str], source: Sequence[str], n: int) -> float:
    """Share of the n-grams of `words` (not empty) that `source` holds."""
    n = min(n, len(words))
    known = set(_ngrams(source, n))
    return fmean(gram in known for gram in _ngrams(words, n))


def _alone(gold: str) -> re.Pattern[str] | None:
    """Finds `gold` with nothing of a word or a longer number at either side: 12 in `x=12.`, not in `120` or `3.12`."""
    gold = gold.strip().strip("$").strip()
    return re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(gold)}(?!\w)(?![.,]\d)") if len(gold) >= 2 else None


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1")
