"""Saves and restores the state of reward functions (a history of answers, a reference length) with checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rewards.types import Reward, RewardError, StatefulReward

STATE_FILE = "rewards.json"


def _stateful(rewards: Sequence[Reward]) -> dict[str, StatefulReward]:
    return {r.name: r.fn for r in rewards if isinstance(r.fn, StatefulReward)}


def save_reward_states(rewards: Sequence[Reward], folder: Path) -> None:
    """Writes `rewards.json` if any function is stateful.

    Raises:
        RewardError: a state is not JSON-serializable.
    """
    states = {name: fn.state_dict() for name, fn in _stateful(rewards).items()}
    if not states:
        return
    try:
        text = json.dumps(states)
    except TypeError as error:
        raise RewardError(f"state_dict() of a reward must be JSON-serializable: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE_FILE).write_text(text)


def load_reward_states(rewards: Sequence[Reward], folder: Path) -> None:
    """Restores each function's state from the checkpoint `folder`.

    Raises:
        RewardError: the checkpoint has no state for a stateful function.
    """
    functions = _stateful(rewards)
    path = folder / STATE_FILE
    states = json.loads(path.read_text()) if path.exists() else {}
    for name, function in functions.items():
        if name not in states:
            raise RewardError(f"{folder} has no state for reward {name!r}: it was saved without that reward")
        try:
            function.load_state_dict(states[name])
        except Exception as error:  # a user's function may raise anything
            why = f"{type(error).__name__}: {error}"
            raise RewardError(f"{path}: load_state_dict() of reward {name!r} failed: {why}") from error
