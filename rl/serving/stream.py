"""Streams one episode: engine chunks in, text events out.

RunningEpisode.call -> Backend.generate -> RoundReader -> Event; RunningEpisode.take -> next round or Ended
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from rl.serving.reader import RoundReader
from rollout.episodes import RunningEpisode
from rollout.protocol import RoundProtocol
from rollout.types import Completion, Episode, Sampling, Segment


class BackendFault(Exception):
    """The engine gave no usable answer. The episode ends as FAILED with this text."""


class Backend(Protocol):
    """An engine that streams tokens as it samples them."""

    def generate(self, prompt_ids: list[int], sampling: Sampling) -> AsyncGenerator[tuple[list[int], str | None], None]:
        """Yields (new token ids, None), the last with its finish_reason "stop" or "length".

        Closing the generator ends the request in the engine. Raises BackendFault.
        """


@dataclass(frozen=True)
class RoundStarted:
    number: int  # from 1


@dataclass(frozen=True)
class ThinkingText:
    text: str


@dataclass(frozen=True)
class SummaryText:
    text: str


@dataclass(frozen=True)
class AnswerText:
    text: str


@dataclass(frozen=True)
class RoundEnded:
    segment: Segment


@dataclass(frozen=True)
class Ended:
    episode: Episode
    answer_tokens: int = 0  # its tokens after the thinking, with the end token


Event = RoundStarted | ThinkingText | SummaryText | AnswerText | RoundEnded | Ended
_TEXTS = {"think": ThinkingText, "summary": SummaryText, "answer": AnswerText}


async def stream_episode(
    running: RunningEpisode, backend: Backend, tokenizer: Any, protocol: RoundProtocol, stop: Sequence[str] = ()
) -> AsyncIterator[Event]:
    """Runs an episode without interventions and yields its text as it is generated.

    Args:
        stop: strings that end the answer (never the thinking): it is cut before the first of them, and its round
            ends as if the model had ended it there.

    The concatenated texts of a well-formed round equal its turn's `think`, `summary` and `conclusion` exactly. In a
    malformed round, text after the thinking is AnswerText, except in summary tags. A truncated round omits a final
    fragment that may be the start of a tag. A delethink answer over several chunks is yielded whole. Thinking that
    stops without its closing tag is yielded again as AnswerText if the protocol reads it as an answer. Under vanilla
    and delethink, a text that does not open with `<think>`, after a prompt that did not open it either, is yielded as
    an answer. If `</think>` comes later, that can't be undone.

    Close the generator (`contextlib.aclosing`) to end the engine's request.
    """
    reader: RoundReader | None = None
    while not running.over:
        number = len(running.segments) + 1
        try:
            call = running.call()
        except (ValueError, TypeError, KeyError) as error:  # a question that the template rejects
            running.fail(f"round {number} not accepted: {error}")
            break
        yield RoundStarted(number)
        if reader is None or protocol.name != "delethink":  # its chunks are one text
            reader = RoundReader(protocol, tokenizer, call.prompt_ids, stop)
        ids: list[int] = []
        finish: str | None = None
        try:
            async with aclosing(backend.generate(call.prompt_ids, call.sampling)) as chunks:
                async for new_ids, finish in chunks:
                    ids += new_ids
                    for kind, text in reader.read(running.less_end(new_ids, finish)):
                        yield _TEXTS[kind](text)
                    if finish is not None or reader.stopped:
                        break
            if finish is None and not reader.stopped:
                raise BackendFault("the engine's response ended early")
        except BackendFault as error:
            running.fail(f"round {number}: {error}")
            break
        running.take(Completion(0, ids, None, "stop" if reader.stopped else finish))
        segment = running.segments[-1]
        for kind, text in reader.end_round(segment, running.over):
            yield _TEXTS[kind](text)
        yield RoundEnded(segment)
    yield Ended(running.episode(), reader.answer_tokens if reader else 0)
