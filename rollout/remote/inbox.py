"""Collects results of an event loop in another thread for a caller that waits for them."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Inbox(Generic[Result]):
    """Results of coroutines that run in `loop`, in order of completion."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._done: queue.Queue[Result | BaseException] = queue.Queue()
        self._waiting = 0

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        """Starts a coroutine in the loop."""
        self._waiting += 1
        asyncio.run_coroutine_threadsafe(self._serve(coroutine), self._loop)

    async def _serve(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        try:
            self._done.put(await coroutine)
        except BaseException as error:  # any error must reach poll(), where the caller waits for it
            self._done.put(error)

    def poll(self, wait: bool = True) -> list[Result]:
        """Returns all results since the last call; `wait`: for at least one, if any coroutine is running.

        Raises the exception of a failed coroutine.
        """
        results: list[Result] = []
        while self._waiting and ((wait and not results) or not self._done.empty()):
            item = self._done.get()
            self._waiting -= 1
            if isinstance(item, BaseException):
                raise item
            results.append(item)
        return results
