"""A conversation with a model that reasons in rounds: each turn is an episode over all that was said.

user's text -> Conversation.question -> stream_episode -> ChatTurn -> Conversation.turns
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rl.serving.backend import VLLMBackend
from rl.serving.stream import (
    Answer,
    Backend,
    Ended,
    Event,
    RoundStarted,
    SummaryText,
    Thinking,
    stream_episode,
)
from rollout.episodes import RunningEpisode
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Sampling, StopReason, Task


@dataclass
class RoundText:
    """What was written in one round, as it was shown."""

    thinking: str = ""
    summary: str = ""


@dataclass
class ChatTurn:
    """One question and the model's rounds and answer."""

    question: str
    rounds: list[RoundText] = field(default_factory=list)
    answer: str = ""
    episode: Episode | None = None  # None: broken off

    @property
    def whole(self) -> bool:
        """Has an answer that the model has ended itself."""
        ended = self.episode is not None and self.episode.stop_reason is StopReason.ANSWERED
        return ended and bool(self.answer.strip())

    def take(self, event: Event) -> None:
        match event:
            case RoundStarted():
                self.rounds.append(RoundText())
            case Thinking(text):
                self.rounds[-1].thinking += text
            case SummaryText(text):
                self.rounds[-1].summary += text
            case Answer(text):
                self.answer += text
            case Ended(episode):
                self.episode = episode


@dataclass
class Conversation:
    """Turns whose answer is whole; only these are said to the model again, without their thinking."""

    system: str | None = None
    turns: list[ChatTurn] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """Chat messages of all turns."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            said += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer.strip()}]
        return said

    def question(self, text: str) -> list[dict[str, str]]:
        """Chat messages that ask `text` after all that was said."""
        return [*self.messages(), {"role": "user", "content": text}]

    def record(self) -> dict[str, Any]:
        """The conversation as JSON has it; `turns` has what the messages leave out, one for each answer."""
        turns = [
            {
                "rounds": [{"thinking": r.thinking, "summary": r.summary or None} for r in turn.rounds],
                "tokens": turn.episode.num_tokens,
                "peak_context": turn.episode.peak_context,
                "seconds": round(turn.episode.seconds, 3),
            }
            for turn in self.turns
        ]
        return {"messages": self.messages(), "turns": turns}


class CountedTokens:
    """A backend that counts the tokens of the round under way."""

    def __init__(self, backend: Backend):
        self.backend, self.tokens = backend, 0

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling
    ) -> AsyncGenerator[tuple[list[int], str | None], None]:
        self.tokens = 0
        async with aclosing(self.backend.generate(prompt_ids, sampling)) as chunks:
            async for ids, finish in chunks:
                self.tokens += len(ids)
                yield ids, finish


@dataclass(frozen=True)
class ChatModel:
    """A model that answers conversations.

    Args:
        sampling: `max_tokens` bounds a round; a round gets no more than the context has room for.
        context: tokens of prompt and output together that the engine takes.
    """

    protocol: RoundProtocol
    tokenizer: Any
    sampling: Sampling
    backend: VLLMBackend
    context: int

    def room(self, question: list[dict[str, str]]) -> int:
        """Tokens that the context has left after this question; below 1: it does not fit.

        Raises:
            ValueError: the chat template refuses it.
        """
        return self.context - len(self.protocol.question_ids(self.tokenizer, question))

    async def answer(self, conversation: Conversation, turn: ChatTurn, on_event: Callable[[Event, int], None]) -> None:
        """Runs a turn to its end, and adds it to the conversation where it is whole.

        Args:
            turn: filled as it is written: what is there when the turn is broken off can still be read.
            on_event: called with each event and the number of tokens read of its round.

        Raises:
            BackendFault: the server can't be reached. What befalls it later is the episode's `error`.
        """
        await self.backend.connect()  # while the user wrote, the old connection may have ended, or the server
        task = Task(conversation.question(turn.question))
        # Each turn draws from seeds of its own; the first from those of a lone episode (`run_episodes`).
        running = RunningEpisode(task, self.protocol, self.tokenizer, self.sampling, seed_key=len(conversation.turns))
        counted = CountedTokens(self.backend)
        async with aclosing(stream_episode(running, counted, self.tokenizer, self.protocol)) as events:
            async for event in events:
                turn.take(event)
                on_event(event, counted.tokens)
        if turn.whole:
            conversation.turns.append(turn)
