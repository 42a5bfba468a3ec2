"""R_task: the verified answer as a reward."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from rewards.answer import Verdict, verify_many
from rollout.types import Episode, StopReason

_VALUES = {Verdict.CORRECT: 1.0, Verdict.INCORRECT: 0.0}
_MOST_KNOWN = 65536
_known: OrderedDict[bytes, float] = OrderedDict()  # several rewards of one batch ask for the same verdicts


def answer(episodes: Sequence[Episode], timeout: float = 5.0, **_: Any) -> list[float | None]:
    """1 where the final output's answer verifies against the gold answer, else 0.

    Only a concluded episode can be right: one that was truncated, is malformed or stopped at phi scores 0, whatever
    its text holds. None where the gold answer can't be parsed, the verifier failed or ran out of time.
    """
    values: list[float | None] = [0.0] * len(episodes)
    keys = {i: _key(e) for i, e in enumerate(episodes) if e.stop_reason == StopReason.ANSWERED}
    new = [index for index, key in keys.items() if key not in _known]
    verdicts = verify_many([(episodes[i].final_text, episodes[i].answer) for i in new], timeout)
    found = dict(zip(new, verdicts, strict=True))
    for index, key in keys.items():
        values[index] = _VALUES.get(found[index]) if index in found else _known[key]
        if values[index] is not None:  # what failed is asked again the next time
            _known[key] = values[index]
    while len(_known) > _MOST_KNOWN:
        _known.popitem(last=False)
    return values


def _key(episode: Episode) -> bytes:
    return hashlib.sha256(f"{episode.answer!s}\0{episode.final_text}".encode(errors="surrogatepass")).digest()
