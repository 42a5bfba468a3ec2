"""Interventions in rounds, for ablations: when a summary is written, who writes it, how long the model thinks.

The first two are questions of InftyThink+ (arXiv 2602.06960); budget forcing is from s1 (arXiv 2501.19393).
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rollout.endings import turn_end
from rollout.errors import InputError
from rollout.plain_text import encode, mark_text
from rollout.protocol import RoundProtocol
from rollout.types import Question, Sampling, Segment

_END, _SUMMARY = "</think>", "<summary>"
_WAIT = "Wait"  # s1's word to continue the thinking
ROOM = 8  # tokens in addition to a demanded summary's own: its closing tag and the end token


@dataclass(frozen=True)
class SummaryRequest:
    """A request to the summarizer for one summary, written in place of the model's."""

    question: Question
    previous: str | None  # the last summary; None: the first round
    thinking: str  # of this round
    round_text: str  # prompt and round so far, up to and including `<summary>`
    seed: int


class Summarizer(Protocol):
    """Writes summaries in place of the model."""

    identity: str  # everything besides the request that determines its answers

    def submit(self, request_id: int, request: SummaryRequest) -> None:
        """Queue one request."""

    def poll(self, wait: bool) -> list[tuple[int, str | None, str]]:
        """Return (request, summary, "") or (request, None, error) of finished requests; `wait`: for at least one."""


@dataclass(frozen=True)
class RoundStart:
    """The state in which a round starts."""

    question: Question
    prompt_ids: list[int]
    done: list[Segment]  # rounds before this one
    protocol: RoundProtocol
    tokenizer: Any
    sampling: Sampling  # of the episode: bounds the round by `max_tokens`
    seed_key: int | str
    history: str | None = None  # the summary that the first round continues from (`Start.history`)


