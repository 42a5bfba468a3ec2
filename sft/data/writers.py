"""Summary writers other than a server (`sft.data.server_writer`): an engine in this process, or a Python function."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from rollout.errors import UserError
from rollout.plain_text import encode, mark_chat, mark_text
from rollout.types import Engine, Sampling, close_engine
from sft.data.journal import Draw
from sft.data.settings import SummarizerSettings
from sft.data.summarize import Failed, Refused, Request, Writer


class EngineWriter:
    """An `Engine` in this process, on its own thread: it steps while requests come and go.

    Args:
        tokenizer: the summarizer's own, with its chat template.
    """

    def __init__(self, engine: Engine, tokenizer: Any, settings: SummarizerSettings, summary_tokens: int):
        self.engine, self.tokenizer, self.settings, self.summary_tokens = engine, tokenizer, settings, summary_tokens
        self.identity, self.varies = settings.identity(summary_tokens, {}), settings.temperature > 0
        self._read = 0  # prompt tokens of running requests
        self._inbox: queue.Queue[tuple[list[int], Sampling, asyncio.Future] | None] = queue.Queue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._step, daemon=True, name="summarizer")
        self._thread.start()

    async def write(self, request: Request, key: str) -> Draw:
        settings = self.settings
        prompt = self._prompt(request.messages(self.summary_tokens))
        limit = settings.answer_tokens(self.summary_tokens)
        sampling = Sampling(limit, settings.temperature, settings.top_p, seed=request.seed)
        future = self._loop.create_future()
        self._inbox.put((prompt, sampling, future))
        self._read += len(prompt)
        try:
            completion = await future
        finally:
            self._read -= len(prompt)
        if completion.finish_reason == "error":
            raise Refused("refused by the engine: the request does not fit it")
        text = self.tokenizer.decode(completion.token_ids, skip_special_tokens=True).rpartition("</think>")[2]
        return Draw(text, completion.finish_reason == "stop", len(prompt), len(completion.token_ids))

    def under_way(self) -> tuple[int, int]:
        return self._read, getattr(self.engine, "under_way", 0)

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        if self.tokenizer.chat_template:
            return encode(self.tokenizer, mark_chat(self.tokenizer, messages))
        text = "\n\n".join(message["content"] for message in messages) + "\n\n"
        return encode(self.tokenizer, replace(mark_text(self.tokenizer, text), bare=True))

    def _step(self) -> None:
        """Submits all requests from the inbox, then runs the engine until one ends, in a loop."""
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
        except Exception as error:  # any error of the engine must reach current and later requests
            broken = f"the summarizer's engine failed: {type(error).__name__}: {error}"
            for future in waiting.values():
                self._loop.call_soon_threadsafe(_fail, future, UserError(broken))
            while (entry := self._inbox.get()) is not None:
                self._loop.call_soon_threadsafe(_fail, entry[2], UserError(broken))

    async def close(self) -> None:
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)
        close_engine(self.engine)


def _set(future: asyncio.Future, result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


class FunctionWriter:
    """A user's function, plain or async. Plain ones run in threads if `concurrency` is above 1.

    Args:
        most_failures: maximum consecutive failures, after which the function is considered broken, not the data.
    """

    def __init__(self, function: Callable[..., Any], name: str, concurrency: int, most_failures: int = 20):
        self.most_failures, self.varies = most_failures, False  # it gets no seed
        self.function, self.identity = function, json.dumps({"fn": name, "source": _source(function)})
        self._is_async = inspect.iscoroutinefunction(function)
        # Its own threads: asyncio has few (4 more than there are cores), and others need them.
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
                await asyncio.sleep(0)  # else Ctrl-C would wait for all ready traces
                text = self.function(*arguments)
            if not isinstance(text, str):
                raise TypeError(f"it returned {type(text).__name__}, not str")
        except Exception as error:  # user code: one bad trace is a data problem, a broken function is not
            self._failures += 1
            if self._failures >= self.most_failures:
                raise UserError(
                    f"summarizer.fn failed {self._failures} times in a row, last with {type(error).__name__}: {error}"
                ) from error
            raise Failed(f"the function raised {type(error).__name__}") from error
        self._failures = 0
        return Draw(text)

    def under_way(self) -> tuple[int, int]:
        return 0, 0

    def _call(self, *arguments: Any) -> Any:
        try:
            return self.function(*arguments)
        except StopIteration as error:  # a future can't store it, so its caller would wait forever
            raise RuntimeError("it raised StopIteration") from error

    async def close(self) -> None:
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _source(function: Callable[..., Any]) -> str:
    """Hashes a function's source, because an edited function writes different summaries."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):  # a callable object, or created at run time
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_writer(
    settings: SummarizerSettings, summary_tokens: int, say: Callable[[str], None], concurrency: int
) -> Writer | None:
    """Creates the writer that the settings name, or returns None without one; called in the event loop.

    Args:
        say: shows one line to the user.
        concurrency: maximum concurrent requests.
    """
    if settings.fn:
        from rollout.plugins import load_function

        most = 20 * settings.max_draws  # a function fails equally on each draw of a trace
        return FunctionWriter(load_function(settings.fn), settings.fn, concurrency, most)
    if settings.url:
        from sft.data.server_writer import ServerWriter

        return ServerWriter(settings, summary_tokens, say)
    if settings.engine:
        from transformers import AutoTokenizer

        from rollout.engines import make_engine

        engine = make_engine(settings.engine, model_path=settings.model, **settings.settings)
        return EngineWriter(engine, AutoTokenizer.from_pretrained(settings.model), settings, summary_tokens)
    return None
