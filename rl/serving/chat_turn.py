"""A conversation with a model that reasons in rounds: each turn is an episode over the conversation so far.

user's text -> Conversation.question -> stream_episode -> ChatTurn -> Conversation.turns
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rl.serving.backend import VLLMBackend
from rl.serving.stream import (
    AnswerText,
    Backend,
    Ended,
    Event,
    RoundStarted,
    SummaryText,
    ThinkingText,
    stream_episode,
)
from rollout.episodes import RunningEpisode
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Sampling, StopReason, Task


@dataclass
class RoundText:
    """The text of one round, as it was shown."""

    thinking: str = ""
    summary: str = ""


@dataclass
class ChatTurn:
    """One question and the model's rounds and answer."""

    question: str
    rounds: list[RoundText] = field(default_factory=list)
    answer: str = ""
    episode: Episode | None = None  # None: interrupted

    @property
    def whole(self) -> bool:
        """Whether it has an answer that the model ended itself."""
        ended = self.episode is not None and self.episode.stop_reason is StopReason.ANSWERED
        return ended and bool(self.answer.strip())

    def take(self, event: Event) -> None:
        match event:
            case RoundStarted():
                self.rounds.append(RoundText())
            case ThinkingText(text):
                self.rounds[-1].thinking += text
            case SummaryText(text):
                self.rounds[-1].summary += text
            case AnswerText(text):
                self.answer += text
            case Ended(episode):
                self.episode = episode


@dataclass
class Conversation:
    """Turns with a whole answer; only these go back into the prompt, without their thinking."""

    system: str | None = None
    turns: list[ChatTurn] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """Returns the chat messages of all turns."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            said += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer.strip()}]
        return said

    def question(self, text: str) -> list[dict[str, str]]:
        """Returns the chat messages that ask `text` after the conversation so far."""
        return [*self.messages(), {"role": "user", "content": text}]

    def record(self) -> dict[str, Any]:
        """Returns the conversation for JSON; `turns` has, for each answer, what the messages omit."""
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
    """A backend that counts the tokens of the current round."""

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
        sampling: `max_tokens` bounds a round; a round is also bounded by the room in the context.
        context: tokens of prompt and output together that the engine takes.
    """

    protocol: RoundProtocol
    tokenizer: Any
    sampling: Sampling
    backend: VLLMBackend
    context: int

    def room(self, question: list[dict[str, str]]) -> int:
        """Returns the tokens left in the context after this question; below 1: it does not fit.

        Raises:
            ValueError: the chat template rejects it.
        """
        return self.context - len(self.protocol.question_ids(self.tokenizer, question))

    async def answer(self, conversation: Conversation, turn: ChatTurn, on_event: Callable[[Event, int], None]) -> None:
        """Runs a turn to its end, and adds it to the conversation if it is whole.

        Args:
            turn: filled as the model writes, so an interrupted turn can still be read.
            on_event: called with each event and the number of tokens of its round so far.

        Raises:
            BackendFault: the server can't be reached. A later fault is the episode's `error`.
        """
        await self.backend.connect()  # the old connection or server may have ended while the user typed
        task = Task(conversation.question(turn.question))
        # Each turn has its own seeds; the first has those of a single episode (`run_episodes`).
        running = RunningEpisode(task, self.protocol, self.tokenizer, self.sampling, seed_key=len(conversation.turns))
        counted = CountedTokens(self.backend)
        async with aclosing(stream_episode(running, counted, self.tokenizer, self.protocol)) as events:
            async for event in events:
                turn.take(event)
                on_event(event, counted.tokens)
        if turn.whole:
            conversation.turns.append(turn)
