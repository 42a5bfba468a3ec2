"""TRL's own length rewards applied to episodes, by name. The length is that of all rounds, not only the last one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from rewards.task import answer
from rollout.types import Episode


def _token_ids(episodes: Sequence[Episode]) -> list[list[int]]:
    return [list(chain.from_iterable(s.completion_ids for s in e.segments)) for e in episodes]


def cosine(
    episodes: Sequence[Episode],
    max_len: int,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    correct: Sequence[float | None] | None = None,
    **_: Any,
) -> list[float | None]:
    """Applies `trl.rewards.get_cosine_scaled_reward` (arXiv 2502.03373) with the verdicts of the run's verifier.

    TRL's function verifies answers itself, in a process that can't be killed. So it receives a boxed verdict (1 or 0)
    as the answer, which it can't misjudge.
    """
    from trl.rewards import get_cosine_scaled_reward

    scaled = get_cosine_scaled_reward(
        min_value_wrong=min_value_wrong,
        max_value_wrong=max_value_wrong,
        min_value_correct=min_value_correct,
        max_value_correct=max_value_correct,
        max_len=max_len,
    )
    verdicts = answer(episodes) if correct is None else correct
    judged = [index for index, verdict in enumerate(verdicts) if verdict is not None]
    values: list[float | None] = [None] * len(episodes)
    found = scaled(
        completions=[[{"role": "assistant", "content": f"$\\boxed{{{verdicts[i]:.0f}}}$"}] for i in judged],
        solution=["$1$"] * len(judged),
        completion_ids=[ids for i, ids in enumerate(_token_ids(episodes)) if verdicts[i] is not None],
    )
    for index, value in zip(judged, found, strict=True):
        values[index] = value
    return values


def soft_overlong(episodes: Sequence[Episode], max_len: int, cache: int, **_: Any) -> list[float | None]:
    """`trl.rewards.get_soft_overlong_punishment` (DAPO, arXiv 2503.14476, eq. 13): 0 to -1 over the last `cache`."""
    from trl.rewards import get_soft_overlong_punishment

    return get_soft_overlong_punishment(max_len, cache)(completion_ids=_token_ids(episodes))


def repetition(
    episodes: Sequence[Episode], ngram_size: int = 3, max_penalty: float = -1.0, **_: Any
) -> list[float | None]:
    """`trl.rewards.get_repetition_penalty_reward` (arXiv 2502.03373, appendix C.2) over the tokens of all rounds."""
    from trl.rewards import get_repetition_penalty_reward

    return get_repetition_penalty_reward(ngram_size, max_penalty)(completion_ids=_token_ids(episodes))


TRL_REWARDS = {"cosine": cosine, "soft_overlong": soft_overlong, "repetition": repetition}
