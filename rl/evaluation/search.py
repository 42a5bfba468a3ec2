"""Search with a stop: more samples for hard questions, fewer for easy ones. No loop here sees a gold answer.

`best` (Best-of-N), `refine` (self-refine), `tree` (tree of thoughts over summaries) and `probe` (a long chain of
thought, asked for its answer after each round) spend until a score reaches tau: the adaptive test-time methods of *Can
Past Experience Accelerate LLM Reasoning?* (arXiv 2505.20643), over rounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rl.evaluation.scores import Score, confidence, same_answers
from rl.evaluation.search_settings import Search
from rollout.types import Episode, Start, StopReason, Task

Sample = tuple[Task, int]
"""A task and the number of its sample, which is unique among the samples of one start."""

Kind = Literal["episodes", "rounds", "answers"]
"""What is drawn: whole episodes, single rounds, or answers forced from the start alone."""

Draw = Callable[[Sequence[Sample], Kind], list[Episode]]

REFINE = "{summary}\nAn earlier attempt ended in: {answer}\nCheck it, and improve it."
"""What an attempt of `refine` starts from: the last one's summary and conclusion."""


@dataclass(frozen=True)
class Found:
    """The outcome for one question."""

    episode: Episode | None  # the best one, with all rounds that led to it; None: none ended
    score: float | None
    cost: int  # answers, attempts or rounds
    tokens: int  # generated, over all samples
    prompt_tokens: int
    why: str  # "enough" (tau reached, or two answers agree), "all" (spent), or "nothing left"


def search(tasks: Sequence[Task], draw: Draw, score: Score, settings: Search, max_rounds: int) -> list[Found]:
    """Searches for an answer to every task.

    All open questions advance together, one batch of samples a wave. A question's outcome depends on its own samples.

    Args:
        score: of all ended episodes of one question, in order.
        max_rounds: phi, the depth of a tree and the length of a chain.
    """
    runs = [_RUNS[settings.kind](task, score, settings, max_rounds) for task in tasks]
    while True:
        wave = [(run, run.kind, sample) for run in runs if run.why is None for sample in run.ask()]
        if not wave:
            return [run.found() for run in runs]
        drawn: dict[_Run, list[Episode]] = {}
        for kind in dict.fromkeys(kind for _, kind, _ in wave):
            asked = [(run, sample) for run, of, sample in wave if of == kind]
            for (run, _), episode in zip(asked, draw([sample for _, sample in asked], kind), strict=True):
                drawn.setdefault(run, []).append(episode)
        for run, episodes in drawn.items():
            run.take(episodes)


class _Run(ABC):
    """One question's search: `ask` for samples, `take` them, until `why` is set."""

    kind: Kind = "episodes"

    def __init__(self, task: Task, score: Score, settings: Search, max_rounds: int):
        self.task, self.score, self.settings, self.max_rounds = task, score, settings, max_rounds
        self.ended: list[Episode] = []
        self.cost = self.tokens = self.prompt_tokens = 0
        self.best: tuple[Episode | None, float | None] = None, None
        self.why: str | None = None

    @property
    def left(self) -> int:
        return self.settings.most - self.cost

    def ask(self) -> list[Sample]:
        """Returns the next samples; none, with the reason in `why`, if it is over."""
        self.why = "all" if self.left < 1 else None
        return [] if self.why else self.next()

    @abstractmethod
    def next(self) -> list[Sample]:
        """Returns the next samples of a search that may still spend."""

    @abstractmethod
    def take(self, episodes: list[Episode]) -> None:
        """Takes the episodes of these samples."""

    def spend(self, episodes: Sequence[Episode], cost: int) -> None:
        self.cost += cost
        self.tokens += sum(episode.num_tokens for episode in episodes)
        self.prompt_tokens += sum(episode.prompt_tokens for episode in episodes)

    def choose(self) -> None:
        """Takes the first of the best-scored episodes, and ends the search if it is good enough."""
        scores = self.score(self.ended)
        place = max(range(len(scores)), key=lambda i: scores[i])
        self.best = self.ended[place], scores[place]
        if self.settings.stop is not None and scores[place] >= self.settings.stop:
            self.why = "enough"

    def found(self) -> Found:
        return Found(*self.best, self.cost, self.tokens, self.prompt_tokens, self.why or "all")


class _Best(_Run):
    def next(self) -> list[Sample]:
        return [(self.task, self.cost + i) for i in range(min(self.settings.width, self.left))]

    def take(self, episodes: list[Episode]) -> None:
        self.ended += episodes
        self.spend(episodes, len(episodes))
        self.choose()


