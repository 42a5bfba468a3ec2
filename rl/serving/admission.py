"""Limits concurrent episodes and queues the other requests: first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

from rl.serving.errors import ApiError

_RETRY_AFTER = 1  # seconds


class Ticket:
    """A request's place: `with` holds it, `admitted` waits until its episodes may run."""

    def __init__(self, queue: AdmissionQueue, episodes: int):
        self.episodes = episodes
        self._queue = queue
        self._left = False
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def admitted(self) -> None:
        await asyncio.shield(self._turn)

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Frees the place, once: when its episodes or its request have ended."""
        if not self._left:
            self._left = True
            self._queue._leave(self)


class AdmissionQueue:
    """
    Args:
        concurrency: maximum concurrent episodes; a request of n choices has n.
        queue: maximum waiting requests.
    """

    def __init__(self, concurrency: int, queue: int):
        self.concurrency, self.queue = concurrency, queue
        self.running = 0  # episodes
        self._waiting: deque[Ticket] = deque()

    @property
    def queued(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    def enter(self, episodes: int) -> Ticket:
        """Returns a place for a request of `episodes` episodes, at most `concurrency`.

        Raises:
            ApiError: 429, the queue is full.
        """
        full = self._waiting or self.running + episodes > self.concurrency
        if full and len(self._waiting) >= self.queue:
            message = f"{self.running} episodes are running, {len(self._waiting)} requests are waiting: try again later"
            raise ApiError(429, message, code="queue_full", retry_after=_RETRY_AFTER)
        ticket = Ticket(self, episodes)
        self._waiting.append(ticket)
        self._admit()
        return ticket

    def refuse(self, error: ApiError) -> None:
        """Fails all waiting requests with this error."""
        while self._waiting:
            self._waiting.popleft()._turn.set_exception(error)

    def _admit(self) -> None:
        while self._waiting and self.running + self._waiting[0].episodes <= self.concurrency:
            ticket = self._waiting.popleft()
            self.running += ticket.episodes
            ticket._turn.set_result(None)

    def _leave(self, ticket: Ticket) -> None:
        if not ticket._turn.done():
            self._waiting.remove(ticket)
        elif ticket._turn.exception() is None:
            self.running -= ticket.episodes
        self._admit()
