"""The sections `data:` and `summarizer:` of a run's config. Imports no library."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

CHECKS = ("shorter", "copy", "answer", "language")


@dataclass
class DataSettings:
    """The data that a run uses, and the conversion of long traces to rounds."""

    # A source: a Hub dataset, a local .jsonl, .json, .parquet or .csv file, or path.py:function; or {source, and
    # name, split, streaming, limit, columns, or the function's own arguments}.
    traces: str | dict | None = ""  # long chains of thought, in any format of docs/data.md
    questions: str | dict | None = ""  # rows with question, answer, for RL rollouts
    eval: dict = field(default_factory=dict)  # name -> source of rows with question, answer
    prepared: str | None = None  # existing rounds, instead of traces: a data stage's folder or its Hub dataset

    # Which traces.
    generations: str = "first"  # of several correct ones: first, shortest, all
    verify: str = "where_possible"  # the answer: where_possible (keeps rows without a gold answer), always, never
    duplicates: str = "near"  # repeated questions to drop: near (also those that differ in wording), exact, keep (none)
    near_similarity: float = 0.8  # Jaccard similarity of word 3-grams
    decontaminate: list = field(default_factory=lambda: ["eval"])  # eval: the run's own; MATH-500, AIME24, …; a source
    decontaminate_words: int = 8  # length of an n-gram that a question may not share with an evaluation question
    drop_repeats: bool = False  # drop passages that a trace repeats word for word
    budget: dict | None = None  # {prompt, round_to, choices}: a token budget in the question, for l1_exact and l1_max

    # Partition.
    segment_tokens_choices: list | None = None  # eta of each trace is drawn from these; null: the protocol's
    segment_tokens_range: list | None = None  # or from all integers in [min, max]
    min_segment_tokens: int | None = None  # minimum of a segment if its neighbors have room; null: a 16th of eta
    packing: str = "greedy"  # greedy: each segment as long as fits; balanced: the same number, of similar length
    workers: int | None = None  # processes that partition; null: one for each core, at most 8

    # The finished dataset on the Hub, with `sawtooth data CONFIG --push`.
    repo_id: str | None = None  # user/name
    private: bool = True
    license: str = "other"


@dataclass
class SummarizerSettings:
    """The summarizer of the training data: exactly one of fn, url, engine."""

    fn: str = ""  # path.py:name: f(question, previous_summary, segment) -> summary, plain or async
    url: str = ""  # an OpenAI-compatible server, as http://127.0.0.1:8000/v1
    engine: str = ""  # vllm: in this process
    model: str = ""  # for url and engine
    settings: dict = field(default_factory=dict)  # engine: any further argument of vllm.LLM; url: of the request's body
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable with the server's key
    sees: str = "last"  # question, last summary, segment (InftyThink+); all: every segment so far (InftyThink)
    temperature: float = 0.5
    top_p: float = 0.95
    max_tokens: int | None = None  # of one answer; null: twice protocol.summary_tokens (the server counts differently)
    max_draws: int = 10  # a summary that fails a check is drawn again; then its trace is dropped
    checks: list = field(default_factory=lambda: list(CHECKS))  # after "not empty" and "at most summary_tokens"
    concurrency: int | None = None  # concurrent requests; null: 64, for a function 1
    timeout: float = 300.0  # seconds of one request
    patience: float = 1800.0  # seconds without any answer after which the stage stops
    price: dict | None = None  # {input, output}: price per million tokens, for the progress bar's cost estimate

    def answer_tokens(self, summary_tokens: int) -> int:
        """Returns the maximum tokens of one answer."""
        return self.max_tokens or 2 * summary_tokens

    def identity(self, summary_tokens: int, further: dict[str, Any]) -> str:
        """Returns everything besides the request that determines an answer; not the address: a server may move."""
        limits = [self.answer_tokens(summary_tokens), summary_tokens]
        return json.dumps([self.model, self.temperature, self.top_p, limits, further], sort_keys=True)
