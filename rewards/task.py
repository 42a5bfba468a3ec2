"""R_task: the verified answer as a reward."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

from rewards.answer import verify_many
from rewards.types import Verdict
from rollout.errors import InputError
from rollout.types import Episode, StopReason

_VALUES = {Verdict.CORRECT: 1.0, Verdict.INCORRECT: 0.0}
_MOST_KNOWN = 65536
_known: OrderedDict[bytes, Verdict] = OrderedDict()  # several rewards of one batch ask for the same verdicts


def answer(
    episodes: Sequence[Episode],
    seconds: float = 5.0,
    timeout: Literal["unscored", "wrong"] = "unscored",
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """Returns 1 if the answer in the final output is verified against the gold answer, else 0.

    Only a concluded episode can be right: one that was truncated, is malformed or stopped at phi scores 0, whatever
    its text contains. None if the gold answer can't be parsed, or the verifier failed or timed out: counted in the
    metrics `answer/unparsable_gold`, `answer/error` and `answer/timeout`.

    Args:
        seconds: CPU time allowed for comparing one answer.
        timeout: value of an answer whose comparison times out: "unscored" is None, "wrong" is 0, so that writing a huge
            power is no better than a wrong answer.

    Raises:
        InputError: another value of `timeout`.
    """
    if timeout not in ("unscored", "wrong"):
        raise InputError(f"timeout is {timeout!r}; it must be unscored or wrong")
    values = _VALUES | ({Verdict.TIMEOUT: 0.0} if timeout == "wrong" else {})
    keys = {i: _key(e, seconds) for i, e in enumerate(episodes) if e.stop_reason == StopReason.ANSWERED}
    new = {key: index for index, key in keys.items() if key not in _known}
    pairs = [(episodes[i].final_text, episodes[i].answer) for i in new.values()]
    found = {key: _known[key] for key in keys.values() if key in _known}
    found |= dict(zip(new, verify_many(pairs, seconds), strict=True))
    _known.update(found)
    while len(_known) > _MOST_KNOWN:
        _known.popitem(last=False)
    if log_metric is not None:
        counts = Counter(found[key] for key in keys.values())
        for verdict in (Verdict.TIMEOUT, Verdict.ERROR, Verdict.UNPARSABLE_GOLD):
            log_metric(f"answer/{verdict}", counts[verdict])
    return [values.get(found[keys[i]]) if i in keys else 0.0 for i in range(len(episodes))]


def _key(episode: Episode, seconds: float) -> bytes:
    text = f"{seconds}\0{episode.answer!s}\0{episode.final_text}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
