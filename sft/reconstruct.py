"""Builds rounds from segments and summaries: the rows that SFT trains on (method of arXiv 2503.06692, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

from rollout.protocol import RoundProtocol
from rollout.types import Question


@dataclass(frozen=True)
class Round:
    """One training row: the prompt is (question, history), the loss is on `completion`."""

    question: Question
    history: str | None  # the summary that the round starts from; None in round 1
    completion: str  # without the end token


def reconstruct_rounds(question: Question, segments: list[str], summaries: list[str], conclusion: str) -> list[Round]:
    """Returns rounds in which round i thinks segment i and writes summary i; the last one writes the conclusion.

    Raises:
        ValueError: there is no segment, or `len(summaries) != len(segments) - 1`.
    """
    if not segments:
        raise ValueError("a trace needs at least one segment")
    if len(summaries) != len(segments) - 1:
        raise ValueError(f"{len(segments)} segments need {len(segments) - 1} summaries, got {len(summaries)}")
    rounds = []
    for index, segment in enumerate(segments):
        ending = {"summary": summaries[index]} if index < len(summaries) else {"conclusion": conclusion}
        completion = RoundProtocol.render_completion(segment, **ending)
        rounds.append(Round(question, summaries[index - 1] if index else None, completion))
    return rounds
