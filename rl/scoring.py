"""Scores a generation batch over several ranks: reward models run on all ranks, functions on the first."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from tqdm.auto import tqdm

from rewards.call import RewardError
from rewards.model import RewardModel, rewards_or_raise
from rewards.score import FailureWatch, Reward, Scores, score_episodes
from rollout.errors import InputError
from rollout.types import Episode, StopReason

logger = logging.getLogger(__name__)


def with_models(reward_funcs: Sequence[Any], tokenizers: Any, loading: dict[str, Any]) -> list[Any]:
    """Returns `reward_funcs` with each path, Hub id or module replaced by a `RewardModel`.

    Args:
        tokenizers: TRL's `reward_processing_classes`: None, one, or one per reward.
        loading: `from_pretrained` arguments for models given by path.

    Raises:
        InputError: the numbers of tokenizers and rewards differ.
    """
    given = list(tokenizers) if isinstance(tokenizers, (list, tuple)) else [tokenizers]
    if tokenizers is None:
        given = [None] * len(reward_funcs)
    if len(given) != len(reward_funcs):
        raise InputError(
            f"reward_processing_classes contains {len(given)} tokenizers, but there are {len(reward_funcs)} rewards: "
            "their number must match (None for a function)"
        )
    wrapped = []
    for reward, tokenizer in zip(reward_funcs, given, strict=True):
        fn = reward.fn if isinstance(reward, Reward) else reward
        if isinstance(fn, str | nn.Module):
            fn = RewardModel(fn, tokenizer, loading=loading)
            reward = replace(reward, fn=fn) if isinstance(reward, Reward) else fn
        elif isinstance(fn, RewardModel):
            fn.tokenizer = tokenizer or fn.tokenizer
        wrapped.append(reward)
    return wrapped


class Scorer:
    """Scores the episodes of all ranks once. Every rank calls it and receives the same scores."""

    def __init__(self, rewards: list[Reward], accelerator: Accelerator):
        self.rewards, self._accelerator = rewards, accelerator
        self._failures = FailureWatch()
        self._warned = False

    def __call__(self, episodes: list[Episode], context: dict[str, Any]) -> Scores:
        """Scores whole groups.

        Args:
            context: further arguments for the functions.

        Raises:
            RewardError: a function broke its contract, or has failed for too long.
        """
        rewards = [self._asked(r, episodes) if isinstance(r.fn, RewardModel) else r for r in self.rewards]
        outcome: list[Any] = [None]
        if self._accelerator.is_main_process:
            try:
                outcome = [score_episodes(episodes, rewards, **context)]
            except RewardError as error:
                outcome = [error]
        broadcast_object_list(outcome)
        if isinstance(outcome[0], RewardError):
            raise outcome[0]
        for line in self._failures.check(outcome[0], len(episodes)):
            tqdm.write(line)
        self._warn(episodes, outcome[0])
        return outcome[0]

    def _asked(self, reward: Reward, episodes: list[Episode]) -> Reward:
        """Returns the reward with its model replaced by the model's values, which all ranks compute together."""
        ranks, rank = self._accelerator.num_processes, self._accelerator.process_index
        found = gather_object(reward.fn.share(episodes, rank, ranks)) if episodes else []
        known = {id(episode): value for episode, value in zip(episodes, found, strict=True)}

        def values(episodes: Sequence[Episode], **_: Any) -> list[float]:
            return rewards_or_raise([known[id(episode)] for episode in episodes])

        return replace(reward, fn=values)

    def _warn(self, episodes: list[Episode], scores: Scores) -> None:
        """Warns once, about the first episode to which no function gave a value."""
        if self._warned or not self._accelerator.is_main_process:
            return
        for index, episode in enumerate(episodes):
            silent = all(values[index] is None for values in scores.values.values())
            if silent and episode.stop_reason != StopReason.FAILED and math.isnan(scores.total[index]):
                self._warned = True
                shown = {"prompt": episode.question, "completion": episode.final_text, **episode.columns}
                logger.warning(
                    "All reward functions returned None for the following kwargs:\n%.1000s\nAn episode without any "
                    "reward is left out of the update (reward/unscored counts them).", shown,
                )  # fmt: skip
                return
