"""`sawtooth rewards test`: tries a reward function on example episodes, before a GPU is rented."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from typing import Any

from rewards.score import score_episodes
from rewards.types import Reward, RewardError, Scores
from rollout.protocol import get_protocol
from rollout.types import Episode, Segment, StopReason

QUESTION, ANSWER = "What is 6 * 7?", "42"
_RIGHT, _WRONG = "So the answer is \\boxed{42}.", "So the answer is \\boxed{41}."
_PROTOCOL = get_protocol("inftythink")

_KINDS: dict[str, tuple[list[str], StopReason]] = {
    "right, one round": ([f"<think>\nSix sevens.\n</think>{_RIGHT}"], StopReason.ANSWERED),
    "right, four rounds": (
        [f"<think>\nStep {n} of a long way.\n</think><summary>Done: {n} of 4.</summary>" for n in (1, 2, 3)]
        + [f"<think>\nThe last step.\n</think>{_RIGHT}"],
        StopReason.ANSWERED,
    ),
    "wrong": ([f"<think>\nSix sevens.\n</think>{_WRONG}"], StopReason.ANSWERED),
    "two answers": ([f"<think>\nOne of them.\n</think>{_RIGHT} Or \\boxed{{41}}."], StopReason.ANSWERED),
    "empty thinking": ([f"<think>\n</think>{_RIGHT}"], StopReason.ANSWERED),
    "truncated": (["<think>\nSix sevens, and then, and then"], StopReason.TRUNCATED),
    "malformed": (["<think>\nSix sevens.\n</think><summary></summary>"], StopReason.MALFORMED),
    "out of rounds": (["<think>\nOn.\n</think><summary>Still going.</summary>"] * 5, StopReason.MAX_ROUNDS),
}


def examples(chat: bool = False, columns: dict[str, Any] | None = None) -> dict[str, Episode]:
    """Returns one episode of each kind, all in one group; tokens are bytes."""
    question = [{"role": "user", "content": QUESTION}] if chat else QUESTION
    episodes = {}
    for kind, (texts, stop) in _KINDS.items():
        segments = [
            Segment(
                prompt_ids=list(QUESTION.encode()),
                completion_ids=list(text.encode()),
                logprobs=[-0.1] * len(text.encode()),
                text=text,
                finish_reason="length" if stop == StopReason.TRUNCATED else "stop",
                turn=_PROTOCOL.parse(text),
            )
            for text in texts
        ]
        known = {"answer": ANSWER, "solution": ANSWER} | (columns or {})
        episodes[kind] = Episode(copy.deepcopy(question), ANSWER, "0", segments, stop, known)
    return episodes


def try_reward(reward: Reward, columns: dict[str, Any] | None = None) -> list[str]:
    """Calls the reward as a run does, prints its values, and returns the problems found, one line each."""
    problems: list[str] = []
    episodes = examples(columns=columns)
    started = time.perf_counter()
    scores = _scored(list(episodes.values()), reward, "", problems)
    seconds = time.perf_counter() - started
    if scores is None:
        return problems
    values = dict(zip(episodes, scores[reward.name], strict=True))
    for kind, value in values.items():
        print(f"  {kind:20} {episodes[kind].num_rounds} rounds {episodes[kind].num_tokens:4} tokens  {_shown(value)}")
    print(f"  {len(episodes)} episodes in {seconds * 1000:.0f} ms")
    known = [v for v in values.values() if v is not None]
    if not known:
        return [*problems, "it scores none of the examples: a run could not learn from it"]
    if len(set(known)) == 1 and reward.combine == "add":
        problems.append(f"it gives every example {_shown(known[0])}: alone, it makes every advantage 0")
    problems += _compare(reward, list(values.values()), columns)
    right, wrong = values["right, one round"], values["wrong"]
    if right is not None and wrong is not None and wrong > right:
        problems.append(f"the wrong answer scores higher ({_shown(wrong)}) than the right one ({_shown(right)})")
    return problems


def _compare(reward: Reward, values: list[float | None], columns: dict[str, Any] | None) -> list[str]:
    """Checks that the same episodes get the same values in other batches, orders and formats."""
    problems: list[str] = []
    both = [*examples(columns=columns).values(), *examples(columns=columns).values()]
    for episode in both[len(values) :]:
        episode.group_id = "1"
    before = copy.deepcopy(both)
    scores = _scored(both, reward, "with two groups in a batch", problems)
    if scores is not None:
        if not (
            _same(scores[reward.name][: len(values)], values) and _same(scores[reward.name][len(values) :], values)
        ):
            problems.append("values change with the other groups of the batch, or from call to call")
        if both != before:
            problems.append("it modifies the episodes that it receives")
    backwards = _scored(list(examples(columns=columns).values())[::-1], reward, "in another order", problems)
    if backwards is not None and not _same(backwards[reward.name][::-1], values):
        problems.append("values change with the order of the episodes")
    chat = _scored(list(examples(True, columns).values()), reward, "with chat questions", problems)
    if chat is not None and not _same(chat[reward.name], values):
        problems.append("values differ when the question is chat messages (completions are then messages too)")
    _scored([examples(columns=columns)["wrong"]], reward, "with one episode alone", problems)
    return problems


def _scored(episodes: list[Episode], reward: Reward, when: str, problems: list[str]) -> Scores | None:
    try:
        scores = score_episodes(episodes, [reward], log_metric=_ignore, log_extra=_ignore)
    except RewardError as error:
        problems.append(" ".join(filter(None, [str(error), when])))
        return None
    if not scores.errors:
        return scores
    where = f" {when}" if when else ""
    problems.append(f"fails on {scores.errors[reward.name]} of {len(episodes)} episodes{where}: "
                    f"{scores.messages[reward.name]}")  # fmt: skip
    return None


def _ignore(*_: Any) -> None:
    """Stands in for TRL's hooks for a function's own metrics."""


def _same(values: Sequence[float | None], others: Sequence[float | None]) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9))
        for a, b in zip(values, others, strict=True)
    )


def _shown(value: float | None) -> str:
    return "can't be scored" if value is None else f"{value:.4f}"
