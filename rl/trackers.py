"""The table `episodes` of W&B and Trackio (`log_completions`): a few episodes of a step next to its metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

from transformers.trainer_callback import TrainerCallback

from rewards.score import Scores
from rollout.store import store_question
from rollout.terminal import clip_middle
from rollout.types import Episode

ROWS = 16
"""Maximum rows of a table: the best and the worst episode of 8 groups."""
CHARACTERS = 4000
"""Longest text in a cell; the parquet files contain all of it."""


class EpisodeTable(TrainerCallback):
    """Sends episodes of the newest training step with each log, to callbacks that have `send_table`."""

    def __init__(self, callbacks: Sequence[Any]):
        self._trackers = [callback for callback in callbacks if hasattr(callback, "send_table")]
        self._held: tuple[list[str], list[list[Any]]] | None = None

    def hold(self, step: int, episodes: Sequence[Episode], scores: Scores, advantages: Sequence[float]) -> None:
        """Keeps a step's episodes for the next log, in place of earlier ones."""
        self._held = table_of(step, episodes, scores, advantages)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self._held is None:
            return
        for tracker in self._trackers:
            tracker.send_table("episodes", *self._held, step=state.global_step)
        self._held = None


def table_of(
    step: int, episodes: Sequence[Episode], scores: Scores, advantages: Sequence[float]
) -> tuple[list[str], list[list[Any]]]:
    """Returns columns and at most `ROWS` rows. `step`, `group` and `episode` match the parquet files."""
    columns = [
        "step", "group", "episode", "question", "answer", "output", "stop_reason", "rounds", "tokens", "reward",
        *(f"reward/{name}" for name in scores.values), "advantage", "summaries",
        *scores.extra,
    ]  # fmt: skip
    rows = []
    for index in _picked(episodes, scores.total):
        episode, total = episodes[index], scores.total[index]
        rounds = enumerate(episode.segments, 1)
        summaries = [f"round {n}: {s.turn.summary}" for n, s in rounds if s.turn.summary is not None]
        answer = None if episode.answer is None else str(episode.answer)
        texts = store_question(episode.question), episode.final_text, "\n\n".join(summaries)
        question, output, written = (clip_middle(text, CHARACTERS) for text in texts)
        rows.append([
            step, str(episode.group_id), index, question, answer, output, str(episode.stop_reason), episode.num_rounds,
            episode.num_tokens, None if math.isnan(total) else total,
            *(values[index] for values in scores.values.values()),
            float(advantages[index]), written, *(v[index] for v in scores.extra.values()),
        ])  # fmt: skip
    return columns, rows


def _picked(episodes: Sequence[Episode], totals: Sequence[float]) -> list[int]:
    """Returns the best and the worst episode of each group, widest reward range first; one if rewards are equal."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, episode in enumerate(episodes):
        groups[episode.group_id].append(index)
    pairs = []
    for members in groups.values():
        scored = [i for i in members if not math.isnan(totals[i])]
        best, worst = (f(scored or members[:1], key=totals.__getitem__) for f in (max, min))
        pairs.append((totals[best] - totals[worst] if scored else 0.0, best, worst))
    pairs.sort(key=lambda pair: -pair[0])
    return [i for _, best, worst in pairs for i in dict.fromkeys((best, worst))][:ROWS]
