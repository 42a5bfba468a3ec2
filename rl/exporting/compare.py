"""Compare two models' greedy rounds: where they first differ, and whether the two best tokens were tied there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Rounds = Sequence[tuple[list[int], list[int]]]
"""(prompt ids, completion ids) of each round of one question."""

TIE = 1e-4  # of two log-probabilities: below it, rounding decides which token is the best


@dataclass(frozen=True)
class GreedyEpisode:
    """One model's rounds for one question."""

    rounds: Rounds
    stop_reason: str


@dataclass(frozen=True)
class Difference:
    """Where two episodes first differ. All numbers count from 0."""

    question: int
    round: int
    position: int | None = None  # in the round's output; None: not in the output of a round
    tokens: tuple[int, int] | None = None  # the reference's and the other's; None: only one of them wrote one
    what: str = ""  # in words, if no token shows it
    margin: float | None = None  # between the two tokens' log-probabilities, by the reference

    @property
    def is_tie(self) -> bool:
        return self.margin is not None and self.margin < TIE


@dataclass(frozen=True)
class Comparison:
    """Episodes of two models for the same questions."""

    rounds: int  # compared
    tokens: int  # compared: up to the first difference of each question
    differences: list[Difference]

    @property
    def same(self) -> bool:
        """True if they differ in ties only."""
        return all(difference.is_tie for difference in self.differences)


def compare(
    ours: Sequence[GreedyEpisode], theirs: Sequence[GreedyEpisode], margin: Callable[[list[int], int, int], float]
) -> Comparison:
    """Compare episodes question by question.

    Args:
        ours: the reference's.
        margin: margin(ids, a, b) is the difference of the log-probabilities of tokens a and b after these ids.
    """
    rounds = tokens = 0
    differences = []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        found = _first_difference(number, one, other)
        last = len(one.rounds) if found is None else found.round
        rounds += last + (found is not None and found.position is not None)
        tokens += sum(len(output) for _, output in one.rounds[:last]) + (found.position or 0 if found else 0)
        if found is not None and found.tokens is not None:
            prompt, output = one.rounds[found.round]
            ids = prompt + output[: found.position]
            place = (number, found.round, found.position, found.tokens)
            found = Difference(*place, margin=margin(ids, *found.tokens))
        if found is not None:
            differences.append(found)
    return Comparison(rounds, tokens, differences)


def _first_difference(number: int, one: GreedyEpisode, other: GreedyEpisode) -> Difference | None:
    for index, ((prompt, output), (their_prompt, their_output)) in enumerate(
        zip(one.rounds, other.rounds, strict=False)
    ):
        if list(prompt) != list(their_prompt):
            return Difference(number, index, what="different prompts")
        for position, pair in enumerate(zip(output, their_output, strict=False)):
            if pair[0] != pair[1]:
                return Difference(number, index, position, pair)
        if len(output) != len(their_output):
            shorter = min(len(output), len(their_output))
            return Difference(number, index, shorter, what=f"{len(output)} tokens and {len(their_output)}")
    if len(one.rounds) != len(other.rounds) or one.stop_reason != other.stop_reason:
        what = f"{_ending(one)} and {_ending(other)}"
        return Difference(number, min(len(one.rounds), len(other.rounds)), what=what)
    return None


def _ending(episode: GreedyEpisode) -> str:
    return f"{len(episode.rounds)} rounds, {episode.stop_reason}"
