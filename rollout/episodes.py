"""The episode loop: every episode goes on as soon as its own last round ends.

Task -> prompt ids -> Engine.submit -> Engine.poll -> parse -> next round or Episode
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rollout.protocol import RoundProtocol
from rollout.types import Completion, Engine, Episode, Sampling, Segment, StopReason, Task


class _Running:
    """An episode under way."""

    def __init__(self, index: int, task: Task):
        self.index, self.task = index, task
        self.segments: list[Segment] = []
        self.history: str | list[int] | None = None
        self.question_ids: list[int] = []
        self.prompt_ids: list[int] = []
        self.started = time.perf_counter()

    def finish(self, reason: StopReason, error: str | None = None) -> Episode:
        return Episode(
            question=self.task.question,
            answer=self.task.answer,
            group_id=self.task.group_id,
            segments=self.segments,
            stop_reason=reason,
            columns=dict(self.task.columns),
            error=error,
            seconds=time.perf_counter() - self.started,
        )


def run_episodes(
    tasks: Sequence[Task],
    engine: Engine,
    protocol: RoundProtocol,
    tokenizer: Any,
    sampling: Sampling,
    on_episode: Callable[[int, Episode], None] | None = None,
) -> list[Episode]:
    """Rolls out one episode per task and returns them in the order of `tasks`.

    Args:
        sampling: bounds each round by `max_tokens`. With a seed, every round of every episode gets a seed of its
            own, so the result does not depend on the order in which requests end.
        on_episode: called with (index, episode) as each episode ends, for progress and storage.

    An episode that the engine can't serve ends as FAILED with its reason; the others go on.
    """
    running: dict[int, _Running] = {}
    done: dict[int, Episode] = {}
    next_id = 0

    def finish(run: _Running, reason: StopReason, error: str | None = None) -> None:
        done[run.index] = run.finish(reason, error)
        if on_episode is not None:
            on_episode(run.index, done[run.index])

    def submit(run: _Running) -> None:
        nonlocal next_id
        round_sampling = sampling
        if sampling.seed is not None:
            key = f"{sampling.seed}/{run.index}/{len(run.segments)}".encode()
            round_sampling = replace(sampling, seed=zlib.crc32(key))
        try:
            if not run.segments:  # templates are slow: once an episode, not once a round
                run.question_ids = protocol.question_ids(tokenizer, run.task.question)
            run.prompt_ids = run.question_ids + protocol.history_ids(tokenizer, run.history)
            engine.submit(next_id, run.prompt_ids, round_sampling)
        except (ValueError, TypeError, KeyError) as error:  # a question or a prompt that the template or engine refuses
            finish(run, StopReason.FAILED, f"round {len(run.segments) + 1} not accepted: {error}")
            return
        running[next_id] = run
        next_id += 1

    for index, task in enumerate(tasks):
        submit(_Running(index, task))
    while running:
        for completion in engine.poll():
            run = running.pop(completion.request_id, None)
            if run is None:
                continue  # a request of an earlier, abandoned call
            reason, error = _take(run, completion, protocol, tokenizer)
            if reason is None:
                submit(run)
            else:
                finish(run, reason, error)
    return [done[index] for index in range(len(tasks))]


def _take(
    run: _Running, completion: Completion, protocol: RoundProtocol, tokenizer: Any
) -> tuple[StopReason | None, str | None]:
    """Adds one round to its episode. Returns why the episode ends, or None when it goes on."""
    if completion.finish_reason == "error":
        return StopReason.FAILED, completion.error or "the engine gave no reason"
    text = _decode(tokenizer, completion)
    turn = protocol.parse(text)
    run.segments.append(
        Segment(
            prompt_ids=run.prompt_ids,
            completion_ids=list(completion.token_ids),
            logprobs=completion.logprobs,
            text=text,
            finish_reason=completion.finish_reason,
            turn=turn,
            summary_tokens=_count_summary(tokenizer, completion.token_ids, turn.summary) if turn.summary else 0,
            policy_steps=completion.policy_steps,
        )
    )
    last = len(run.segments) >= protocol.max_rounds
    if completion.finish_reason == "length":
        if protocol.name != "delethink":
            return StopReason.TRUNCATED, None
        first = run.segments[0].completion_ids if len(run.segments) > 1 else []
        run.history = protocol.carry(completion.token_ids, first)
        return (StopReason.MAX_ROUNDS if last else None), None
    if turn.kind == "conclusion":
        return StopReason.ANSWERED, None
    if turn.kind == "malformed":
        # A delethink chunk may hold only the end of the thinking: what matters is that it stopped by itself.
        return (StopReason.ANSWERED if protocol.name == "delethink" else StopReason.MALFORMED), None
    run.history = turn.summary
    return (StopReason.MAX_ROUNDS if last else None), None


def _count_summary(tokenizer: Any, ids: list[int], summary: str) -> int:
    """Tokens that the model wrote between its summary tags; of the text, where a tag is not one token."""
    opening, closing = tokenizer.convert_tokens_to_ids(["<summary>", "</summary>"])
    if opening in ids and closing in ids:
        return ids.index(closing) - ids.index(opening) - 1
    return len(tokenizer.encode(summary, add_special_tokens=False))


def _decode(tokenizer: Any, completion: Completion) -> str:
    """Text of a completion with its special tokens, less the end token that the model wrote."""
    ids = completion.token_ids
    if completion.finish_reason == "stop" and ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
