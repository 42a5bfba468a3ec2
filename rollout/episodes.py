"""The episode loop: every episode continues as soon as its own last round ends.

Task -> RunningEpisode -> call -> Engine.submit -> Engine.poll -> take -> next call or Episode
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rollout.endings import further_ends
from rollout.errors import InputError
from rollout.interventions import ForcedRound, Interventions, RoundStart, SummaryRequest
from rollout.plain_text import output_ids
from rollout.protocol import RoundProtocol, with_text
from rollout.types import Completion, Engine, Episode, Sampling, Segment, Start, StopReason, Task


def run_episodes(
    tasks: Sequence[Task],
    engine: Engine,
    protocol: RoundProtocol,
    tokenizer: Any,
    sampling: Sampling,
    on_episode: Callable[[int, Episode], None] | None = None,
    interventions: Interventions | None = None,
) -> list[Episode]:
    """Rolls out one episode per task and returns them in the order of `tasks`.

    Args:
        sampling: bounds each round by `max_tokens`. With a seed, every round of every episode gets its own seed, so
            the result does not depend on the order in which requests end.
        on_episode: called with (index, episode) when an episode ends, for progress and storage.
        interventions: force parts of rounds, for ablations; None: the model decides everything.

    An episode that the engine can't serve ends as FAILED with its reason; the others continue.
    """
    ends = tuple(end for end in getattr(engine, "ends", ()) if end != tokenizer.eos_token_id)
    sampling = replace(sampling, stop_ids=tuple(dict.fromkeys((*sampling.stop_ids, *ends))))
    running: dict[int, tuple[int, RunningEpisode]] = {}  # request -> (index, episode)
    asking: dict[int, tuple[int, RunningEpisode]] = {}  # waiting for the summarizer
    done: dict[int, Episode] = {}
    next_id = 0

    def go_on(index: int, run: RunningEpisode) -> None:
        """Submits the next call of an episode, or stores the episode if it is over."""
        nonlocal next_id
        if not run.over:
            try:
                call = run.call()
                if call.request is None:
                    engine.submit(next_id, call.prompt_ids, call.sampling)
                    running[next_id] = index, run
                else:
                    interventions.summarizer.submit(next_id, call.request)
                    asking[next_id] = index, run
                next_id += 1
                return
            except (ValueError, TypeError, KeyError) as error:  # the template or the engine refuses it
                run.fail(f"round {len(run.segments) + 1} not accepted: {error}")
        done[index] = run.episode()
        if on_episode is not None:
            on_episode(index, done[index])

    for index, task in enumerate(tasks):
        key = index if task.seed_key is None else task.seed_key
        go_on(index, RunningEpisode(task, protocol, tokenizer, sampling, key, interventions=interventions))
    while running or asking:
        for completion in engine.poll() if running else []:
            if completion.request_id not in running:
                continue  # a request of an earlier, abandoned call
            index, run = running.pop(completion.request_id)
            run.take(completion)
            go_on(index, run)
        for request_id, text, error in interventions.summarizer.poll(wait=not running) if asking else []:
            index, run = asking.pop(request_id)
            if text is None:
                run.fail(f"round {len(run.segments) + 1} has no summary: {error}")
            else:
                run.take_summary(text)
            go_on(index, run)
    return [done[index] for index in range(len(tasks))]


@dataclass(frozen=True)
class Call:
    """The next request of an episode: for a completion, or for a summary by `Interventions.summarizer`."""

    prompt_ids: list[int]
    sampling: Sampling  # with the seed and the bounds of this call
    request: SummaryRequest | None = None


class RunningEpisode:
    """The state of one unfinished episode, independent of the engine: the next request, and the tokens so far. Every
    loop over rounds drives it: call() -> engine -> take() -> call() -> … -> episode().

    Args:
        sampling: bounds each round by `max_tokens`; its `stop_ids` end a turn. With a seed, every round gets its own
            seed, derived only from it, from `seed_key` and from the round's number, so the result is reproducible.
        interventions: force parts of rounds, for ablations; None: the model decides everything.
        max_tokens: maximum generated tokens of the whole episode, which then ends as TRUNCATED.

    Raises:
        InputError: the task starts from a summary (`Start.history`), and this protocol has none.
    """

    def __init__(
        self,
        task: Task,
        protocol: RoundProtocol,
        tokenizer: Any,
        sampling: Sampling,
        seed_key: int | str = 0,
        *,
        interventions: Interventions | None = None,
        max_tokens: int | None = None,
    ):
        self.task, self.protocol, self.tokenizer = task, protocol, tokenizer
        stop_ids = dict.fromkeys((*sampling.stop_ids, *further_ends(tokenizer)))
        self.sampling = replace(sampling, stop_ids=tuple(stop_ids))
        self.ends = {tokenizer.eos_token_id, *self.sampling.stop_ids}
        self.seed_key, self.interventions, self.max_tokens = seed_key, interventions, max_tokens
        self.segments: list[Segment] = []
        self.stop_reason: StopReason | None = None
        self.error: str | None = None
        self._start = task.start or Start()
        if self._start.history is not None and protocol.name != "inftythink":
            raise InputError(f"the {protocol.name} protocol has no summaries, so no episode can start from one")
        self._history: str | list[int] | None = self._start.history
        self._question_ids: list[int] = []
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._begin()

    def _begin(self) -> None:
        """Resets the state to an empty round."""
        self._prompt_ids: list[int] = []
        self._ids: list[int] = []
        self._calls = 0
        self._opening = self._given = self._dropped = 0
        self._forced: ForcedRound | None = None

    @property
    def over(self) -> bool:
        return self.stop_reason is not None

    def call(self) -> Call:
        """Returns the next engine call.

        Raises:
            ValueError, TypeError, KeyError: the template refuses the question.
        """
        if not self._prompt_ids:
            if not self._question_ids:  # templates are slow: once per episode, not once per round
                question = with_text(self.task.question, self._start.text)
                self._question_ids = self.protocol.question_ids(self.tokenizer, question)
            self._prompt_ids = self._question_ids + self.protocol.history_ids(self.tokenizer, self._history)
            if self._start.opening and not self.segments:
                self._ids = output_ids(self.tokenizer, self._start.opening, self.ends)
                self._opening = self._given = len(self._ids)
            if self.interventions is not None:
                self._forced = self.interventions.begin(self._round_start())
        sampling = self.sampling
        request = None
        if self._forced is not None:
            sampling, request = self._forced.call(self._ids)
        elif self._opening:
            sampling = replace(sampling, max_tokens=max(1, sampling.max_tokens - self._opening))
        if self.max_tokens is not None:
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self.max_tokens - self._generated))
        if sampling.seed is not None:
            round_index = self._start.rounds + len(self.segments)
            key = f"{sampling.seed}/{self.seed_key}/{round_index}" + (f"/{self._calls}" if self._calls else "")
            sampling = replace(sampling, seed=zlib.crc32(key.encode()))
        return Call(self._prompt_ids + self._ids, sampling, request)

    def _round_start(self) -> RoundStart:
        return RoundStart(
            self.task.question,
            self._prompt_ids,
            self.segments,
            self.protocol,
            self.tokenizer,
            self.sampling,
            self.seed_key,
            self._start.history,
        )

    @property
    def _generated(self) -> int:
        """Tokens that the model has generated so far."""
        done = sum(len(s.completion_ids) - s.given + s.dropped for s in self.segments)
        return done + len(self._ids) - self._given + self._dropped

    def take(self, completion: Completion) -> None:
        """Adds the engine's completion, which may end the round or the episode."""
        if completion.finish_reason == "error":
            self.fail(completion.error or "the engine gave no reason")
            return
        self._calls += 1
        self._ids += completion.token_ids
        if self._forced is None:
            self._end_round(completion, completion.finish_reason)
            return
        before = len(self._ids)
        keep, given = self._forced.after(self._ids, completion.finish_reason)
        self._ids = self._ids[:keep] + given
        self._given += len(given)
        self._dropped += before - keep
        if self._forced.over:
            self._end_round(completion, self._forced.finish_reason)

    def take_summary(self, text: str) -> None:
        """Adds a summary by `Interventions.summarizer`."""
        given = self._forced.summary_ids(text)
        self._ids += given
        self._given += len(given)
        self._end_round(None, "stop")

    def text_of(self, ids: list[int], finish_reason: str | None = "stop") -> str:
        """Decodes a round with its special tokens, without the end token that the model wrote."""
        ids = self.less_end(ids, finish_reason)
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def less_end(self, ids: list[int], finish_reason: str | None) -> list[int]:
        return ids[:-1] if finish_reason == "stop" and ids and ids[-1] in self.ends else ids

    def fail(self, error: str) -> None:
        """Ends the episode as FAILED, with `error` as the reason."""
        self._end(StopReason.FAILED)
        self.error = error

    def _end(self, reason: StopReason) -> None:
        self.stop_reason = reason
        self._seconds = time.perf_counter() - self._started

    def _end_round(self, completion: Completion | None, finish_reason: str) -> None:
        whole = completion is not None and completion.token_ids == self._ids[self._opening :]  # one call, unchanged
        known = completion.logprobs if whole else None
        text = self.text_of(self._ids, finish_reason)
        turn = self.protocol.parse(text)
        segment = Segment(
            prompt_ids=self._prompt_ids,
            completion_ids=self._ids,
            logprobs=[0.0] * self._opening + known if known is not None else None,  # what is given has probability 1
            text=text,
            finish_reason=finish_reason,
            turn=turn,
            summary_tokens=_count_summary(self.tokenizer, self._ids, turn.summary) if turn.summary else 0,
            policy_steps=completion.policy_steps if whole else None,
            given=self._given,
            opening=self._opening,
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
        """Returns why the episode ends with this round, or None if it continues."""
        delethink = self.protocol.name == "delethink"
        last = self._start.rounds + len(self.segments) >= self.protocol.max_rounds
        if segment.finish_reason == "length":
            if not delethink:
                return StopReason.TRUNCATED
            first = self.segments[0].completion_ids if len(self.segments) > 1 else []
            self._history = self.protocol.carry(segment.completion_ids, first)
            return StopReason.MAX_ROUNDS if last else None
        if segment.turn.kind == "conclusion":
            return StopReason.ANSWERED
        if segment.turn.kind == "malformed":
            # A delethink chunk may contain only the end of the thinking: it only has to stop by itself.
            return StopReason.ANSWERED if delethink else StopReason.MALFORMED
        self._history = segment.turn.summary
        return StopReason.MAX_ROUNDS if last else None

    def episode(self) -> Episode:
        """Returns the finished episode."""
        return Episode(
            question=self.task.question,
            answer=self.task.answer,
            group_id=self.task.group_id,
            segments=self.segments,
            stop_reason=self.stop_reason,
            columns=dict(self.task.columns),
            error=self.error,
            seconds=self._seconds,
            start=self.task.start,
        )


def _count_summary(tokenizer: Any, ids: list[int], summary: str) -> int:
    """Counts the tokens between the model's summary tags, or of the text if a tag is not a single token."""
    opening, closing = tokenizer.convert_tokens_to_ids(["<summary>", "</summary>"])
    if opening in ids and closing in ids:
        return ids.index(closing) - ids.index(opening) - 1
    return len(tokenizer.encode(summary, add_special_tokens=False))
