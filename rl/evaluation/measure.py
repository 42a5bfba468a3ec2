"""Every model, variant and data set -> rows, episodes, table, plots. Used by both forms of `sawtooth eval`."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.load import load_rewards
from rewards.score import Reward
from rl.evaluation.adaptive import Drawer, format_searches, make_score, run_search
from rl.evaluation.cache import EpisodeCache
from rl.evaluation.consistency import Vote, summarize_votes, vote_on
from rl.evaluation.engines import Engines, StartEngine
from rl.evaluation.evaluate import format_table, judge, summarize_evaluation
from rl.evaluation.models import EvalModel
from rl.evaluation.names import file_name
from rl.evaluation.plots import plot_accuracy, plot_rounds
from rl.evaluation.sampler import Sampler
from rl.evaluation.search_settings import Search
from rl.evaluation.sets import DataSet
from rl.evaluation.statistics import check_k
from rl.evaluation.summarizer import make_steering, names_checkpoint
from rl.evaluation.variants import ProtocolChoice, Variant
from rl.evaluation.votes import answer_texts, classes
from rollout.errors import InputError
from rollout.interventions import Interventions
from rollout.protocol import RoundProtocol
from rollout.store import EpisodeStore
from rollout.types import Engine, Episode, Sampling

_SPEED = ("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "batch_size")
"""Engine settings that no sample depends on."""

_MOST_REASONS = 3  # failure reasons shown


@dataclass(frozen=True)
class Plan:
    """Settings of an evaluation."""

    variants: Sequence[Variant]
    samples: int  # episodes per question
    sampling: Sampling  # its max_tokens bounds a round
    max_rounds: int | None  # None: each protocol's own
    k: Sequence[int]  # of pass@k and maj@k
    engine: dict[str, Any]  # kind, dtype, max_model_len, settings: samples depend on them
    rewards: Sequence[Reward] = ()  # the first verifier judges, if a data set has none of its own
    vote: Vote | None = None  # self-consistency with early stop, in addition to the samples
    searches: Sequence[Search] = ()  # in addition to the samples
    score: str = "confidence"  # of the searches' answers

    def __post_init__(self):
        for k in self.k:
            check_k(k, self.samples)
        if self.sampling.temperature < 0:  # else each episode fails in the engine, for an accuracy of 0
            raise InputError(f"temperature is {self.sampling.temperature:g}; it must be at least 0 (greedy)")
        if self.score != "confidence" and not self.searches:
            raise InputError(f"score is {self.score!r}, but nothing is searched for: name a search, as best:16@0.9")
        if not 0 < self.sampling.top_p <= 1:
            raise InputError(f"top_p is {self.sampling.top_p:g}; it must be above 0, and 1 at most")


class Evaluation:
    """One evaluation: its engine, its cache, its folder.

    Args:
        start: starts an engine.
        open_model: opens a model by folder or Hub id, for summaries by another model.
        cache: None: samples are not cached, and a killed evaluation starts over.
        folder: for summary.json, table.md, the plots and episodes/*.parquet.
    """

    def __init__(
        self,
        plan: Plan,
        start: StartEngine,
        open_model: Callable[[str], EvalModel],
        cache: EpisodeCache | None,
        folder: Path,
    ):
        self.plan, self.cache, self.folder = plan, cache, folder
        self._open_model = open_model
        self._engines = Engines(start, exchange=plan.engine["kind"] == "vllm")

    def run(self, models: Sequence[EvalModel], datasets: Sequence[DataSet]) -> list[dict[str, Any]]:
        """Measures, writes and prints. Returns rows ordered by model, then variant, then data set."""
        runs = [(model, variant, *self._protocol(model, variant)) for model in models for variant in self.plan.variants]
        judges = [self._judges(dataset, runs[0][2]) for dataset in datasets]
        _refuse_same([f"{model.name}, {variant.label(protocol.name)}" for model, variant, protocol, _ in runs])
        rows = []
        try:
            for model, variant, protocol, sampling in runs:
                steering = self._steering(variant, protocol, sampling)
                sampler = self._sampler(model, protocol, sampling, steering)
                label = variant.label(protocol.name)
                first = variant == self.plan.variants[0]
                for dataset, rewards in zip(datasets, judges, strict=True):
                    rows.append(self._measure(sampler, model, label, dataset, rewards, first))
                if steering is not None and hasattr(steering.summarizer, "close"):
                    steering.summarizer.close()
        finally:
            self._engines.close()
        self._write(rows)
        return rows

    def _protocol(self, model: EvalModel, variant: Variant) -> tuple[RoundProtocol, Sampling]:
        """Returns a model's protocol and sampling. Runs before any sampling, so mistakes are reported at once."""
        sampling, choice = self.plan.sampling, variant.protocol
        if choice is None:
            if model.protocol is None:
                raise InputError(f"{model.folder} has no protocol.json: name a protocol, as --protocol vanilla")
            choice = ProtocolChoice(model.protocol.name)
        protocol, most = choice.resolve(model.protocol, sampling.max_tokens, self.plan.max_rounds)
        if protocol.name != "inftythink" and (variant.summarize_at, variant.summarizer) != ("model", "model"):
            raise InputError(
                f"summarize_at and summarizer control summaries, but {protocol.name} ({model.name}) has none"
            )
        if self.plan.engine["kind"] == "server" and names_checkpoint(variant.summarizer):
            raise InputError(
                f"summarizer is {variant.summarizer!r}: the servers load one model at a time; serve the second model "
                "elsewhere and name it, as {url: …, model: …}"
            )
        if self.plan.searches:
            make_score(self.plan.score, protocol, judge)
            if dataclasses.replace(variant, protocol=None) != Variant():
                raise InputError(
                    "a search lets the model decide: leave out summarize_at, summarizer and thinking limits"
                )
        for search in self.plan.searches:
            if search.kind != "best" and protocol.name != "inftythink":
                raise InputError(f"search {search.label} needs summaries, and {protocol.name} ({model.name}) has none")
        return protocol, dataclasses.replace(sampling, max_tokens=most)

    def _steering(self, variant: Variant, protocol: RoundProtocol, sampling: Sampling) -> Interventions | None:
        return make_steering(
            variant.summarize_at, variant.summarizer, variant.min_thinking, variant.max_thinking,
            summary_tokens=protocol.summary_tokens, sampling=sampling, start=self._writer,
        )  # fmt: skip

    def _writer(self, spec: str) -> tuple[Any, Any, str]:
        """Returns engine, tokenizer and identity of a model that writes summaries for another."""
        model = self._open_model(spec)
        tokenizer = model.tokenizer()
        return self._engines.beside(model, tokenizer), tokenizer, model.identity

    def _sampler(
        self, model: EvalModel, protocol: RoundProtocol, sampling: Sampling, steering: Interventions | None
    ) -> Sampler:
        key = None
        if self.cache is not None:
            described = {
                "model": model.identity,
                "protocol": dataclasses.asdict(protocol),
                "steering": _described(steering),
                "sampling": dataclasses.asdict(sampling),
                "engine": _described_engine(self.plan.engine),
            }
            key = (self.cache, self.cache.open(described))

        def engine() -> Engine:
            made = self._engines.of(model)
            writer = getattr(steering.summarizer, "engine", None) if steering else None
            if writer is not None:
                writer.start()  # now, not within the first episode's latency
            return made

        return Sampler(engine, model.tokenizer(), protocol, sampling, steering, key)

    def _judges(self, dataset: DataSet, protocol: RoundProtocol) -> Sequence[Reward]:
        """Returns the rewards whose first verifier judges a data set."""
        if dataset.verifier is None:
            return self.plan.rewards
        return load_rewards([{"fn": dataset.verifier, "verifier": True}], protocol)

    def _measure(
        self, sampler: Sampler, model: EvalModel, label: str, dataset: DataSet, rewards: Sequence[Reward], first: bool
    ) -> dict[str, Any]:
        plan = self.plan
        shown = f"eval {model.name}, {label}, {dataset.name}"
        drawn = sampler.draw(dataset.rows, range(plan.samples), shown)
        correct = judge(drawn.episodes, rewards)
        voices = _voices(drawn.episodes, plan.samples) if max(plan.k) > 1 else []
        name = file_name([model.name, dataset.name] if first else [model.name, label, dataset.name])
        EpisodeStore(self.folder / "episodes").write(name, 0, drawn.episodes, correct=correct)
        row = summarize_evaluation(
            drawn.episodes, correct, stage=model.name, protocol=sampler.protocol.name, dataset=dataset.name,
            label=label, k=plan.k, classes=voices, max_rounds=sampler.protocol.max_rounds, in_flight=drawn.in_flight,
        )  # fmt: skip
        if plan.vote is not None:
            row["vote"] = self._vote(sampler, dataset, rewards, f"{shown}, vote")
        if plan.searches:
            row["searches"] = self._searches(sampler, model, dataset, rewards, shown)
        return row | {"episodes": name}

    def _vote(self, sampler: Sampler, dataset: DataSet, rewards: Sequence[Reward], shown: str) -> dict[str, Any]:
        """Runs self-consistency with early stop, over the evaluation's samples first."""

        def draw(questions: list[int], first: int, count: int) -> list[list[Episode]]:
            rows = [dataset.rows[q] for q in questions]
            episodes = sampler.draw(rows, range(first, first + count), shown, groups=questions).episodes
            return [episodes[start : start + count] for start in range(0, len(episodes), count)]

        voted = vote_on(len(dataset.rows), draw, lambda episodes: judge(episodes, rewards), self.plan.vote)
        return summarize_votes(voted, self.plan.vote)

    def _searches(
        self, sampler: Sampler, model: EvalModel, dataset: DataSet, rewards: Sequence[Reward], shown: str
    ) -> list[dict[str, Any]]:
        """Runs every search. Its first samples are the evaluation's, where it draws whole episodes."""

        def sampler_of(protocol: RoundProtocol, forced: Interventions | None) -> Sampler:
            same = forced is None and protocol == sampler.protocol
            return sampler if same else self._sampler(model, protocol, sampler.sampling, forced)

        return [
            run_search(
                dataset,
                Drawer(sampler_of, sampler.protocol, f"{shown}, {search.label}"),
                search,
                self.plan.score,
                lambda episodes: judge(episodes, rewards),
            )
            for search in self.plan.searches
        ]

    def _drop_old(self, names: set[str]) -> None:
        """Deletes episodes of an earlier evaluation in the same folder that have no row in this one."""
        summary = self.folder / "summary.json"
        for row in json.loads(summary.read_text()) if summary.exists() else []:
            if row.get("episodes") and row["episodes"] not in names:
                (self.folder / "episodes" / f"{row['episodes']}.parquet").unlink(missing_ok=True)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._drop_old({row["episodes"] for row in rows})
        table = format_table(rows)
        if self.plan.searches:
            table += "\n\n" + format_searches(rows)
        (self.folder / "summary.json").write_text(json.dumps(rows, indent=2) + "\n")
        (self.folder / "table.md").write_text(table + "\n")
        plot_accuracy(rows, self.folder / "accuracy_tokens.png")
        plot_accuracy(rows, self.folder / "accuracy_latency.png", against="latency_mean")
        plot_rounds(rows, self.folder / "rounds.png")
        print(table)
        for line in remarks(rows):
            print(line)


def _voices(episodes: Sequence[Episode], samples: int) -> list[int | None]:
    """Returns each episode's vote: the class of its answer among its question's answers; None: no vote."""
    texts = answer_texts(episodes)
    return [voice for start in range(0, len(texts), samples) for voice in classes(texts[start : start + samples])]


def remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns notes on the table: the concurrency behind the latencies, and episodes that count as wrong."""
    low, high = min(r["concurrency"][0] for r in rows), max(r["concurrency"][1] for r in rows)
    lines = [f"latency: seconds per episode, with {low if low == high else f'{low} to {high}'} episodes in flight"]
    for what in ("failed", "unjudged"):
        found = {f"{r['stage']}, {r['label']}, {r['dataset']}": r[what] for r in rows if r[what]}
        lines += [f"{count} episodes {what}, counted as wrong: {where}" for where, count in found.items()]
    cut = {f"{r['stage']}, {r['label']}, {r['dataset']}": r for r in rows if r["stops"].get("truncated")}
    for where, row in cut.items():
        episodes = row["questions"] * row["samples"]
        count = round(row["stops"]["truncated"] * episodes)
        lines.append(f"{count} of {episodes} episodes truncated at the token limit of a round: {where}")
    lines += [f"failed, {count} times: {why}" for why, count in _reasons(rows)]
    return lines


def _reasons(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Returns the most frequent failure reasons, over all rows."""
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons.update(row["failures"])
    return reasons.most_common(_MOST_REASONS)


def _refuse_same(rows: Sequence[str]) -> None:
    """Raises InputError for equal names: such rows would overwrite each other's episodes."""
    for row in rows:
        if rows.count(row) > 1:
            raise InputError(f"two rows have the same name {row!r}: leave one out, or give each its own --out")


def _described(steering: Interventions | None) -> dict[str, Any] | None:
    if steering is None:
        return None
    writer = steering.summarizer.identity if steering.summarizer else "model"
    bounds = {"min_thinking": steering.min_thinking, "max_thinking": steering.max_thinking}
    return {"when": steering.summarize_at, "who": writer, **bounds}  # names in the keys of cached samples


def _described_engine(engine: dict[str, Any]) -> dict[str, Any]:
    settings = {k: v for k, v in engine.get("settings", {}).items() if k not in _SPEED}
    return engine | {"settings": settings if engine["kind"] == "vllm" else {}}
