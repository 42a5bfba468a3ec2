"""The named types of a rollout. Task -> (prompt -> Completion -> Segment)* -> Episode."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

Question = str | list[dict[str, Any]]
"""A question: plain text, or chat messages."""


def question_text(question: Question) -> str:
    """Returns a question as one text, without the roles of its messages."""
    return question if isinstance(question, str) else "\n".join(str(message.get("content")) for message in question)


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"  # the last round wrote a conclusion and its end token
    MAX_ROUNDS = "max_rounds"  # round phi ended in a summary
    MALFORMED = "malformed"  # a round ended by itself but could not be parsed
    TRUNCATED = "truncated"  # a round reached its token limit, without an end token
    FAILED = "failed"  # the engine gave no usable result; `Episode.error` has the reason


@dataclass(frozen=True)
class Turn:
    """The parsed text of one round (see `RoundProtocol.parse`)."""

    kind: Literal["summary", "conclusion", "malformed"]
    think: str | None = None
    summary: str | None = None
    conclusion: str | None = None
    fault: str | None = field(default=None, compare=False)  # why it is malformed: one of `protocol.FAULTS`


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of one engine call. `max_tokens` bounds one round, not the episode."""

    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: off
    min_p: float = 0.0
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()  # tokens that end it in addition to eos; the output ends with the one that did
    banned_ids: tuple[int, ...] = ()  # tokens that are never sampled
    repetition_penalty: float = 1.0  # divides the logits of tokens already in prompt and output; 1: off
    further: tuple[tuple[str, Any], ...] = ()  # settings by the engine's own names; they override all others


@dataclass(frozen=True)
class Completion:
    """An engine's answer to one request."""

    request_id: int
    token_ids: list[int]  # [T], with the end token when the model wrote one
    logprobs: list[float] | None  # [T], log-probability of each token under the sampling distribution
    finish_reason: Literal["stop", "length", "error"]
    error: str | None = None  # the reason, if finish_reason is "error"
    policy_steps: tuple[int, int] | None = None  # oldest and newest weights that may have sampled it (`Segment`)


class Engine(Protocol):
    """Anything that generates: the episode loop needs two methods.

    An engine whose weights are a copy of the policy also has `sync_weights(named_tensors)`; the trainer calls it
    after every optimizer step. One that serves several callers at once has `channel() -> Engine`, and one that tracks
    which weights sampled each completion has `announce(step)`, called before each sync. `close()` frees its
    resources. All of these are optional.
    """

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        """Queues one request."""

    def poll(self) -> list[Completion]:
        """Waits until at least one request has finished and returns all finished ones."""


def close_engine(engine: Engine) -> None:
    """Frees an engine's resources, if it has any."""
    getattr(engine, "close", lambda: None)()


@dataclass(frozen=True)
class Start:
    """What an episode is given in addition to its question. `Start()` is the same as none."""

    text: str | None = None  # put before the question, in every round
    history: str | None = None  # a summary that the first round continues from, as if this episode had written it
    opening: str | None = None  # the first output begins with it: not sampled, and no loss on it
    rounds: int = 0  # rounds done before: seeds and the round limit count on from here
    sources: tuple[int, ...] = ()  # numbers of the experiences that it was made from


@dataclass(frozen=True)
class Task:
    """One episode to roll out. Episodes of one question share `group_id`."""

    question: Question
    answer: Any = None
    group_id: int | str = 0
    columns: dict[str, Any] = field(default_factory=dict)
    seed_key: int | str | None = None  # its seeds are derived from it; None: its index among the tasks
    start: Start | None = None


@dataclass(frozen=True)
class Segment:
    """One round of an episode: one engine call, unless `rollout.interventions` force parts of it."""

    prompt_ids: list[int]  # [P]
    completion_ids: list[int]  # [T]
    logprobs: list[float] | None  # [T]
    text: str  # the completion without its end token
    finish_reason: str
    turn: Turn
    summary_tokens: int = 0  # tokens of the summary, without its tags
    policy_steps: tuple[int, int] | None = None  # optimizer steps of the weights that sampled it: oldest, newest
    given: int = 0  # number of completion_ids that were forced (`rollout.interventions`), with the opening
    opening: int = 0  # number of first completion_ids that were given (`Start.opening`); their logprobs are 0
    dropped: int = 0  # tokens that the model wrote and an intervention discarded


@dataclass
class Episode:
    """All rounds of one attempt at one question."""

    question: Question
    answer: Any
    group_id: int | str
    segments: list[Segment]
    stop_reason: StopReason
    columns: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0  # from the first submit to the last completion
    start: Start | None = None

    @property
    def final_text(self) -> str:
        """Text of the last round; empty without one."""
        return self.segments[-1].text if self.segments else ""

    @property
    def num_rounds(self) -> int:
        return len(self.segments)

    @property
    def num_tokens(self) -> int:
        """Generated tokens over all rounds."""
        return sum(len(s.completion_ids) - s.given + s.dropped for s in self.segments)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens over all rounds."""
        return sum(len(s.prompt_ids) for s in self.segments)

    @property
    def policy_steps(self) -> tuple[int, int] | None:
        """Optimizer steps of the oldest and newest weights that sampled it; None if the engine doesn't report them."""
        known = [s.policy_steps for s in self.segments if s.policy_steps is not None]
        return (min(first for first, _ in known), max(last for _, last in known)) if known else None

    @property
    def peak_context(self) -> int:
        """Maximum tokens (prompt and completion) of any round."""
        return max((len(s.prompt_ids) + len(s.completion_ids) for s in self.segments), default=0)