@dataclass(frozen=True)
class Interventions:
    """Tokens that are forced instead of sampled.

    Args:
        summarize_at: "model" (it decides), "fixed:N" or "random:A-B": after N thinking tokens of a round, or a count
            drawn uniformly from A to B, the thinking is cut and a summary demanded. A round that ends earlier is not
            changed, nor is the last round, which needs an answer instead of a summary.
        min_thinking: least thinking tokens of an episode: an earlier end of the thinking is replaced by "Wait".
        max_thinking: thinking tokens of an episode after which the thinking is closed and the answer demanded.
        summarizer: writes every summary, including the demanded ones; None: the model itself.
    """

    summarize_at: str = "model"
    min_thinking: int = 0
    max_thinking: int | None = None
    summarizer: Summarizer | None = None

    def __post_init__(self):
        if not self.bounds and self.summarize_at != "model":
            raise InputError(
                f"summarize_at is {self.summarize_at!r}; it must be model, fixed:N or random:A-B with 1 <= A <= B, in "
                "tokens"
            )
        if self.max_thinking is not None and self.max_thinking < max(1, self.min_thinking):
            raise InputError(f"max_thinking is {self.max_thinking}; it must be at least 1 and at least min_thinking")

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Minimum and maximum thinking tokens of a round before it is cut; None if the model decides."""
        match = re.fullmatch(r"fixed:(\d+)|random:(\d+)-(\d+)", self.summarize_at)
        if not match:
            return None
        low, high = (int(match[1]),) * 2 if match[1] else (int(match[2]), int(match[3]))
        return (low, high) if 1 <= low <= high else None

    def begin(self, start: RoundStart) -> ForcedRound:
        """Starts the next round of an episode."""
        name = start.protocol.name
        if (self.bounds or self.summarizer) and name != "inftythink":
            raise InputError(f"the {name} protocol has no summaries: leave out summarize_at and summarizer")
        return ForcedRound(self, start)


class ForcedRound:
    """One round: `call` returns the next request, `after` processes the engine's tokens."""

    def __init__(self, rules: Interventions, start: RoundStart):
        self.rules, self.start = rules, start
        self.tokenizer, self.protocol, self.sampling = start.tokenizer, start.protocol, start.sampling
        self.most = start.sampling.max_tokens
        self.over, self.finish_reason = False, "stop"
        self._phase = "thinking"  # then: writing (the text after it), answering or summarizing (demanded), asking
        done = start.done
        self._spent = sum(self._thinking(s.completion_ids) for s in done)  # thinking tokens of earlier rounds
        if self.protocol.name == "delethink" and any(_END in s.text for s in done):
            self._phase = "writing"  # a chunk ended in the answer: this one continues it
        self._random = random.Random(f"{self.sampling.seed}/{start.seed_key}/{len(done)}")
        last = len(done) + 1 >= self.protocol.max_rounds
        self._cut = None if last or not rules.bounds else self._random.randint(*rules.bounds)
        token = self.tokenizer.convert_tokens_to_ids(_SUMMARY)
        self._summary_id = None if token == self.tokenizer.unk_token_id else token
        if rules.summarizer and self._summary_id is None:
            raise InputError("this tokenizer has no token <summary>, which eval.summarizer needs")

    def call(self, ids: list[int]) -> tuple[Sampling, SummaryRequest | None]:
        """Returns the sampling that continues the round from `ids`, and a request if the summarizer is next."""
        self._first, room = len(ids), self.most - len(ids)
        ends = self.sampling.stop_ids
        stop_ids = (*ends, self._summary_id) if self.rules.summarizer else ends
        banned_ids = ()
        if self._phase == "thinking":
            limits = [room, *self._before_cut(len(ids)), *self._before_end(len(ids))]
            room = min(limits)
        elif self._phase in ("answering", "summarizing"):  # demanded text may exceed the round's limit
            room, stop_ids = max(room, self.protocol.summary_tokens + ROOM), ends
            if self._phase == "answering" and self._summary_id is not None:
                banned_ids = (self._summary_id,)
        self._asked_for = max(1, room)
        sampling = replace(self.sampling, max_tokens=self._asked_for, stop_ids=stop_ids, banned_ids=banned_ids)
        return sampling, self._request(ids) if self._phase == "asking" else None

    def _before_cut(self, count: int) -> list[int]:
        return [] if self._cut is None else [self._cut - count]

    def _before_end(self, count: int) -> list[int]:
        most = self.rules.max_thinking
        return [] if most is None else [most - self._spent - count]

    def after(self, ids: list[int], finish_reason: str) -> tuple[int, list[int]]:
        """Returns how many of `ids` the round keeps, and the forced ids to append after them."""
        if finish_reason == "stop":
            return self._stopped(ids)
        cut_by_us = len(ids) - self._first == self._asked_for and len(ids) < self.most
        demanded = self._phase in ("answering", "summarizing")
        if self._phase == "thinking" and _END not in self._text(ids):
            if any(left <= 0 for left in self._before_end(len(ids))):
                return self._demand(ids, "answering")
            if any(left <= 0 for left in self._before_cut(len(ids))):
                return self._demand(ids, "asking" if self.rules.summarizer else "summarizing")
        if not cut_by_us or demanded:
            return self._end(ids, "length")
        self._phase = "writing"  # the cut fell after the thinking
        return len(ids), []

    def _stopped(self, ids: list[int]) -> tuple[int, list[int]]:
        if self.rules.summarizer and ids[-1] == self._summary_id:
            self._phase = "asking"
            return len(ids), []
        thinking = self._thinking(ids)
        free = self._phase in ("thinking", "writing") and _END in self._text(ids) and self.most - thinking > ROOM
        early = free and self._spent + thinking < self.rules.min_thinking
        if early and self.protocol.parse(self._text(self._without_end(ids))).kind == "conclusion":
            self._phase = "thinking"
            return thinking, self._encode(_WAIT)
        return self._end(ids, "stop")

    def _demand(self, ids: list[int], phase: str) -> tuple[int, list[int]]:
        """Closes the thinking, and opens the summary unless the answer is demanded."""
        self._phase = phase
        newline = "" if self._text(ids).endswith("\n") else "\n"
        return len(ids), self._encode(newline + _END + ("" if phase == "answering" else _SUMMARY))

    def _end(self, ids: list[int], finish_reason: str) -> tuple[int, list[int]]:
        self.over, self.finish_reason = True, finish_reason
        return len(ids), []

    def _request(self, ids: list[int]) -> SummaryRequest:
        done, text = self.start.done, self._text(ids)
        return SummaryRequest(
            question=self.start.question,
            previous=done[-1].turn.summary if done else self.start.history,
            thinking=text.partition(_END)[0].removeprefix("<think>").strip("\n"),
            round_text=self._text(self.start.prompt_ids + ids),
            seed=self._random.getrandbits(31),
        )

    def summary_ids(self, text: str) -> list[int]:
        """Returns the ids of the summarizer's text and the round's end, which follow `<summary>`."""
        written = encode(self.tokenizer, mark_text(self.tokenizer, text, "{}</summary>"))
        return [*written, turn_end(self.tokenizer, self.protocol.chat)]

    def _thinking(self, ids: list[int]) -> int:
        """Counts the tokens before the end of the thinking; all of them if it has no end."""
        place = self._text(ids).find(_END)
        if place < 0:
            return len(ids)
        return bisect_right(range(len(ids) + 1), place, key=lambda count: len(self._text(ids[:count]))) - 1

    def _without_end(self, ids: list[int]) -> list[int]:
        return ids[:-1] if ids and ids[-1] in (self.tokenizer.eos_token_id, *self.sampling.stop_ids) else ids

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)
