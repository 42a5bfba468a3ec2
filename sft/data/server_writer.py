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

_MOST_REFUSALS = 20  # before any answer: more are not caused by the data
_MOST_RETRIES = 6  # by the client itself, 0.5 to 8 s apart: 23 s
_PAUSE = 1.0  # seconds before a new series of tries: the client does not retry if the server forbids it
_SAY_AGAIN = 300.0  # seconds


class ServerWriter:
    """Requests chat completions from a server. Waits for a server that is down, busy or restarting.

    Args:
        say: shows one line to the user.
    """

    def __init__(self, settings: SummarizerSettings, summary_tokens: int, say: Callable[[str], None] = print):
        from openai import AsyncOpenAI

        self.settings, self.summary_tokens, self.say = settings, summary_tokens, say
        self.identity, self.varies = settings.identity(summary_tokens, settings.settings), settings.temperature > 0
        key = os.environ.get(settings.api_key_env) or "none"
        retries = min(_MOST_RETRIES, int(settings.patience / settings.timeout))  # a hanging server: within patience
        self._client = AsyncOpenAI(base_url=settings.url, api_key=key, timeout=settings.timeout, max_retries=retries)
        self._answered = self._said = -math.inf
        self._refused = 0

    async def write(self, request: Request, key: str) -> Draw:
        import openai
        from openai.types.chat import ChatCompletion

        settings = self.settings
        started = time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                answer = await self._client.chat.completions.create(
                    model=settings.model,
                    messages=request.messages(self.summary_tokens),
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    max_tokens=settings.answer_tokens(self.summary_tokens),
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
                self._raise_if_hopeless(error, started, asked)
                await asyncio.sleep(_PAUSE)
        if not isinstance(answer, ChatCompletion):
            raise InputError(
                f"summarizer.url {settings.url} is not an OpenAI-compatible server (most of their addresses end in /v1)"
            )
        self._answered = time.monotonic()
        return _read(answer)

    def _raise_if_hopeless(self, error: Any, started: float, asked: float) -> None:
        """Raise unless a later retry may succeed.

        Args:
            started: time when the request was first sent.
            asked: time when the client's last series of tries began.
        """
        settings, now = self.settings, time.monotonic()
        status = getattr(error, "status_code", None)  # None: no connection, or a timeout
        refused = status in (400, 413, 422)
        self._refused += refused
        if refused and (self._refused < _MOST_REFUSALS or self._answered > -math.inf):
            raise Refused(f"refused with status {status}") from error
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if status is not None and status not in (408, 429) and status < 500:
            raise InputError(
                f"summarizer.url {settings.url} answers with status {status}: "
                f"{' '.join(str(error.message).split())[:300]} (check url, model and ${settings.api_key_env})"
            ) from error
        if status == 500 and self._answered > asked:  # others are answered: the request is the cause
            raise Refused("the server fails on it with status 500") from error
        silent = now - max(started, self._answered)
        if silent > settings.patience:
            raise UserError(
                f"summarizer.url {settings.url} has not answered for {silent:.0f} s ({why}); finished summaries "
                "are kept: start the server and run the same command again"
            ) from error
        if now - self._said > _SAY_AGAIN:
            self._said = now
            self.say(f"data: waiting for {settings.url} ({why}), {settings.patience:.0f} s at most")

    def under_way(self) -> tuple[int, int]:
        return 0, 0  # the server reports them only with the answer

    async def close(self) -> None:
        await self._client.close()


def _read(answer: Any) -> Draw:
    """Returns the text after the thinking of a chat completion, and its token counts."""
    usage = answer.usage
    tokens = (usage.prompt_tokens or 0, usage.completion_tokens or 0) if usage else (0, 0)
    if not answer.choices:
        return Draw("", True, *tokens)
    choice = answer.choices[0]
    content = choice.message.content if choice.message else None
    return Draw((content or "").rpartition("</think>")[2], choice.finish_reason != "length", *tokens)
