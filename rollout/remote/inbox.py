"""What an event loop in another thread has finished, for a caller that waits for it there."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Inbox(Generic[Result]):
    """Results of coroutines that run in `loop`, in the order in which they end."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._done: queue.Queue[Result | BaseException] = queue.Queue()
        self._waiting = 0

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        """Starts it in the loop."""
        self._waiting += 1
        asyncio.run_coroutine_threadsafe(self._serve(coroutine), self._loop)

    async def _serve(self, coroutine: Coroutine[Any, Any, Result]) -> None:
        try:
            self._done.put(await coroutine)
        except BaseException as error:  # it must reach poll(), whatever it is: the caller waits for this one
            self._done.put(error)

    def poll(self, wait: bool = True) -> list[Result]:
        """All that have ended since the last call; `wait`: for at least one, where any is under way.

        Raises whatever one of them raised.
        """
        results: list[Result] = []
        while self._waiting and ((wait and not results) or not self._done.empty()):
            item = self._done.get()
            self._waiting -= 1
            if isinstance(item, BaseException):
                raise item
            results.append(item)
        return results
