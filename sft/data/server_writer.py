"""Summaries from an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

from rollout.errors import InputError, UserError
from sft.data.journal import Draw
from sft.data.settings import SummarizerSettings
from sft.data.summarize import Refused, Request
from sft.data.writers import identity_of, most_tokens

_MOST_REFUSALS = 20  # before any answer: then it is not the data
_MOST_TRIES = 5  # failures of one request while others are answered: then it is the request, not the server
_TELL_AGAIN = 60.0  # seconds


class ServerWriter:
    """Chat completions of a server. A server that is down, busy or restarting is waited for.

    Args:
        say: shows one line to the user.
    """

    def __init__(self, settings: SummarizerSettings, summary_tokens: int, say: Callable[[str], None] = print):
        from openai import AsyncOpenAI

        self.settings, self.summary_tokens, self.say = settings, summary_tokens, say
        self.identity, self.varies = identity_of(settings, summary_tokens, settings.settings), settings.temperature > 0
        key = os.environ.get(settings.api_key_env) or "none"
        self._client = AsyncOpenAI(base_url=settings.url, api_key=key, timeout=settings.timeout, max_retries=2)
        self._answered = self._told = -math.inf
        self._waiting = False
        self._refused = 0

    async def write(self, request: Request, key: str) -> Draw:
        import openai
        from openai.types.chat import ChatCompletion

        settings = self.settings
        wait, tries = 1.0, 0
        started = failed = time.monotonic()
        while True:
            try:
                answer = await self._client.chat.completions.create(
                    model=settings.model,
                    messages=request.messages(self.summary_tokens),
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    max_tokens=most_tokens(settings, self.summary_tokens),
                    seed=request.seed,
                    extra_body=settings.settings or None,
                    extra_headers={"X-Request-Id": key},
                )
                break
            except UnicodeEncodeError as error:
                raise Refused("holds half a surrogate pair, which can't be sent") from error
            except json.JSONDecodeError:
                answer = None
                break
            except openai.APIError as error:
                status = getattr(error, "status_code", None)  # None: no connection, no answer in time
                if status in (400, 413, 422):
                    self._count_refusal(error)
                    raise Refused(f"refused with status {status}") from error
                if status is not None and status not in (408, 429) and status < 500:
                    raise self._misused(error) from error
                if status == 500 and self._answered > failed:
                    tries += 1
                    if tries == _MOST_TRIES:
                        raise Refused("the server fails on it with status 500") from error
                failed = time.monotonic()
                self._wait_or_stop(error, started)
                await asyncio.sleep(wait)
                wait = min(2 * wait, 15.0)
        if not isinstance(answer, ChatCompletion):
            raise InputError(
                f"summarizer.url {settings.url} does not answer as an OpenAI-compatible server does (most of their "
                "addresses end in /v1)"
            )
        self._answered, self._waiting = time.monotonic(), False
        return _read(answer)

    def _count_refusal(self, error: Any) -> None:
        """Stops where all is refused: then no trace is at fault, and none must be dropped."""
        self._refused += 1
        if self._refused >= _MOST_REFUSALS and self._answered == -math.inf:
            raise self._misused(error) from error

    def _misused(self, error: Any) -> InputError:
        settings = self.settings
        return InputError(
            f"summarizer.url {settings.url} answers with status {error.status_code}: "
            f"{' '.join(str(error.message).split())[:300]} (check url, model and ${settings.api_key_env})"
        )

    def _wait_or_stop(self, error: Exception, started: float) -> None:
        """Says once that nobody answers; stops when that has lasted for `patience` seconds of a request."""
        now = time.monotonic()
        silent = now - max(started, self._answered)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if silent > self.settings.patience:
            raise UserError(
                f"summarizer.url {self.settings.url} has not answered for {silent:.0f} s ({why}); what is finished is "
                "kept: start the server and give the same command again"
            ) from error
        if not self._waiting and now - self._told > _TELL_AGAIN:  # a busy server answers in between
            self._waiting, self._told = True, now
            self.say(f"data: waiting for {self.settings.url} ({why}), {self.settings.patience:.0f} s at most")

    def under_way(self) -> tuple[int, int]:
        return 0, 0  # the server tells with the answer

    async def close(self) -> None:
        await self._client.close()


def _read(answer: Any) -> Draw:
    """The text after the thinking of a chat completion, and what it cost."""
    usage = answer.usage
    tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    if not answer.choices:
        return Draw("", True, *tokens)
    choice = answer.choices[0]
    content = choice.message.content if choice.message else None
    return Draw((content or "").rpartition("</think>")[2], choice.finish_reason != "length", *tokens)
