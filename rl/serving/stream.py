"""One episode as it is written: engine chunks in, readable events out.

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
    """An engine that hands out tokens as it samples them."""

    def generate(self, prompt_ids: list[int], sampling: Sampling) -> AsyncGenerator[tuple[list[int], str | None], None]:
        """Yields (new token ids, None), the last with its finish_reason "stop" or "length".

        Closing the generator ends the request in the engine. Raises BackendFault.
        """


@dataclass(frozen=True)
class RoundStarted:
    number: int  # from 1


@dataclass(frozen=True)
class Thinking:
    text: str


@dataclass(frozen=True)
class SummaryText:
    text: str


@dataclass(frozen=True)
class Answer:
    text: str


@dataclass(frozen=True)
class RoundEnded:
    segment: Segment


@dataclass(frozen=True)
class Ended:
    episode: Episode
    answer_tokens: int = 0  # of its tokens, those after the thinking, with the end token


Event = RoundStarted | Thinking | SummaryText | Answer | RoundEnded | Ended
_TEXTS = {"think": Thinking, "summary": SummaryText, "answer": Answer}


async def stream_episode(
    running: RunningEpisode, backend: Backend, tokenizer: Any, protocol: RoundProtocol, stop: Sequence[str] = ()
) -> AsyncIterator[Event]:
    """Runs an episode without steering to its end and tells what is written, as it is written.

    Args:
        stop: texts that end the answer (never the thinking): it is cut before the first of them, and its round is
            then over as if the model had ended it there.

    The texts of a well-formed round, put together, are its turn's `think`, `summary` and `conclusion`, to the letter.
    A malformed one's: what followed the thinking is Answer, but for what stands in summary tags. A round cut at its
    limit lacks what may have been the beginning of a tag. A delethink answer that goes over several chunks is given
    whole. Thinking that stops without its closing tag is said again as Answer where the protocol takes it for one.
    What can't be undone: under vanilla and delethink a text that does not open with `<think>`, after a prompt that
    did not open it either, is an answer, even if `</think>` comes later.

    Close the generator (`contextlib.aclosing`) to end the engine's request.
    """
    reader: RoundReader | None = None
    while not running.over:
        number = len(running.segments) + 1
        try:
            call = running.call()
        except (ValueError, TypeError, KeyError) as error:  # a question that the template refuses
            running.fail(f"round {number} not accepted: {error}")
            break
        yield RoundStarted(number)
        if reader is None or protocol.name != "delethink":  # whose chunks are one text
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
                raise BackendFault("the engine's answer broke off")
        except BackendFault as error:
            running.fail(f"round {number}: {error}")
            break
        running.take(Completion(0, ids, None, "stop" if reader.stopped else finish))
        segment = running.segments[-1]
        for kind, text in reader.end_round(segment, running.over):
            yield _TEXTS[kind](text)
        yield RoundEnded(segment)
    yield Ended(running.episode(), reader.answer_tokens if reader else 0)
