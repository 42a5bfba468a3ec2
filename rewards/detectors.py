r"""Detectors of known reward hacks, based on the text of the rounds alone: logged, or used with a negative weight.

Each returns 0 (clean) to 1. Words are separated by whitespace; each Chinese or Japanese character is one word. Time is
linear in the text: under a second for a round of 100,000 tokens. A detector does not prove a hack: a short honest
summary is often a phrase from its thinking. The user chooses `threshold` and the weight.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from rewards.answer import answer_part, boxed_answers
from rollout.types import Episode

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
_ANSWER = re.compile(r"\\boxed\s*\{|\bthe\s+answer\s+is\b|\bfinal\s+answer\b", re.IGNORECASE)

Measure = Callable[[Episode], float | None]
"""One episode's value; None if the episode does not have the part that the detector examines."""


def empty_thinking(episodes: Sequence[Episode], min_words: int = 4, threshold: float = 0.0, **_: Any) -> list[float]:
    """Share of rounds whose thinking has fewer than `min_words` words. Rounds that need no thinking tags don't count.

    Raises:
        ValueError: a setting is out of range (applies to the other detectors too).
    """
    _check_count("min_words", min_words)
    return _above(threshold, episodes, lambda episode: _empty_thinking(episode, min_words))


def copied_summary(episodes: Sequence[Episode], n: int = 4, threshold: float = 0.0, **_: Any) -> list[float]:
    """Share of a summary's word n-grams that also occur in its round's thinking, averaged over the summaries.

    1 means copied word for word. A summary of fewer than `n` words counts as one n-gram.
    """
    _check_count("n", n)
    return _above(threshold, episodes, lambda episode: _copied_summary(episode, n))


def repeated_summary(episodes: Sequence[Episode], n: int = 4, threshold: float = 0.0, **_: Any) -> list[float]:
    """Share of a summary's word n-grams that also occur in the previous summary, averaged over the pairs."""
    _check_count("n", n)
    return _above(threshold, episodes, lambda episode: _repeated_summary(episode, n))


def answer_in_summary(episodes: Sequence[Episode], threshold: float = 0.0, **_: Any) -> list[float]:
    r"""Share of summaries that give a final answer: `\boxed{`, "the answer is", "final answer", or the gold answer.

    The gold answer counts if it is a separate word of at least two characters, because nearly every summary contains
    single digits. A gold answer that is also an intermediate value, or in the question, causes a false positive.
    """
    return _above(threshold, episodes, _answer_in_summary)


def several_boxes(episodes: Sequence[Episode], threshold: float = 0.0, **_: Any) -> list[float]:
    """1 if the conclusion has different boxed answers (a hedge, as in `rewards.answer`), else 0."""
    return _above(threshold, episodes, _several_boxes)


def repeated_thinking(episodes: Sequence[Episode], n: int = 8, threshold: float = 0.0, **_: Any) -> list[float]:
    """Share of word n-grams in the thinking of all rounds that are repeats: 1 - distinct / all."""
    _check_count("n", n)
    return _above(threshold, episodes, lambda episode: _repeated_thinking(episode, n))


DETECTORS: dict[str, Callable[..., list[float]]] = {
    function.__name__: function
    for function in (
        empty_thinking, copied_summary, repeated_summary, answer_in_summary, several_boxes, repeated_thinking,
    )
}  # fmt: skip
"""By name, for a config: `{fn: copied_summary, weight: -0.5, threshold: 0.8}`."""


def guard_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Returns `guard/<name>/mean` and `guard/<name>/share` (of episodes above 0.5) for a batch, with default settings.

    Episodes without the part that a detector examines are not counted; if none remain, the key is omitted.
    """
    metrics: dict[str, float] = {}
    for name, measure in MEASURES.items():
        values = [value for episode in episodes if (value := measure(episode)) is not None]
        if values:
            metrics[f"guard/{name}/mean"] = fmean(values)
            metrics[f"guard/{name}/share"] = fmean(value > 0.5 for value in values)
    return metrics


def _above(threshold: float, episodes: Sequence[Episode], measure: Measure) -> list[float]:
    """Returns each episode's value; 0 if it is at most `threshold`, or if the episode lacks the examined part."""
    if not isinstance(threshold, int | float) or not 0.0 <= threshold < 1.0:
        raise ValueError(f"threshold is {threshold!r}; it must be at least 0 and below 1")
    values = [measure(episode) for episode in episodes]
    return [value if value is not None and value > threshold else 0.0 for value in values]


def _empty_thinking(episode: Episode, min_words: int = 4) -> float | None:
    thinking = [s.turn.think for s in episode.segments if s.turn.think is not None]
    return fmean(len(words_of(text)) < min_words for text in thinking) if thinking else None


def _copied_summary(episode: Episode, n: int = 4) -> float | None:
    turns = [s.turn for s in episode.segments if words_of(s.turn.summary)]
    return fmean(ngram_overlap(words_of(t.summary), words_of(t.think), n) for t in turns) if turns else None


def _repeated_summary(episode: Episode, n: int = 4) -> float | None:
    summaries = [words for s in episode.segments if (words := words_of(s.turn.summary))]
    pairs = list(pairwise(summaries))
    return fmean(ngram_overlap(later, earlier, n) for earlier, later in pairs) if pairs else None


def _answer_in_summary(episode: Episode) -> float | None:
    summaries = [s.turn.summary for s in episode.segments if s.turn.summary]
    gold = _alone("" if episode.answer is None else str(episode.answer))
    return fmean(bool(_ANSWER.search(s) or (gold and gold.search(s))) for s in summaries) if summaries else None


def _several_boxes(episode: Episode) -> float | None:
    conclusion = episode.segments[-1].turn.conclusion if episode.segments else None
    if conclusion is None:
        return None
    return float(len(set(boxed_answers(answer_part(conclusion)))) > 1)


def _repeated_thinking(episode: Episode, n: int = 8) -> float | None:
    grams = [gram for s in episode.segments for gram in _ngrams(words_of(s.turn.think), n)]
    return 1.0 - len(set(grams)) / len(grams) if grams else None


MEASURES: dict[str, Measure] = {
    "empty_thinking": _empty_thinking,
    "copied_summary": _copied_summary,
    "repeated_summary": _repeated_summary,
    "answer_in_summary": _answer_in_summary,
    "several_boxes": _several_boxes,
    "repeated_thinking": _repeated_thinking,
}


def words_of(text: str | None) -> list[str]:
    """Splits text into words as this module counts them."""
    return _WORD.findall(text or "")


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[i:] for i in range(n)), strict=False)) if len(words) >= n else []


def ngram_overlap(words: Sequence[str], source: Sequence[str], n: int) -> float:
    """Returns the share of the n-grams of `words` (not empty) that are in `source`."""
    n = min(n, len(words))
    known = set(_ngrams(source, n))
    return fmean(gram in known for gram in _ngrams(words, n))


def _alone(gold: str) -> re.Pattern[str] | None:
    """Returns a pattern for `gold` as a whole word or number: 12 matches in `x=12.`, not in `120` or `3.12`."""
    gold = gold.strip().strip("$").strip()
    return re.compile(rf"(?<!\w)(?<!\d[.,]){re.escape(gold)}(?!\w)(?![.,]\d)") if len(gold) >= 2 else None


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
