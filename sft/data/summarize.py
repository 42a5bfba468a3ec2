"""Summarizes the segments of a trace one after the other, for many traces concurrently."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sft.data.checks import is_answer, problem_of, stated_answers
from sft.data.journal import Draw, Journal
from sft.data.settings import SummarizerSettings

_OPENING = """You keep the notes of somebody who solves a long problem in several sittings. At the end of a sitting \
all of its text is thrown away. Your notes are all that the next sitting starts from, beside the problem itself."""

_TASK = """Write the notes for the next sitting, which replace all earlier notes. Put down what has been established, \
with every value, formula and definition that is still needed; what was tried and did not work; and what was about to \
be done. Only what the text supports: work nothing out, and do not finish the solution or state a final answer. Write \
in the language of the sitting, without headings or remarks about yourself, in at most {words} words."""


class DroppedTrace(ValueError):
    """A trace can't be used; the message is the reason under which it is counted."""


class Refused(Exception):
    """The summarizer will not answer this request, even on a retry; the message is the reason to be counted."""


class Failed(Exception):
    """This draw failed; another one may succeed. The message is the reason to be counted."""


@dataclass(frozen=True)
class Request:
    """One summary to be written."""

    question: str
    previous: str | None  # the last summary; None: the first segment, or `sees: all`
    segment: str  # with `sees: all`, all segments up to this one
    seed: int  # of this draw; derived from the trace, so it does not depend on concurrent requests
    sees: str = "last"

    def messages(self, summary_tokens: int) -> list[dict[str, str]]:
        """Returns the chat messages for a general model."""
        parts = [_OPENING, "The problem:", self.question]
        if self.previous is not None:
            parts += ["The notes that this sitting started from:", self.previous]
        sitting = "All sittings so far" if self.sees == "all" else "The sitting"
        parts += [f"{sitting}, up to where it broke off:", self.segment]
        parts.append(_TASK.format(words=max(1, summary_tokens // 2)))  # a word is more than a token
        return [{"role": "user", "content": "\n\n".join(parts)}]  # some templates do not support a system message


class Writer(Protocol):
    """The backend that writes summaries: a server, an engine, a function."""

    identity: str  # everything besides the request that determines its answers
    varies: bool  # another seed may give another answer

    async def write(self, request: Request, key: str) -> Draw:
        """Returns one answer. `key` names the request in the server's log.

        Raises:
            Refused, Failed: this request failed.
            UserError: the summarizer is not available; the stage stops.
        """

    def under_way(self) -> tuple[int, int]:
        """Returns the tokens read and written for unfinished answers, if known."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Summary:
    """A summary that passed its checks."""

    text: str
    tokens: int  # by the target model's tokenizer
    draws: int  # 1: the first one was good


class Summaries:
    """Draws, checks and stores summaries, with at most `concurrency` running requests.

    Args:
        count_tokens: by the target model's tokenizer.
        summary_tokens: gamma.
    """

    def __init__(
        self,
        writer: Writer,
        journal: Journal,
        settings: SummarizerSettings,
        count_tokens: Callable[[str], int],
        summary_tokens: int,
        concurrency: int,
        seed: int,
    ):
        self.writer, self.journal, self.settings, self.seed = writer, journal, settings, seed
        self.count_tokens, self.summary_tokens = count_tokens, summary_tokens
        self.asked = self.kept = self.prompt_tokens = self.completion_tokens = 0  # of this process
        self._turn = asyncio.Semaphore(concurrency)

    def tokens(self) -> tuple[int, int]:
        """Returns the tokens read and written by the summarizer, including running requests."""
        read, written = self.writer.under_way()
        return self.prompt_tokens + read, self.completion_tokens + written

    async def of_trace(
        self, key: str, question: str, answer: str | None, segments: list[tuple[str, int]]
    ) -> list[Summary]:
        """Returns summaries of all segments but the last, each from its predecessor: len(segments) - 1 of them.

        Args:
            key: key of the trace.
            segments: (unchanged text of the trace, tokens).

        Raises:
            DroppedTrace: no good summary in `max_draws` draws.
        """
        done: list[Summary] = []
        sees_all = self.settings.sees == "all"
        for index, (raw, tokens) in enumerate(segments[:-1]):
            segment = raw.strip("\n")
            seen = "".join(text for text, _ in segments[: index + 1]).strip("\n") if sees_all else segment
            previous = done[-1].text if done and not sees_all else None
            request = Request(question, previous, seen, 0, self.settings.sees)
            done.append(await self._good_one(f"{key}/{index}", request, segment, tokens, answer))
        return done

    async def _good_one(
        self, key: str, request: Request, segment: str, segment_tokens: int, answer: str | None
    ) -> Summary:
        """Returns the first draw without a problem; each draw uses a different seed.

        A deterministic summarizer is asked until it gives the same answer twice.
        """
        problem, before = "", None
        for number in range(self.settings.max_draws):
            digest = hashlib.sha256(f"{self.seed}/{key}/{number}".encode()).digest()
            try:
                draw = await self._draw(replace(request, seed=int.from_bytes(digest[:4]) >> 1))
            except Refused as error:
                raise DroppedTrace(f"summary: {error}") from error
            except Failed as error:
                problem = str(error)
                continue
            if draw == before and not self.writer.varies:
                break
            before, text = draw, draw.text.strip()
            tokens = self.count_tokens(text)
            problem = "over its limit"
            if draw.finished:
                checks, most = self.settings.checks, self.summary_tokens
                problem = problem_of(text, tokens, most, segment, segment_tokens, checks)
                problem = problem or await self._leak(text, answer)
            if not problem:
                return Summary(text, tokens, number + 1)
        raise DroppedTrace(f"summary: {problem}")

    async def _leak(self, text: str, answer: str | None) -> str:
        """Runs the check "answer", which may take a while."""
        if answer is None or "answer" not in self.settings.checks:
            return ""
        stated = stated_answers(text)
        return "gives the final answer" if stated and await asyncio.to_thread(is_answer, stated, answer) else ""

    async def _draw(self, request: Request) -> Draw:
        parts = [self.writer.identity, request.messages(self.summary_tokens), request.seed]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        draw = self.journal.get(key)
        if draw is not None:
            self.kept += 1
            return draw
        async with self._turn:
            draw = await self.writer.write(request, key)
        draw = self.journal.put(key, draw)
        self.asked += 1
        self.prompt_tokens += draw.prompt_tokens
        self.completion_tokens += draw.completion_tokens
        return draw
