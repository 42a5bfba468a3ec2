"""The core of the server: turns requests into episodes and runs them within their limits.

ChatRequest -> Service.enter -> Service.episodes -> Service.run -> (choice, Event)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from rl.serving.admission import AdmissionQueue, Ticket
from rl.serving.backend import VLLMBackend
from rl.serving.errors import ApiError
from rl.serving.metrics import Metrics
from rl.serving.model import ServedModel
from rl.serving.schema import ChatRequest
from rl.serving.stream import Ended, Event, stream_episode
from rollout.episodes import RunningEpisode
from rollout.types import Question, Sampling, StopReason, Task

Phase = Literal["starting", "ready", "draining", "dead"]
_RETRY_AFTER = 5  # seconds, while starting or draining


@dataclass(frozen=True)
class Limits:
    concurrency: int = 64  # episodes at once
    queue: int = 256  # requests that wait
    rounds: int | None = None  # of an episode; None: the protocol's
    tokens: int | None = None  # generated, of an episode; None: bounded only by each round's context
    choices: int = 8  # n of a request
    body: int = 1 << 20  # bytes
    seconds: float = 600.0  # of a request, including its wait


class Service:
    def __init__(self, model: ServedModel, backend: VLLMBackend, limits: Limits):
        most = limits.rounds or model.protocol.max_rounds
        self.model, self.backend = model, backend
        self.limits = replace(limits, rounds=1 if model.protocol.name == "vanilla" else most)
        self.phase: Phase = "starting"
        self.started = int(time.time())
        self.admission = AdmissionQueue(limits.concurrency, limits.queue)
        self.metrics = Metrics(self.admission)
        self._inboxes: set[asyncio.Queue] = set()  # of running requests

    async def ready(self) -> bool:
        """Returns whether requests are accepted and the engine answers."""
        return self.phase == "ready" and await self.backend.healthy()

    def check_open(self) -> None:
        """Raises ApiError 503 unless requests are accepted."""
        if self.phase == "ready":
            return
        why = {
            "starting": "the model is being loaded",
            "draining": "the server is shutting down",
            "dead": "the engine has died",
        }
        raise ApiError(503, why[self.phase], code=f"server_{self.phase}", retry_after=_RETRY_AFTER)

    async def episodes(self, request: ChatRequest) -> list[RunningEpisode]:
        """Returns the episodes of a request, one for each choice, ready to run.

        Raises:
            ApiError: 400, a limit or the context is exceeded, or the template rejects the messages.
        """
        rounds = self._within("max_rounds", request.max_rounds, self.limits.rounds) or self.limits.rounds
        tokens = self._max_tokens(request)
        protocol = self.model.protocol.replace(max_rounds=rounds)
        sampling = self._sampling(request)
        question = self._question(request)
        episodes = [
            RunningEpisode(Task(question), protocol, self.model.tokenizer, sampling, index, max_tokens=tokens)
            for index in range(request.n or 1)
        ]
        room = self.backend.max_model_len
        for episode in episodes:
            try:  # in a thread: encoding a long question is slow
                asked = len((await asyncio.to_thread(episode.call)).prompt_ids)
            except (ValueError, TypeError, KeyError) as error:
                raise ApiError(400, f"messages: {error}", param="messages", code="invalid_value") from error
            if asked >= room:
                message = f"the question has {asked} tokens; a round's context has {room}"
                raise ApiError(400, message, param="messages", code="context_length_exceeded")
        return episodes

    def _within(self, field: str, value: int | None, limit: int | None) -> int | None:
        if value is not None and limit is not None and value > limit:
            raise ApiError(
                400, f"{field} is {value}; this server allows at most {limit}", param=field, code="above_limit"
            )
        return value

    def _max_tokens(self, request: ChatRequest) -> int | None:
        given = [field for field in ("max_tokens", "max_completion_tokens") if getattr(request, field) is not None]
        if len(given) > 1:
            raise ApiError(400, "give max_tokens or max_completion_tokens, not both", param=given[0], code="two_limits")
        if not given:
            return self.limits.tokens
        return self._within(given[0], getattr(request, given[0]), self.limits.tokens)

    def _sampling(self, request: ChatRequest) -> Sampling:
        fields = ("temperature", "top_p", "top_k", "min_p", "seed")
        given = {field: value for field in fields if (value := getattr(request, field)) is not None}
        chunk = self.model.protocol.segment_tokens if self.model.protocol.name == "delethink" else None
        return replace(self.model.defaults, max_tokens=chunk or self.backend.max_model_len, **given)

    def _question(self, request: ChatRequest) -> Question:
        for number, message in enumerate(request.messages):
            try:
                message.text.encode()
            except UnicodeEncodeError as error:
                what = f"messages.{number}.content: an unpaired surrogate is not valid Unicode"
                raise ApiError(400, what, param="messages", code="invalid_value") from error
        if not self.model.chats:
            if len(request.messages) > 1 or request.messages[0].role != "user":
                message = "this model has no chat template: send a single user message"
                raise ApiError(400, message, param="messages", code="no_chat_template")
            return request.messages[0].text
        roles = {"developer": "system"}
        return [{"role": roles.get(m.role, m.role), "content": m.text} for m in request.messages]

    def enter(self, request: ChatRequest) -> Ticket:
        """Returns the request's place in the queue; hold it (`with`) around `run`.

        Raises:
            ApiError: 400, too many choices; 404, no such model; 429, the queue is full; 503, no requests are accepted.
        """
        self.check_open()
        if request.model != self.model.name:
            message = f"model {request.model!r} does not exist; this server has {self.model.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        choices = self._within("n", request.n, min(self.limits.choices, self.admission.concurrency)) or 1
        return self.admission.enter(choices)

    async def run(
        self, episodes: list[RunningEpisode], stop: list[str], ticket: Ticket
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """Yields events of all choices as they come, with the choice's index. Close it to end the engine's requests.

        Raises:
            ApiError: 502, an episode has failed; 503, the server or the engine ends; 504, timeout.
        """
        inbox: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue()
        deadline = asyncio.get_running_loop().time() + self.limits.seconds
        left = len(episodes)
        tasks: list[asyncio.Task] = []
        try:
            async with asyncio.timeout_at(deadline):
                await ticket.admitted()
            self._inboxes.add(inbox)
            tasks += [asyncio.create_task(self._post(i, episode, stop, inbox)) for i, episode in enumerate(episodes)]
            # A client that reads slowly occupies no place once its episodes have ended.
            asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: ticket.leave())
            while left:
                async with asyncio.timeout_at(deadline):
                    item = await inbox.get()
                if isinstance(item, Exception):
                    raise item
                if isinstance(item[1], Ended):
                    left -= 1
                    self._ended(item[1])
                yield item
        except TimeoutError as error:
            raise ApiError(504, f"timeout after {self.limits.seconds:g} s", code="timeout") from error
        finally:
            self._inboxes.discard(inbox)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if left and tasks:
                self.metrics.cancelled(left)

    async def _post(self, index: int, episode: RunningEpisode, stop: list[str], inbox: asyncio.Queue) -> None:
        """Puts one choice's events into the request's inbox."""
        events = stream_episode(episode, self.backend, self.model.tokenizer, episode.protocol, stop)
        try:
            async with aclosing(events):
                async for event in events:
                    inbox.put_nowait((index, event))
        except Exception as error:  # a bug must fail this request, not leave it waiting
            inbox.put_nowait(error)

    def _ended(self, event: Ended) -> None:
        episode = event.episode
        self.metrics.episode(episode)
        if episode.stop_reason is StopReason.FAILED:
            raise ApiError(502, f"the engine failed: {episode.error}", code="engine_failed")

    def abort(self, error: ApiError) -> None:
        """Ends all requests, running and waiting, with this error."""
        self.admission.refuse(error)
        for inbox in self._inboxes:
            inbox.put_nowait(error)
