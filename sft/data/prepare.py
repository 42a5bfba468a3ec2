"""Converts long traces to rounds: select -> split_reasoning -> summarize -> reconstruct_rounds -> data/dataset."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rollout.endings import end_ids
from rollout.errors import InputError
from rollout.protocol import RoundProtocol
from rollout.store import store_question
from sft.counting import TokenCounter
from sft.data.contamination import Contamination
from sft.data.duplicates import Duplicates
from sft.data.journal import Journal, open_database
from sft.data.partition import Partitioner
from sft.data.parts import BATCH, TABLES, Parts
from sft.data.progress import Progress
from sft.data.rows import Cut, dropped_row, dropped_trace, rows_of_trace
from sft.data.select import Dropped, Selector, Trace
from sft.data.settings import DataSettings, SummarizerSettings
from sft.data.sources import BadRow, Source
from sft.data.summarize import DroppedTrace, Summaries, Writer

_TICK = 1.0  # seconds between updates of the token counts
_MOST_OPEN = 4  # batches in addition to those that keep the summarizer busy
_Row = tuple[int, dict[str, Any] | BadRow]


class DataStage:
    """Makes the rounds of a source, resuming from the batches on disk. The result does not depend on `concurrency`.

    Args:
        folder: `runs/<name>/data`.
        tokenizer: the target model's.
        make_writer: creates the summarizer in the event loop; returns None if the config names none.
        contamination: evaluation sets whose questions are excluded.
        concurrency: maximum concurrent summaries.
    """

    def __init__(
        self,
        source: Source,
        folder: Path,
        protocol: RoundProtocol,
        tokenizer: Any,
        settings: DataSettings,
        summarizer: SummarizerSettings,
        make_writer: Callable[[Callable[[str], None]], Writer | None],
        contamination: Contamination | None,
        concurrency: int,
        seed: int,
    ):
        self.source, self.folder, self.protocol, self.tokenizer = source, folder, protocol, tokenizer
        self.settings, self.summarizer, self.make_writer = settings, summarizer, make_writer
        self.contamination, self.concurrency, self.seed = contamination, concurrency, seed
        self.counter = TokenCounter(tokenizer)
        ends = tokenizer.convert_ids_to_tokens(list(end_ids(tokenizer)))
        self._special = [token for token in {*tokenizer.all_special_tokens, *ends} if "think" not in token]
        self.parts = Parts(folder / "parts")
        self.journal = Journal(folder / "summaries.sqlite")
        self._questions = open_database(folder / "questions.sqlite")
        near = settings.near_similarity if settings.duplicates == "near" else None
        duplicates = None if settings.duplicates == "keep" else Duplicates(self._questions, near)
        self.selector = Selector(settings, source.columns, self.counter, duplicates, contamination)
        self.partitioner = Partitioner(self.counter, settings.min_segment_tokens, settings.packing, settings.workers)

    def run(self) -> None:
        """Makes the missing batches.

        Raises:
            UserError: the source or the summarizer can't be used; finished batches are kept.
        """
        try:
            asyncio.run(self._run())
        except BaseExceptionGroup as group:  # from the tasks: the first one has the reason
            raise group.exceptions[0] from None
        finally:
            self.partitioner.close()
            self._questions.close()
            self.journal.close()

    def join(self) -> Path:
        """Joins the batches into `dataset/`. Returns its folder."""
        self.parts.join(self.folder / "dataset")
        return self.folder / "dataset"

    async def _run(self) -> None:
        finished = self.parts.finished()
        self._under_way = self._open = 0  # traces without their summaries, batches that are not on disk
        self._ended = asyncio.Event()
        self.progress = Progress(self.source.length, BATCH * len(finished), self.summarizer.price)
        writer = self.make_writer(self.progress.say)
        self.summaries = writer and Summaries(
            writer, self.journal, self.summarizer, self.counter, self.protocol.summary_tokens, self.concurrency,
            self.seed,
        )  # fmt: skip
        ticking = asyncio.create_task(self._tick()) if self.summaries else None
        try:
            self._refuse_other_inputs(writer)
            batches = self._missing(finished)
            async with asyncio.TaskGroup() as tasks:
                while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                    number, rows = batch
                    prepared = await asyncio.to_thread(self._prepare, rows)
                    self._under_way += sum(isinstance(item, Cut) for item in prepared)
                    self._open += 1
                    tasks.create_task(self._finish(number, prepared))
                    # The next batch starts before this one ends, so that the summarizer does not wait for the slowest
                    # trace; but finished traces that wait for it are in memory, not on disk.
                    most = max(2 * self.concurrency, BATCH)
                    while self._under_way > most or self._open > most // BATCH + _MOST_OPEN:
                        self._ended.clear()
                        await self._ended.wait()
        finally:
            if ticking is not None:
                ticking.cancel()
            self.progress.close()
            if writer is not None:
                await writer.close()

    async def _tick(self) -> None:
        """Refreshes the bar's counts."""
        while True:
            await asyncio.sleep(_TICK)
            self.progress.show(self.summaries)

    def _refuse_other_inputs(self, writer: Writer | None) -> None:
        """Refuses to mix batches of different inputs in one dataset.

        Raises:
            InputError: the source, an evaluation set or the summarizer differs from that of the finished batches.
        """
        inputs = {
            "source": self.source.state,
            "evaluation sets": self.contamination.digest if self.contamination else "",
            "summarizer": writer.identity if writer else "",
        }
        path = self.parts.folder / "inputs.json"
        before = json.loads(path.read_text()) if path.exists() and self.parts.finished() else inputs
        before.setdefault("summarizer", before.get("summariser"))  # as earlier versions spelled it
        for what, state in inputs.items():
            if before.get(what, state) != state:
                raise InputError(
                    f"the {what} changed since this data stage began: delete {self.parts.folder} to restart it "
                    "(summaries of unchanged requests are reused)"
                )
        path.write_text(json.dumps(inputs))

    def _missing(self, finished: set[int]) -> Iterator[tuple[int, list[_Row]]]:
        """Yields numbers and rows of the batches that are not on disk."""
        first = next(number for number in itertools.count() if number not in finished)
        rows = enumerate(self.source.rows(first * BATCH), start=first * BATCH)
        for number in itertools.count(first):
            batch = list(itertools.islice(rows, BATCH))
            if not batch:
                return
            if number not in finished:
                yield number, batch

    def _prepare(self, rows: list[_Row]) -> list[Cut | Dropped]:
        """Selects and cuts a batch: all steps that do not need a summarizer."""
        with self._questions:  # a question is in all of its tables or in none
            self._questions.execute("BEGIN")
            outcomes = self.selector.select(rows)
        outcomes = [self._fit(outcome) if isinstance(outcome, Trace) else outcome for outcome in outcomes]
        traces = [outcome for outcome in outcomes if isinstance(outcome, Trace)]
        etas = [self._eta(trace) for trace in traces]
        if self.protocol.name == "inftythink":
            found = iter(self.partitioner.cut([trace.reasoning for trace in traces], etas))
        else:
            found = iter([(len(t.reasoning), self.counter(t.reasoning))] for t in traces)
        etas = iter(etas)
        prepared: list[Cut | Dropped] = []
        for outcome in outcomes:
            if isinstance(outcome, Trace):
                eta, cuts = next(etas), next(found)
                cut = isinstance(cuts, str)
                outcome = dropped_trace(outcome, cuts) if cut else Cut(outcome, eta, cuts)
            prepared.append(outcome)
        return prepared

    def _fit(self, trace: Trace) -> Trace | Dropped:
        """Returns the trace, or the reason why this model can't be trained on it."""
        if any(token in trace.reasoning or token in trace.conclusion for token in self._special):
            return dropped_trace(trace, "holds a special token of the tokenizer")
        if not isinstance(trace.question, str):
            try:
                self.protocol.question_text(self.tokenizer, trace.question)
            except ValueError:
                return dropped_trace(trace, "the chat template refuses its messages")
        return trace

    def _eta(self, trace: Trace) -> int:
        draw = random.Random(f"{self.seed}/eta/{trace.key}")
        if self.settings.segment_tokens_choices:
            return draw.choice(self.settings.segment_tokens_choices)
        if self.settings.segment_tokens_range:
            return draw.randint(*self.settings.segment_tokens_range)
        return self.protocol.segment_tokens

    async def _finish(self, number: int, prepared: list[Cut | Dropped]) -> None:
        """Summarizes a batch and writes it."""
        rows = [item.trace.number if isinstance(item, Cut) else item.number for item in prepared]
        first = [place == 0 or rows[place - 1] != row for place, row in enumerate(rows)]  # first of its row
        made = await asyncio.gather(*map(self._tables, prepared, first))
        joined = {name: [row for tables in made for row in tables.get(name, [])] for name in TABLES}
        await asyncio.to_thread(self.parts.write, number, joined)
        self._open -= 1
        self._ended.set()

    async def _tables(self, item: Cut | Dropped, is_row: bool) -> dict[str, list[dict[str, Any]]]:
        """Returns the rows of a trace, kept or dropped, for each table."""
        if isinstance(item, Dropped):
            made = {"traces": [dropped_row(item)]}
        else:
            try:
                made = await self._rounds(item)
            except DroppedTrace as error:
                made = {"traces": [dropped_row(dropped_trace(item.trace, str(error)), item)]}
            finally:
                self._under_way -= 1
                self._ended.set()
        self.progress.trace(is_row, "rounds" in made, self.summaries)
        return made

    async def _rounds(self, item: Cut) -> dict[str, list[dict[str, Any]]]:
        """Summarizes a trace and returns its rows for each table."""
        trace, segments = item.trace, item.segments()
        summaries = []
        if len(segments) > 1:
            if self.summaries is None:
                raise InputError("summarizer is missing (fn, url or engine): traces of several segments need summaries")
            question = store_question(trace.question)
            summaries = await self.summaries.of_trace(trace.key, question, trace.answer, segments)
        return rows_of_trace(item, segments, summaries, self.protocol, self.tokenizer)
