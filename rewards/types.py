"""Types shared by the files of this package: verdicts, rewards, scores and errors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean, pstdev
from typing import Any, Literal, Protocol, runtime_checkable

from rewards.schedule import Gate, Schedule
from rollout.errors import InputError


class Verdict(StrEnum):
    CORRECT = "correct"
    INCORRECT = "incorrect"
    TIMEOUT = "timeout"  # the comparison exceeded its time limit
    UNPARSABLE_GOLD = "unparsable_gold"  # the gold answer is the problem, not the model's
    ERROR = "error"  # the child failed: out of memory, or a bug in the verifier


class RewardError(InputError):
    """A reward function broke its contract. The message names it and explains how to fix it."""


@runtime_checkable
class StatefulReward(Protocol):
    """A stateful reward function. Its state is saved as JSON in the run's checkpoints."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> None: ...


RewardFunction = Callable[..., list[float | None]]
"""TRL's signature: `f(prompts, completions, episodes, **columns)`, one value per episode; None = can't be scored."""


@dataclass(frozen=True)
class Reward:
    """A reward function and its part in the total."""

    fn: RewardFunction
    name: str
    weight: float | Schedule = 1.0
    combine: Literal["add", "multiply"] = "add"
    settings: dict[str, Any] = field(default_factory=dict)  # additional arguments; numbers may be schedules
    gate: Gate | None = None
    own: frozenset[str] = frozenset()  # arguments that data columns must not fill
    time_limit: float | None = None  # seconds per call, i.e. per batch
    verifier: bool | None = None  # whether its value is the verdict, 1 or 0; None: true for built-in verifiers

    def __post_init__(self):
        if self.combine not in ("add", "multiply"):
            raise InputError(f"reward {self.name!r}: combine is {self.combine!r}; it must be add or multiply")
        if self.time_limit is not None and not self.time_limit > 0:
            raise InputError(f"reward {self.name!r}: time_limit is {self.time_limit!r}; it must be above 0 s")

    @property
    def wants_verdicts(self) -> bool:
        """True if a gate or the function's own `correct` argument needs them."""
        try:
            return self.gate is not None or "correct" in inspect.signature(self.fn).parameters
        except ValueError:  # a function implemented in C may have no signature
            return False


@dataclass
class Scores:
    """Scores of a batch of episodes; lists are in the order of the episodes."""

    total: list[float]  # nan: can't be scored, excluded from the update
    values: dict[str, list[float | None]] = field(default_factory=dict)  # each function's, before weights
    errors: dict[str, int] = field(default_factory=dict)  # episodes on which a function failed
    messages: dict[str, str] = field(default_factory=dict)  # the first failure of each function
    correct: list[float | None] | None = None  # the run's verdicts: 1 or 0, None if an episode can't be judged
    gated: dict[str, list[bool]] = field(default_factory=dict)  # for functions with a gate: whether the term counts
    extra: dict[str, list[Any]] = field(default_factory=dict)  # additional columns of the episode table (`log_extra`)

    def __getitem__(self, name: str) -> list[float | None]:
        return self.values[name]

    def joined(self, other: Scores) -> Scores:
        """Returns these scores followed by those of other episodes, from the same functions."""
        return Scores(
            self.total + other.total,
            {name: values + other.values[name] for name, values in self.values.items()},
            {name: self.errors.get(name, 0) + other.errors.get(name, 0) for name in self.errors | other.errors},
            other.messages | self.messages,
            None if self.correct is None else self.correct + other.correct,
            {name: opens + other.gated[name] for name, opens in self.gated.items()},
            {
                name: self.extra.get(name, [None] * len(self.total)) + other.extra.get(name, [None] * len(other.total))
                for name in self.extra | other.extra
            },
        )

    def metrics(self) -> dict[str, float]:
        """`reward/mean`, `reward/std`, `reward/unscored`; `reward/<name>/mean`, `/errors`, and `/open` if gated."""
        scored = [t for t in self.total if not math.isnan(t)]
        metrics = {"reward/unscored": len(self.total) - len(scored)}
        if scored:
            metrics |= {"reward/mean": fmean(scored), "reward/std": pstdev(scored)}
        for name, values in self.values.items():
            known = [v for v in values if v is not None]
            if known:
                metrics[f"reward/{name}/mean"] = fmean(known)
            metrics[f"reward/{name}/errors"] = self.errors.get(name, 0)
        for name, opens in self.gated.items():
            metrics[f"reward/{name}/open"] = fmean(opens)
        return metrics
