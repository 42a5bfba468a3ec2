"""Summarizers of an evaluation: the model, a checkpoint trained on rounds, a server or a function.

InftyThink+ (arXiv 2602.06960) asks whether a model's own summaries serve it better than another writer's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from rl.app.data_config import check_summarizer
from rl.settings.schema import ConfigError, check_section
from rollout.interventions import ROOM, Interventions, Summarizer, SummaryRequest
from rollout.remote.inbox import Inbox
from rollout.types import Engine, Sampling, close_engine, question_text
from sft.data.settings import SummarizerSettings
from sft.data.summarize import Failed, Refused, Request, Writer


def make_steering(
    summarize_at: str = "model",
    summarizer: str | dict[str, Any] = "model",
    min_thinking: int = 0,
    max_thinking: int | None = None,
    *,
    summary_tokens: int,
    sampling: Sampling,
    start: Callable[[str], tuple[Engine, Any, str]] | None = None,
) -> Interventions | None:
    """Returns the interventions in a model's rounds; None if there are none.

    Args:
        summarizer: "model"; a checkpoint trained on rounds; `path.py:function`, called like `summarizer.fn`; or a
            mapping with the keys of `summarizer:`, for a server or another function's settings.
        summary_tokens: gamma of the protocol.
        sampling: for a checkpoint's summaries (temperature, top_p, …).
        start: starts an engine with a checkpoint. Returns it with the tokenizer and a name for the weights.
    """
    writer = None
    if summarizer != "model":
        settings = _settings(summarizer)
        if settings is not None:
            writer = WrittenSummaries(settings, summary_tokens)
        else:
            engine, tokenizer, identity = start(summarizer)
            writer = RoundsSummarizer(engine, tokenizer, identity, summary_tokens, sampling)
    steering = Interventions(summarize_at, min_thinking, max_thinking, writer)
    return None if steering == Interventions() else steering


def names_checkpoint(summarizer: str | dict[str, Any]) -> bool:
    """Returns whether this is another model's folder or Hub id, which needs its own engine."""
    from rollout.plugins import is_function_spec

    return isinstance(summarizer, str) and summarizer != "model" and not is_function_spec(summarizer)


def _settings(summarizer: str | dict[str, Any]) -> SummarizerSettings | None:
    """Returns the settings of a server or a function; None for a checkpoint."""
    if isinstance(summarizer, str):
        return None if names_checkpoint(summarizer) else SummarizerSettings(fn=summarizer)
    known = {field.name: str(field.type) for field in fields(SummarizerSettings)}
    settings = SummarizerSettings(**check_section("eval.summarizer", summarizer, known))
    check_summarizer(settings)
    if not (settings.fn or settings.url or settings.engine):
        raise ConfigError("eval.summarizer has no source of summaries: set fn, url or engine, as in `summarizer:`")
    return settings


class RoundsSummarizer(Summarizer):
    """Another checkpoint trained on rounds: it gets the round up to `<summary>` and generates the rest."""

    def __init__(self, engine: Engine, tokenizer: Any, identity: str, summary_tokens: int, sampling: Sampling):
        self.engine, self.tokenizer, self.identity = engine, tokenizer, identity
        self.sampling = replace(sampling, max_tokens=summary_tokens + ROOM)

    def submit(self, request_id: int, asked: SummaryRequest) -> None:
        ids = self.tokenizer.encode(asked.round_text, add_special_tokens=False)
        seed = None if self.sampling.seed is None else asked.seed
        self.engine.submit(request_id, ids, replace(self.sampling, seed=seed))

    def poll(self, wait: bool) -> list[tuple[int, str | None, str]]:
        done: list[tuple[int, str | None, str]] = []
        for completion in self.engine.poll():
            text, closed, _ = self.tokenizer.decode(completion.token_ids).partition("</summary>")
            why = completion.error or ("" if closed else "the summarizer did not close its summary")
            done.append((completion.request_id, None if why else text.strip(), why))
        return done

    def close(self) -> None:
        close_engine(self.engine)


class WrittenSummaries(Summarizer):
    """A server, an engine or a function, called as in the data stage, in its own event loop."""

    def __init__(self, settings: SummarizerSettings, summary_tokens: int):
        from sft.data.writers import make_writer

        self.settings, self.summary_tokens = settings, summary_tokens
        self._loop = asyncio.new_event_loop()
        self._inbox: Inbox[tuple[int, str | None, str]] = Inbox(self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="summaries")
        self._thread.start()
        concurrency = settings.concurrency or (1 if settings.fn else 64)
        self._turn = asyncio.Semaphore(concurrency)

        async def make() -> Writer:
            return make_writer(settings, summary_tokens, print, concurrency)

        self._writer = self._call(make())
        self.identity = self._writer.identity

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def submit(self, request_id: int, asked: SummaryRequest) -> None:
        self._inbox.run(self._serve(request_id, asked))

    async def _serve(self, request_id: int, asked: SummaryRequest) -> tuple[int, str | None, str]:
        return request_id, *(await self._write(asked))

    async def _write(self, asked: SummaryRequest) -> tuple[str | None, str]:
        """Returns a finished summary, with up to `max_draws` tries; or None and the reason."""
        why = ""
        for number in range(self.settings.max_draws):
            request = Request(question_text(asked.question), asked.previous, asked.thinking, asked.seed + number)
            try:
                async with self._turn:
                    draw = await self._writer.write(request, f"{asked.seed}-{number}")
            except Refused as error:
                return None, str(error)
            except Failed as error:
                why = str(error)
                continue
            if draw.finished and draw.text.strip():
                return draw.text.strip(), ""
            why = "the summary exceeds its limit" if draw.text.strip() else "the summary is empty"
        return None, why

    def poll(self, wait: bool) -> list[tuple[int, str | None, str]]:
        return self._inbox.poll(wait)

    def close(self) -> None:
        self._call(self._writer.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
