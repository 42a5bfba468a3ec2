"""The functions of `rewards.length` as rewards that a config can name, over groups, with the verifier's verdicts."""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rewards import length
from rewards.schedule import Schedule, at_step, step_of
from rewards.task import answer
from rollout.errors import InputError
from rollout.types import Episode


def _settings_at(settings: dict[str, Any], step: int) -> dict[str, Any]:
    return {name: at_step(value, step) for name, value in settings.items()}


class GroupReward:
    """A function over one group as a reward function.

    Episodes whose answer can't be judged get None and are no part of their group's statistics.

    Args:
        function: `f(lengths, correct, ...)`.
        columns: arguments that a column of the data gives, one value an episode: {argument: column}.
        of_question: arguments that a column gives once for the question.
        settings: the other arguments; numbers may be schedules.
    """

    def __init__(
        self,
        function: Callable[..., list[float]],
        columns: dict[str, str] | None = None,
        of_question: Sequence[str] = (),
        settings: dict[str, Any] | None = None,
    ):
        self.function, self.columns, self.of_question = function, columns or {}, of_question
        self.settings = settings or {}
        self.__name__ = function.__name__

    def bind(self, settings: dict[str, Any]) -> GroupReward:
        """The same with `settings`.

        Raises:
            InputError: an unknown, missing or impossible setting.
        """
        given = {"lengths", "correct", *self.columns, *self.of_question}
        parameters = {n: p for n, p in inspect.signature(self.function).parameters.items() if n not in given}
        for name in settings:
            if name not in parameters:
                known = ", ".join(parameters) or "none"
                raise InputError(f"rewards: {self.__name__} has no setting {name!r}; it takes {known}")
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and name not in settings:
                raise InputError(f"rewards: {self.__name__} needs the setting {name!r}")
        for step in sorted({0, *(s for v in settings.values() if isinstance(v, Schedule) for s, _ in v.points)}):
            self._try(_settings_at(settings, step))
        return type(self)(self.function, self.columns, self.of_question, settings)

    def _try(self, settings: dict[str, Any]) -> None:
        """Calls the function on an empty group: it checks its settings."""
        lists = {name: [] for name in self.columns}
        once = {"ref_lengths": [1], "ref_accuracy": 0.0}
        try:
            self.function([], [], **lists, **{name: once[name] for name in self.of_question}, **settings)
        except (TypeError, ValueError) as error:
            raise InputError(f"rewards: {self.__name__}: {error}") from error

    def __call__(
        self, episodes: Sequence[Episode], correct: Sequence[float | None] | None = None, **given: Any
    ) -> list[float | None]:
        for column in (*self.columns.values(), *self.of_question):
            if column not in given:
                raise InputError(f"{self.__name__} needs a column {column!r} in the data")
        settings = _settings_at(self.settings, step_of(given))
        verdicts = answer(episodes) if correct is None else correct
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index, (episode, verdict) in enumerate(zip(episodes, verdicts, strict=True)):
            if verdict is not None:
                groups[episode.group_id].append(index)
        values: list[float | None] = [None] * len(episodes)
        for members in groups.values():
            lengths = [max(1, episodes[i].num_tokens) for i in members]
            right = [verdicts[i] == 1.0 for i in members]
            arguments = {name: [given[column][i] for i in members] for name, column in self.columns.items()}
            arguments |= {name: given[name][members[0]] for name in self.of_question}
            arguments |= settings
            found = self.of_group(episodes[members[0]], lengths, right, arguments)
            for index, value in zip(members, found, strict=True):
                values[index] = value
        return values

    def of_group(
        self, first: Episode, lengths: list[int], correct: list[bool], arguments: dict[str, Any]
    ) -> list[float]:
        """Values of one group; `first` is one of its episodes, `arguments` all but lengths and verdicts."""
        return self.function(lengths, correct, **arguments)


class O1Pruner(GroupReward):
    """`o1_pruner` with a setting `samples`: episodes a question of the starting model, where the data has no reference.

    `rl.reference` rolls them out before the first step.
    """

    reference_samples = 4

    def bind(self, settings: dict[str, Any]) -> GroupReward:
        settings = dict(settings)
        samples = settings.pop("samples", self.reference_samples)
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise InputError(f"rewards: o1_pruner.samples is {samples!r}; it must be a whole number of at least 1")
        bound = super().bind(settings)
        bound.reference_samples = samples
        return bound


class Hapo(GroupReward):
    """`hapo` with its memory: the shortest correct length of each question so far. A resume keeps it."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.best: dict[str, int] = {}

    def bind(self, settings: dict[str, Any]) -> GroupReward:
        if "best_length" in settings:
            raise InputError("rewards: hapo has no setting 'best_length': it remembers it")
        bound = super().bind({"best_length": None, **settings})
        del bound.settings["best_length"]
        return bound

    def of_group(
        self, first: Episode, lengths: list[int], correct: list[bool], arguments: dict[str, Any]
    ) -> list[float]:
        question = json.dumps(first.question, sort_keys=True)
        values = self.function(lengths, correct, best_length=self.best.get(question), **arguments)
        right = [n for n, c in zip(lengths, correct, strict=True) if c]
        if right:
            self.best[question] = min([*right, self.best.get(question, right[0])])
        return values

    def state_dict(self) -> dict[str, int]:
        return self.best

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.best = dict(state)


EFFICIENCY: dict[str, GroupReward] = {
    "kimi": GroupReward(length.kimi),
    "l1_exact": GroupReward(length.l1_exact, {"budgets": "budget"}),
    "l1_max": GroupReward(length.l1_max, {"budgets": "budget"}),
    "o1_pruner": O1Pruner(length.o1_pruner, of_question=("ref_lengths", "ref_accuracy")),
    "dast": GroupReward(length.dast),
    "arora_zanette": GroupReward(length.arora_zanette),
    "shorterbetter": GroupReward(length.shorterbetter),
    "hapo": Hapo(length.hapo),
    "alp": GroupReward(length.alp),
    "thinkprune": GroupReward(length.thinkprune),
    "laser": GroupReward(length.laser),
}
"""By name. All but `kimi` hold the task reward already: they stand in place of `answer`, with its weight set to 0."""
