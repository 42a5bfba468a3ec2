"""One episode without an engine: what to ask next, and what came. Every loop over rounds drives this one.

call() -> engine -> take() -> call() -> … -> episode()
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rollout.endings import further_ends
from rollout.protocol import RoundProtocol
from rollout.types import Completion, Episode, Sampling, Segment, StopReason, Task

if TYPE_CHECKING:
    from rollout.interventions import Asked, SteeredRound, Steering


@dataclass(frozen=True)
class Call:
    """What the episode waits for: a completion, or a summary of somebody else (`Steering.summariser`)."""

    prompt_ids: list[int]
    sampling: Sampling  # with the seed and the bounds of this call
    asked: Asked | None = None


class RunningEpisode:
    """An episode under way.

    Args:
        sampling: bounds each round by `max_tokens`; its `stop_ids` end a turn. With a seed, every round gets one of
            its own, made from it, from `seed_key` and the round's number: the result depends on nothing beside it.
        steering: breaks into rounds, for ablations; None: the model decides all.
        max_tokens: most generated tokens of the whole episode, which then ends as TRUNCATED.
    """

    def __init__(
        self,
        task: Task,
        protocol: RoundProtocol,
        tokenizer: Any,
        sampling: Sampling,
        seed_key: int | str = 0,
        *,
        steering: Steering | None = None,
        max_tokens: int | None = None,
    ):
        self.task, self.protocol, self.tokenizer = task, protocol, tokenizer
        stop_ids = dict.fromkeys((*sampling.stop_ids, *further_ends(tokenizer)))
        self.sampling = replace(sampling, stop_ids=tuple(stop_ids))
        self.ends = {tokenizer.eos_token_id, *self.sampling.stop_ids}
        self.seed_key, self.steering, self.max_tokens = seed_key, steering, max_tokens
        self.segments: list[Segment] = []
        self.stop_reason: StopReason | None = None
        self.error: str | None = None
        self._history: str | list[int] | None = None
        self._question_ids: list[int] = []
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._begin()

    def _begin(self) -> None:
        """An empty round."""
        self._prompt_ids: list[int] = []
        self._ids: list[int] = []
        self._calls = 0
        self._given = self._dropped = 0
        self._steered: SteeredRound | None = None

    @property
    def over(self) -> bool:
        return self.stop_reason is not None

    def call(self) -> Call:
        """The next engine call.

        Raises:
            ValueError, TypeError, KeyError: a question that the template refuses.
        """
        if not self._prompt_ids:
            if not self._question_ids:  # templates are slow: once an episode, not once a round
                self._question_ids = self.protocol.question_ids(self.tokenizer, self.task.question)
            self._prompt_ids = self._question_ids + self.protocol.history_ids(self.tokenizer, self._history)
            if self.steering is not None:
                self._steered = self.steering.round(self, self._prompt_ids)
        sampling = self.sampling
        asked = None
        if self._steered is not None:
            sampling, asked = self._steered.call(self._ids)
        if self.max_tokens is not None:
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self.max_tokens - self._generated))
        if sampling.seed is not None:
            key = f"{sampling.seed}/{self.seed_key}/{len(self.segments)}" + (f"/{self._calls}" if self._calls else "")
            sampling = replace(sampling, seed=zlib.crc32(key.encode()))
        return Call(self._prompt_ids + self._ids, sampling, asked)

    @property
    def _generated(self) -> int:
        """Tokens that the model has written so far."""
        done = sum(len(s.completion_ids) - s.given + s.dropped for s in self.segments)
        return done + len(self._ids) - self._given + self._dropped

    def take(self, completion: Completion) -> None:
        """Adds what the engine gave; the round, or the episode, may be over with it."""
        if completion.finish_reason == "error":
            self.fail(completion.error or "the engine gave no reason")
            return
        self._calls += 1
        self._ids += completion.token_ids
        if self._steered is None:
            self._end_round(completion, completion.finish_reason)
            return
        before = len(self._ids)
        keep, given = self._steered.after(self._ids, completion.finish_reason)
        self._ids = self._ids[:keep] + given
        self._given += len(given)
        self._dropped += before - keep
        if self._steered.over:
            self._end_round(completion, self._steered.finish_reason)

    def take_summary(self, text: str) -> None:
        """Adds a summary that somebody else has written."""
        given = self._steered.summary_ids(text)
        self._ids += given
        self._given += len(given)
        self._end_round(None, "stop")

    def text_of(self, ids: list[int], finish_reason: str | None = "stop") -> str:
        """Text of a round with its special tokens, less the end token that the model wrote."""
        ids = self.less_end(ids, finish_reason)
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def less_end(self, ids: list[int], finish_reason: str | None) -> list[int]:
        return ids[:-1] if finish_reason == "stop" and ids and ids[-1] in self.ends else ids

    def fail(self, error: str) -> None:
        """Ends it as FAILED, for this reason."""
        self._end(StopReason.FAILED)
        self.error = error

    def _end(self, reason: StopReason) -> None:
        self.stop_reason = reason
        self._seconds = time.perf_counter() - self._started

    def _end_round(self, completion: Completion | None, finish_reason: str) -> None:
        whole = completion is not None and completion.token_ids == self._ids  # one call, as the engine gave it
        text = self.text_of(self._ids, finish_reason)
        turn = self.protocol.parse(text)
        segment = Segment(
            prompt_ids=self._prompt_ids,
            completion_ids=self._ids,
            logprobs=completion.logprobs if whole else None,
            text=text,
            finish_reason=finish_reason,
            turn=turn,
            summary_tokens=_count_summary(self.tokenizer, self._ids, turn.summary) if turn.summary else 0,
            policy_steps=completion.policy_steps if whole else None,
            given=self._given,
            dropped=self._dropped,
        )
        self.segments.append(segment)
        self._begin()
        reason = self._after(segment)
        if reason is None and self.max_tokens is not None and self._generated >= self.max_tokens:
            reason = StopReason.TRUNCATED
        if reason is not None:
            self._end(reason)

    def _after(self, segment: Segment) -> StopReason | None:
        """Why the episode ends with this round, or None when it goes on."""
        delethink = self.protocol.name == "delethink"
        last = len(self.segments) >= self.protocol.max_rounds
        if segment.finish_reason == "length":
            if not delethink:
                return StopReason.TRUNCATED
            first = self.segments[0].completion_ids if len(self.segments) > 1 else []
            self._history = self.protocol.carry(segment.completion_ids, first)
            return StopReason.MAX_ROUNDS if last else None
        if segment.turn.kind == "conclusion":
            return StopReason.ANSWERED
        if segment.turn.kind == "malformed":
            # A delethink chunk may hold only the end of the thinking: what matters is that it stopped by itself.
            return StopReason.ANSWERED if delethink else StopReason.MALFORMED
        self._history = segment.turn.summary
        return StopReason.MAX_ROUNDS if last else None

    def episode(self) -> Episode:
        """The episode that has ended."""
        return Episode(
            question=self.task.question,
            answer=self.task.answer,
            group_id=self.task.group_id,
            segments=self.segments,
            stop_reason=self.stop_reason,
            columns=dict(self.task.columns),
            error=self.error,
            seconds=self._seconds,
        )


def _count_summary(tokenizer: Any, ids: list[int], summary: str) -> int:
    """Tokens that the model wrote between its summary tags; of the text, where a tag is not one token."""
    opening, closing = tokenizer.convert_tokens_to_ids(["<summary>", "</summary>"])
    if opening in ids and closing in ids:
        return ids.index(closing) - ids.index(opening) - 1
    return len(tokenizer.encode(summary, add_special_tokens=False))