class _Refine(_Best):
    """Attempt j starts from attempt j - 1. Two successive attempts with equal answers end it."""

    def next(self) -> list[Sample]:
        return [(replace(self.task, start=_after(self.ended[-1]) if self.ended else None), self.cost)]

    def take(self, episodes: list[Episode]) -> None:
        super().take(episodes)
        if self.why is None and same_answers(self.ended[-2:]):
            self.why = "enough"


def _after(last: Episode) -> Start | None:
    """Returns what the next attempt starts from; None: the last one wrote neither summary nor answer."""
    summaries = [segment.turn.summary for segment in last.segments if segment.turn.summary]
    before = last.start.history if last.start is not None else None
    answer = last.segments[-1].turn.conclusion if last.segments else None
    if not summaries and not answer:
        return last.start
    return Start(history=REFINE.format(summary=[before or "", *summaries][-1], answer=(answer or "nothing").strip()))


@dataclass
class _Node:
    """A state of a question: a summary after so many rounds."""

    rounds: int
    history: str | None
    path: Episode | None  # the rounds that led here, by the most confident way
    score: float = 1.0
    reached: int = 1  # how many continuations wrote this summary
    expanded: bool = False


class _Tree(_Run):
    """Equal summaries after equally many rounds are one node: with any number of rounds, a model that repeats itself
    would end `tree:N:1:1` where a plain episode goes on."""

    kind: Kind = "rounds"

    def __init__(self, *given):
        super().__init__(*given)
        self.nodes: dict[tuple[int, str | None], _Node] = {(0, None): _Node(0, None, None)}
        self.asked: list[_Node] = []

    def next(self) -> list[Sample]:
        ready = [node for node in self.nodes.values() if not node.expanded]
        ready = sorted(ready, key=lambda node: -node.score)[: self.settings.keep]  # of equal ones, the first to appear
        samples, self.asked = [], []
        for node in ready:
            for number in range(min(self.settings.width, self.left - len(samples))):
                node.expanded = True
                samples.append((replace(self.task, start=Start(history=node.history, rounds=node.rounds)), number))
                self.asked.append(node)
        self.why = None if samples else "nothing left"
        return samples

    def take(self, episodes: list[Episode]) -> None:
        self.spend(episodes, len(episodes))
        before = len(self.ended)
        for node, one in zip(self.asked, episodes, strict=True):
            path = _joined(node.path, one)
            if one.stop_reason == StopReason.MAX_ROUNDS and path.num_rounds < self.max_rounds:
                self.reach(_Node(path.num_rounds, one.segments[-1].turn.summary, path, confidence(path)))
            else:
                self.ended.append(path)
        if len(self.ended) > before:
            self.choose()

    def reach(self, node: _Node) -> None:
        same = self.nodes.setdefault((node.rounds, node.history), node)
        if same is not node:
            same.reached += 1
            if node.score > same.score:
                same.path, same.score = node.path, node.score


def _joined(path: Episode | None, one: Episode) -> Episode:
    """Returns the episode of all rounds up to this one, as if it had been rolled out at once."""
    if path is None:
        return replace(one, start=None)
    return replace(one, segments=path.segments + one.segments, start=None, seconds=path.seconds + one.seconds)


class _Probe(_Run):
    """After each round that ended in a summary, an answer is forced from it. Two equal ones in a row end the search."""

    kind: Kind = "rounds"

    def __init__(self, *given):
        super().__init__(*given)
        self.path: Episode | None = None
        self.answers: list[Episode] = []

    def ask(self) -> list[Sample]:
        return self.next() if self.kind == "answers" else super().ask()  # the last round is asked for its answer too

    def next(self) -> list[Sample]:
        start = self.path and Start(history=self.path.segments[-1].turn.summary, rounds=self.path.num_rounds)
        return [(replace(self.task, start=start), 0)]

    def take(self, episodes: list[Episode]) -> None:
        self.spend(episodes, 1 if self.kind == "rounds" else 0)
        path = _joined(self.path, episodes[0])
        if self.kind == "answers":
            self.kind = "rounds"
            self.answers.append(path)
            self.ended = [path]
            self.why = "enough" if same_answers(self.answers[-2:]) else None
        else:
            self.path, self.ended = path, [path]
            more = path.stop_reason == StopReason.MAX_ROUNDS and path.num_rounds < self.max_rounds
            self.kind, self.why = ("answers", None) if more else ("rounds", "nothing left")
        self.choose()


_RUNS = {"best": _Best, "refine": _Refine, "tree": _Tree, "probe": _Probe}
