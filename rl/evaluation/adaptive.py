"""The searches of an evaluation: samples from the cache, scores by name, a row of metrics per search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from rewards.load import load_rewards
from rewards.score import score_episodes
from rl.evaluation.sampler import Sampler, sample_task
from rl.evaluation.scores import Score, by_agreement, by_confidence
from rl.evaluation.search import Found, Kind, Sample, search
from rl.evaluation.search_settings import Search
from rl.evaluation.sets import DataSet
from rl.evaluation.statistics import accuracy_interval
from rollout.interventions import Interventions
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Task

Judge = Callable[[Sequence[Episode]], Sequence[float | None]]
"""1, 0 or None (could not be judged) for each episode."""

SamplerOf = Callable[[RoundProtocol, Interventions | None], Sampler]
"""Returns the sampler of a model's episodes under a protocol."""

ANSWER_NOW = Interventions(max_thinking=1)
"""Forces an answer from what a round starts with."""


class Drawer:
    """Draws the samples of searches. The cache knows whole episodes, single rounds and forced answers apart."""

    def __init__(self, sampler_of: SamplerOf, protocol: RoundProtocol, label: str):
        self._sampler_of, self.protocol, self.label = sampler_of, protocol, label
        self._samplers: dict[tuple[Kind, int], Sampler] = {}

    def __call__(self, samples: Sequence[Sample], kind: Kind) -> list[Episode]:
        """Returns the episodes in order. A round's limit is one more than the rounds before it."""
        depths = [0 if kind == "episodes" or task.start is None else task.start.rounds + 1 for task, _ in samples]
        drawn: dict[int, Episode] = {}
        for depth in sorted(set(depths)):
            places = [place for place, other in enumerate(depths) if other == depth]
            tasks = [sample_task(*samples[place]) for place in places]
            found = self._sampler(kind, depth).draw_samples(tasks, self.label).episodes
            drawn |= dict(zip(places, found, strict=True))
        return [drawn[place] for place in range(len(samples))]

    def _sampler(self, kind: Kind, depth: int) -> Sampler:
        if (kind, depth) not in self._samplers:
            protocol = self.protocol if kind == "episodes" else self.protocol.replace(max_rounds=max(1, depth))
            self._samplers[kind, depth] = self._sampler_of(protocol, ANSWER_NOW if kind == "answers" else None)
        return self._samplers[kind, depth]


def make_score(name: str, protocol: RoundProtocol, judge: Judge) -> Score:
    """Returns a score by name: confidence, agreement, oracle (the verdict), or a reward as in `rewards:`."""
    if name == "confidence":
        return by_confidence
    if name == "agreement":
        return by_agreement
    if name == "oracle":
        return lambda episodes: [value or 0.0 for value in judge(episodes)]
    (reward,) = load_rewards([{"fn": name}], protocol)
    known: dict[int, tuple[Episode, float]] = {}  # by identity: each is scored once

    def score(episodes: Sequence[Episode]) -> list[float]:
        fresh = [episode for episode in episodes if id(episode) not in known]
        if fresh:
            totals = score_episodes(fresh, [reward]).total
            known.update({id(e): (e, 0.0 if value != value else value) for e, value in zip(fresh, totals, strict=True)})
        return [known[id(episode)][1] for episode in episodes]

    return score


def run_search(dataset: DataSet, draw: Drawer, settings: Search, score: str, judge: Judge) -> dict[str, Any]:
    """Searches for an answer to every question of a data set. Returns a row of metrics (`summarize_search`)."""
    tasks = [
        Task(row["question"], row["answer"], place, {k: v for k, v in row.items() if k not in ("question", "answer")})
        for place, row in enumerate(dataset.rows)
    ]
    found = search(tasks, draw, make_score(score, draw.protocol, judge), settings, draw.protocol.max_rounds)
    return summarize_search(found, judge, settings, score)


def summarize_search(found: Sequence[Found], judge: Judge, settings: Search, score: str) -> dict[str, Any]:
    """Returns the metrics of a search over questions.

    Returns:
        `accuracy` with `accuracy_ci95`, by question (unjudged counts as wrong); `cost_mean` in the search's unit, and
        `cost_saved`, the share of `most` that was not spent; `tokens_mean`, `prompt_tokens_mean` per question; and the
        shares of questions that ended for each reason.
    """
    chosen = [one.episode for one in found if one.episode is not None]
    verdicts = iter(judge(chosen))
    right = [(next(verdicts) or 0.0) if one.episode is not None else 0.0 for one in found]
    cost = fmean(one.cost for one in found)
    return {
        "search": settings.label,
        "score": f"{score} (upper bound)" if score == "oracle" else score,
        "accuracy": fmean(right),
        "accuracy_ci95": list(accuracy_interval(right)),
        "cost_mean": cost,
        "cost_saved": 1 - cost / settings.most,
        "tokens_mean": fmean(one.tokens for one in found),
        "prompt_tokens_mean": fmean(one.prompt_tokens for one in found),
        "ended": {why: fmean(one.why == why for one in found) for why in ("enough", "all", "nothing left")},
    }


_COLUMNS = (
    "data set", "model", "run as", "search", "score", "accuracy % (95% interval)", "cost", "saved %", "tokens",
    "prompt tokens",
)  # fmt: skip


def format_searches(rows: Sequence[dict[str, Any]]) -> str:
    """Formats the searches of an evaluation's rows as a Markdown table."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    for row in rows:
        for one in row.get("searches", []):
            low, high = one["accuracy_ci95"]
            cells = [row["dataset"], row["stage"], row["label"], one["search"], one["score"]]
            cells += [f"{100 * one['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})", f"{one['cost_mean']:.2f}"]
            cells += [f"{100 * one['cost_saved']:.1f}", f"{one['tokens_mean']:.1f}", f"{one['prompt_tokens_mean']:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
