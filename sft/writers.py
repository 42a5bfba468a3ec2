"""Who writes summaries: an OpenAI-compatible server, an engine in this process, or a Python function."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rollout.types import Engine, Sampling
from sft.journal import Draw
from sft.settings import SummarizerSettings
from sft.summarize import Failed, Refused, Request

_MOST_FAILURES = 20  # of a function in a row, or refusals before any answer: then it is not the data
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
        self.identity = _identity(settings, summary_tokens, settings.settings)
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
                    max_tokens=_max_tokens(settings, self.summary_tokens),
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
            raise ValueError(
                f"summarizer.url {settings.url} does not answer as an OpenAI-compatible server does (most of their "
                "addresses end in /v1)"
            )
        self._answered, self._waiting = time.monotonic(), False
        return _read(answer)

    def _count_refusal(self, error: Any) -> None:
        """Stops where all is refused: then no trace is at fault, and none must be dropped."""
        self._refused += 1
        if self._refused >= _MOST_FAILURES and self._answered == -math.inf:
            raise self._misused(error) from error

    def _misused(self, error: Any) -> ValueError:
        settings = self.settings
        return ValueError(
            f"summarizer.url {settings.url} answers with status {error.status_code}: "
            f"{' '.join(str(error.message).split())[:300]} (check url, model and ${settings.api_key_env})"
        )

    def _wait_or_stop(self, error: Exception, started: float) -> None:
        """Says once that nobody answers; stops when that has lasted for `patience` seconds of a request."""
        now = time.monotonic()
        silent = now - max(started, self._answered)
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if silent > self.settings.patience:
            raise RuntimeError(
                f"summarizer.url {self.settings.url} has not answered for {silent:.0f} s ({why}); what is finished is "
                "kept: start the server and give the same command again"
            ) from error
        if not self._waiting and now - self._told > _TELL_AGAIN:  # a busy server answers in between
            self._waiting, self._told = True, now
            self.say(f"data: waiting for {self.settings.url} ({why}), {self.settings.patience:.0f} s at most")

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
                    prompt, sampling, waiting[number] = entry
                    self.engine.submit(number, prompt, sampling)
                    number += 1
                for completion in self.engine.poll():
                    self._loop.call_soon_threadsafe(_set, waiting.pop(completion.request_id), completion)
        except Exception as error:  # whatever broke the engine: those who wait, and who come later, must hear of it
            broken = f"the summariser's engine broke: {type(error).__name__}: {error}"
            for future in waiting.values():
                self._loop.call_soon_threadsafe(_fail, future, RuntimeError(broken))
            while (entry := self._inbox.get()) is not None:
                self._loop.call_soon_threadsafe(_fail, entry[2], RuntimeError(broken))

    async def close(self) -> None:
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        close = getattr(self.engine, "close", None)
        if close:
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
        # Threads of its own: asyncio's are few (4 more than there are cores), and others need them.
        self._threads = ThreadPoolExecutor(concurrency) if concurrency > 1 and not self._is_async else None
        self._failures = 0  # in a row

    async def write(self, request: Request, key: str) -> Draw:
        arguments = request.question, request.previous, request.segment
        try:
            if self._is_async:
                text = await self.function(*arguments)
            elif self._threads:
                text = await asyncio.get_running_loop().run_in_executor(self._threads, self._call, *arguments)
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

    def _call(self, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except StopIteration as error:  # no future can hold it: whoever waits would wait for ever
            raise RuntimeError("it raised StopIteration") from error

    async def close(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _max_tokens(settings: SummarizerSettings, summary_tokens: int) -> int:
    return settings.max_tokens or 2 * summary_tokens


def _identity(settings: SummarizerSettings, summary_tokens: int, further: dict[str, Any]) -> str:
    """All that an answer depends on, but for the request; not the address: a server may move."""
    limits = [_max_tokens(settings, summary_tokens), summary_tokens]
    return json.dumps([settings.model, settings.temperature, settings.top_p, limits, further], sort_keys=True)
