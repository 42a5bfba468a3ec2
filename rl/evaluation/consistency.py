"""Self-consistency over episodes with early stopping: a question is sampled only until its vote is decided.

Majority votes: Wang et al. 2022, arXiv 2203.11171. Windows: Early-Stopping Self-Consistency (ESC), Li et al. 2024,
arXiv 2401.10480. Stopping uses no gold answer. The winning answers are judged after the last vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rl.evaluation.statistics import accuracy_interval
from rl.evaluation.votes import answer_texts, classes, read_answers
from rollout.errors import InputError
from rollout.types import Episode

Draw = Callable[[list[int], int, int], Sequence[Sequence[Episode]]]
"""draw(questions, first, count): of each of these questions, its samples number first … first + count - 1."""

Judge = Callable[[Sequence[Episode]], Sequence[float | None]]
"""1, 0 or None (could not be judged) for each episode."""


@dataclass(frozen=True)
class Vote:
    """Settings of a vote.

    Args:
        most: samples drawn if a question never reaches agreement.
        window: samples drawn between two checks of the votes. 1: one vote decides.
    """

    most: int
    window: int = 4

    def __post_init__(self):
        if not 1 <= self.window <= self.most:
            raise InputError(f"vote is {self.most}:{self.window}; write N or N:WINDOW with 1 <= WINDOW <= N samples")


@dataclass(frozen=True)
class Voted:
    """The outcome for one question."""

    answer: str | None  # of the winner, as the verifier reads it; None: no sample voted
    correct: float | None  # the verdict on the winner; 0 without a winner, None: could not be judged
    votes: int  # for the winner
    samples: int  # drawn
    silent: int  # of these, samples that did not vote
    tokens: int  # generated, over all samples
    why: str  # "agreed" (a unanimous window), "decided" (no answer could catch up), or "all" (samples drawn)


def vote_on(count: int, draw: Draw, judge: Judge, vote: Vote) -> list[Voted]:
    """Votes on questions 0 … count - 1, window by window, all open questions at once.

    A question ends when every sample of a window votes for the same answer, when the leader's margin over the second
    exceeds the remaining samples, or when all samples are drawn. The answer with the most votes wins; on a tie, the
    one that came first. A question's outcome depends on its own samples only.
    """
    drawn: list[list[Episode]] = [[] for _ in range(count)]
    voices: list[list[int | None]] = [[] for _ in range(count)]
    why = ["all"] * count
    open_questions = list(range(count))
    for first in range(0, vote.most, vote.window):
        size = min(vote.window, vote.most - first)
        for question, episodes in zip(open_questions, draw(open_questions, first, size), strict=True):
            drawn[question] += episodes
            voices[question] = classes(answer_texts(drawn[question]))
            why[question] = _over(voices[question], size, vote.most) or why[question]
        open_questions = [question for question in open_questions if why[question] == "all"]
        if not open_questions:
            break
    winners = {question: winner for question in range(count) if (winner := _winner(voices[question]))}
    won = [drawn[question][place] for question, (place, _) in winners.items()]
    verdicts = dict(zip(winners, judge(won), strict=True))
    answers = dict(zip(winners, read_answers(answer_texts(won)), strict=True))
    return [
        Voted(
            answer=answers.get(question),
            correct=verdicts.get(question, 0.0),
            votes=winners.get(question, (None, 0))[1],
            samples=len(episodes),
            silent=voices[question].count(None),
            tokens=sum(episode.num_tokens for episode in episodes),
            why=why[question],
        )
        for question, episodes in enumerate(drawn)
    ]


def _over(voices: Sequence[int | None], window: int, most: int) -> str | None:
    """Returns why no further sample is needed, or None if one is."""
    last = voices[-window:]
    if len(voices) < most and last[0] is not None and len(set(last)) == 1:
        return "agreed"
    leading = [votes for _, votes in Counter(voice for voice in voices if voice is not None).most_common(2)]
    ahead = leading[0] - sum(leading[1:]) if leading else 0
    return "decided" if most - len(voices) and ahead > most - len(voices) else None


def _winner(voices: Sequence[int | None]) -> tuple[int, int] | None:
    """Returns the first sample of the class with most votes, and its votes; None if no sample votes."""
    counts = Counter(voice for voice in voices if voice is not None)
    if not counts:
        return None
    best = max(counts, key=lambda voice: counts[voice])  # on a tie, the first to appear
    return voices.index(best), counts[best]


def summarize_votes(voted: Sequence[Voted], vote: Vote) -> dict[str, Any]:
    """Returns the metrics of a vote over questions.

    Returns:
        `accuracy` with `accuracy_ci95`, by question (unjudged counts as wrong); `samples_mean`, and `samples_saved`,
        the share of all N samples not drawn; `tokens_mean` per question, and `tokens_all_mean`, an estimate for all N
        samples from each question's own mean tokens per sample; `agreed`, `decided`, `all` (shares of questions, by
        the reason to stop); `no_vote` (questions without any vote) and `unjudged`.
    """
    right = [outcome.correct or 0.0 for outcome in voted]
    samples = fmean(outcome.samples for outcome in voted)
    return {
        "most": vote.most,
        "window": vote.window,
        "accuracy": fmean(right),
        "accuracy_ci95": list(accuracy_interval(right)),
        "samples_mean": samples,
        "samples_saved": 1 - samples / vote.most,
        "tokens_mean": fmean(outcome.tokens for outcome in voted),
        "tokens_all_mean": fmean(outcome.tokens / outcome.samples * vote.most for outcome in voted),
        **{why: fmean(outcome.why == why for outcome in voted) for why in ("agreed", "decided", "all")},
        "no_vote": sum(outcome.answer is None for outcome in voted),
        "unjudged": sum(outcome.correct is None for outcome in voted),
    }
