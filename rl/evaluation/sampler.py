"""Episodes of one setting: cached ones are read, the others are rolled out and cached as they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rl.evaluation.cache import EpisodeCache, Kept, Place, hash_question
from rollout.episodes import run_episodes
from rollout.interventions import Interventions
from rollout.protocol import RoundProtocol
from rollout.types import Engine, Episode, Sampling, StopReason, Task


@dataclass(frozen=True)
class Drawn:
    """Episodes, question by question."""

    episodes: list[Episode]
    in_flight: list[int]  # per episode, how many ran concurrently when it was sampled
    kept: int  # number of cache hits


class Sampler:
    """Draws samples of questions under one setting.

    A sample's seed comes from the question and the sample's number (`Task.seed_key`), so its episode depends neither
    on the other questions nor on how many samples are drawn.

    Args:
        engine: returns the engine; called on the first cache miss.
        cache: the cache and the key of this setting; None: episodes stay in memory, for the life of this object.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        tokenizer: Any,
        protocol: RoundProtocol,
        sampling: Sampling,
        steering: Interventions | None = None,
        cache: tuple[EpisodeCache, str] | None = None,
    ):
        self.engine, self.tokenizer, self.protocol = engine, tokenizer, protocol
        self.sampling, self.steering, self.cache = sampling, steering, cache
        self._fresh: dict[Place, Kept] = {}

    def draw(
        self, rows: Sequence[dict[str, Any]], numbers: range, label: str, groups: Sequence[int] | None = None
    ) -> Drawn:
        """Returns samples of every row. FAILED episodes are not cached: the next command retries them.

        Args:
            rows: question, answer and any columns. Duplicate questions have the same episodes.
            numbers: of the samples.
            label: for the progress bar.
            groups: the episodes' `group_id` for each row; None: the row's index.
        """
        samples = [
            (_task(row, row_place if groups is None else groups[row_place], f"{key}/{number}"), (key, number))
            for row_place, row in enumerate(rows)
            for key in [hash_question(row["question"])]
            for number in numbers
        ]
        return self.draw_samples(samples, label)

    def draw_samples(self, tasks: Sequence[tuple[Task, Place]], label: str) -> Drawn:
        """Returns the samples at these places, which differ in anything that an episode depends on (`sample_task`)."""
        from tqdm.auto import tqdm

        known = self.cache[0].samples(self.cache[1], (key for _, (key, _) in tasks)) if self.cache else self._fresh
        missing = {place: task for task, place in tasks if place not in known}
        total, kept = len({place for _, place in tasks}), len({place for _, place in tasks if place in known})
        engine = self.engine() if missing else None  # before the bar's clock starts
        with tqdm(total=total, initial=kept, desc=label, unit="episode") as bar:
            bar.set_postfix(kept=kept)
            if missing:
                self._roll_out(engine, missing, bar.update)
        found = [self._take(task, place) for task, place in tasks]
        return Drawn([k.episode for k in found], [k.in_flight for k in found], kept)

    def _roll_out(self, engine: Engine, missing: dict[Place, Task], tick: Callable[[], Any]) -> None:
        places = list(missing)

        def keep(index: int, episode: Episode) -> None:
            kept = Kept(episode, len(places))
            if self.cache and episode.stop_reason != StopReason.FAILED:
                self.cache[0].put(self.cache[1], places[index], kept)
            else:
                self._fresh[places[index]] = kept
            tick()

        run_episodes(list(missing.values()), engine, self.protocol, self.tokenizer, self.sampling, keep, self.steering)

    def _take(self, task: Task, place: Place) -> Kept:
        """Returns the cached episode, perhaps another process's, so that the next command prints the same table."""
        stored = self.cache[0].get(self.cache[1], place, task, self.protocol) if self.cache else None
        if stored is not None:
            return stored
        kept = self._fresh[place]
        own = {"answer": task.answer, "group_id": task.group_id, "columns": dict(task.columns), "start": task.start}
        return Kept(replace(kept.episode, **own), kept.in_flight)


def sample_task(task: Task, number: int) -> tuple[Task, Place]:
    """Returns a question's task as sample `number`, with its seed and its place in the cache.

    Samples of one number share their seed, whatever they start from, so that starts are compared on equal chances.
    """
    seed_key = f"{hash_question(task.question)}/{number}"
    return replace(task, seed_key=seed_key), (hash_question(task.question, task.start), number)


def _task(row: dict[str, Any], group: int, seed_key: str) -> Task:
    columns = {key: value for key, value in row.items() if key not in ("question", "answer")}
    return Task(row["question"], row["answer"], group, columns, seed_key=seed_key)
