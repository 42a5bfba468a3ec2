"""Who writes summaries: an OpenAI-compatible server, an engine in this process, or a Python function."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from rollout.types import Engine, Sampling
from sft.journal import Draw
from sft.settings import SummarizerSettings
from sft.summarize import Failed, Refused, Request

_MOST_FAILURES = 20  # of a function in a row: then it is the function, not the data


class ServerWriter:
    """Chat completions of a server. A server that is down, busy or restarting is waited for.

    Args:
        say: shows one line to the user.
    """

    def __init__(self, settings: SummarizerSettings, summary_tokens: int, say: Callable[[str], None] = print):
        from openai import AsyncOpenAI

        self.settings, self.summary_tokens, self.say = settings, summary_tokens, say
        self.identity = _identity(settings, summary_tokens, settings.settings)
        key = os.environ.get(settings.api_key_env) or "none"
        self._client = AsyncOpenAI(base_url=settings.url, api_key=key, timeout=settings.timeout, max_retries=2)
        self._answered = time.monotonic()
        self._waiting = False

    async def write(self, request: Request, key: str) -> Draw:
        import openai

        settings = self.settings
        wait = 1.0
        while True:
            try:
                answer = await self._client.chat.completions.create(
                    model=settings.model,
                    messages=request.messages(self.summary_tokens),
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    max_tokens=_max_tokens(settings, self.summary_tokens),
                    seed=request.seed,
                    extra_body=settings.settings or None,
                    extra_headers={"X-Request-Id": key},
                )
                break
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                raise Refused(f"refused with status {error.status_code}") from error
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                self._wait_or_stop(error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, 15.0)
            except openai.APIStatusError as error:
                raise ValueError(
                    f"summarizer.url {settings.url} answers with status {error.status_code}: "
                    f"{' '.join(str(error.message).split())[:300]} (check url, model and ${settings.api_key_env})"
                ) from error
        self._answered, self._waiting = time.monotonic(), False
        return _read(answer)

    def _wait_or_stop(self, error: Exception) -> None:
        """Says once that nobody answers; stops when that has lasted for `patience` seconds."""
        silent = time.monotonic() - self._answered
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if silent > self.settings.patience:
            raise RuntimeError(
                f"summarizer.url {self.settings.url} has not answered for {silent:.0f} s ({why}); what is finished is "
                "kept: start the server and give the same command again"
            ) from error
        if not self._waiting:
            self._waiting = True
            self.say(f"data: waiting for {self.settings.url} ({why}), {self.settings.patience:.0f} s at most")

    async def close(self) -> None:
        await self._client.close()


def _read(answer: Any) -> Draw:
    """The text after the thinking of a chat completion, and what it cost."""
    usage = answer.usage
    tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    if not answer.choices:
        return Draw("", True, *tokens)
    choice = answer.choices[0]
    text = (choice.message.content or "").rpartition("</think>")[2]
    return Draw(text, choice.finish_reason != "length", *tokens)


class EngineWriter:
    """An `Engine` in this process, on a thread of its own: it steps while requests come and go.

    Args:
        tokenizer: the summariser's own, with its chat template.
    """

    def __init__(self, engine: Engine, tokenizer: Any, settings: SummarizerSettings, summary_tokens: int):
        self.engine, self.tokenizer, self.settings, self.summary_tokens = engine, tokenizer, settings, summary_tokens
        self.identity = _identity(settings, summary_tokens, {})
        self._inbox: queue.Queue[tuple[list[int], Sampling, asyncio.Future] | None] = queue.Queue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._step, daemon=True, name="summariser")
        self._thread.start()

    async def write(self, request: Request, key: str) -> Draw:
        settings = self.settings
        prompt = self._prompt(request.messages(self.summary_tokens))
        limit = _max_tokens(settings, self.summary_tokens)
        sampling = Sampling(limit, settings.temperature, settings.top_p, seed=request.seed)
        future = self._loop.create_future()
        self._inbox.put((prompt, sampling, future))
        completion = await future
        if completion.finish_reason == "error":
            raise Refused("refused by the engine: the request does not fit it")
        text = self.tokenizer.decode(completion.token_ids, skip_special_tokens=True).rpartition("</think>")[2]
        return Draw(text, completion.finish_reason == "stop", len(prompt), len(completion.token_ids))

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _step(self) -> None:
        """Takes what is in the inbox, then lets the engine run until something ends; and again."""
        waiting: dict[int, asyncio.Future] = {}
        number = 0
        try:
            while True:
                while not waiting or not self._inbox.empty():
                    entry = self._inbox.get()
                    if entry is None:
                        return
                    prompt, sampling, future = entry
                    self.engine.submit(number, prompt, sampling)
                    waiting[number] = future
                    number += 1
                for completion in self.engine.poll():
                    self._loop.call_soon_threadsafe(_set, waiting.pop(completion.request_id), completion)
        except Exception as error:  # whatever broke the engine: those who wait must hear of it
            for future in waiting.values():
                self._loop.call_soon_threadsafe(_fail, future, RuntimeError(f"the summariser's engine broke: {error}"))

    async def close(self) -> None:
        self._inbox.put(None)
        close = getattr(self.engine, "close", None)
        if close:
            await asyncio.to_thread(self._thread.join)
            close()


def _set(future: asyncio.Future, result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class FunctionWriter:
    """A user's function, plain or async. Plain ones run in threads where more than one call is to be under way."""

    def __init__(self, function: Callable[..., Any], name: str, concurrency: int):
        self.function, self.identity = function, json.dumps({"fn": name})
        self._is_async = inspect.iscoroutinefunction(function)
        self._threads = concurrency > 1
        self._failures = 0  # in a row

    async def write(self, request: Request, key: str) -> Draw:
        arguments = request.question, request.previous, request.segment
        try:
            if self._is_async:
                text = await self.function(*arguments)
            elif self._threads:
                text = await asyncio.to_thread(self.function, *arguments)
            else:
                text = self.function(*arguments)
            if not isinstance(text, str):
                raise TypeError(f"it returned {type(text).__name__}, not str")
        except Exception as error:  # a user's code: one bad trace is data, a broken function is not
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise RuntimeError(
                    f"summarizer.fn failed {self._failures} times in a row, last with {type(error).__name__}: {error}"
                ) from error
            raise Failed(f"the function raised {type(error).__name__}") from error
        self._failures = 0
        return Draw(text)

    async def close(self) -> None:
        pass


def _max_tokens(settings: SummarizerSettings, summary_tokens: int) -> int:
    return settings.max_tokens or 2 * summary_tokens


def _identity(settings: SummarizerSettings, summary_tokens: int, further: dict[str, Any]) -> str:
    """All that an answer depends on, but for the request; not the address: a server may move."""
    limits = [_max_tokens(settings, summary_tokens), summary_tokens]
    return json.dumps([settings.model, settings.temperature, settings.top_p, limits, further], sort_keys=True)
