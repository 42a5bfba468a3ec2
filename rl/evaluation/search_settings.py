"""Settings of a search, as users write them: `best:16@0.9`, `tree:64:4:2@0.9`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rollout.errors import InputError

KINDS = ("best", "refine", "tree", "probe")


@dataclass(frozen=True)
class Search:
    """Settings of a search, written `kind:most[:width[:keep]][@tau]`.

    Args:
        most: maximum answers (best), attempts (refine) or rounds (tree, probe) of a question.
        width: answers between two checks (best), or continuations of a node (tree).
        keep: nodes that are expanded at once (tree).
        stop: tau, the score that is good enough; None: the search spends everything.
    """

    kind: str
    most: int
    width: int = 1
    keep: int = 1
    stop: float | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise InputError(f"search {self.kind!r} is not known; known: {', '.join(KINDS)}")
        if min(self.most, self.width, self.keep) < 1:
            raise InputError(f"search {self.label}: all of its numbers must be at least 1")
        if self.kind in ("refine", "probe") and (self.width, self.keep) != (1, 1):
            raise InputError(
                f"search {self.label}: {self.kind} has neither width nor keep; write {self.kind}:{self.most}"
            )
        if self.kind == "best" and self.keep != 1:
            raise InputError(f"search {self.label}: write best:{self.most}:{self.width}, without keep")
        if self.kind == "probe" and self.stop is not None:
            raise InputError(f"search {self.label}: probe ends when two answers agree and takes no @tau")

    @property
    def label(self) -> str:
        """The label in tables: the shortest form of its text."""
        numbers = [self.most, self.width, self.keep]
        while len(numbers) > 1 and numbers[-1] == 1:
            numbers.pop()
        return f"{self.kind}:{':'.join(map(str, numbers))}" + ("" if self.stop is None else f"@{self.stop:g}")


def read_search(text: Any) -> Search:
    """Parses `best:16`, `best:16:4@0.9` or `tree:64:4:2@0.9`."""
    form = r"([a-z]+):(\d+)(?::(\d+))?(?::(\d+))?(?:@(\d*\.?\d+))?"
    match = re.fullmatch(form, text) if isinstance(text, str) else None
    if not match:
        raise InputError(f"search is {text!r}; write kind:most[:width[:keep]][@tau], as best:16@0.9 or tree:64:4:2@0.9")
    kind, most, width, keep, stop = match.groups()
    return Search(kind, int(most), int(width or 1), int(keep or 1), None if stop is None else float(stop))
