"""Finds where a chain of thought may be cut (paragraphs, lines, sentences, words) and the groups to keep whole."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property

# Best first. Each pattern matches the separator that ends a piece; the piece keeps it, so pieces join back.
_LEVELS = [
    re.compile(r"\n[^\S\n]*+\n\s*+"),  # paragraph
    re.compile(r"\n\s*+"),  # line
    re.compile(
        r"(?<!^\d)(?<!^\d\d)[.!?][\"')\]]*+\s++|[。！？]\s*+", re.MULTILINE
    ),  # sentence; not after "1." of a list
    re.compile(r"(?<!\d)\s++|\s++(?!\d)|(?<=\d)\s*\n\s*+"),  # word; "1 000" is one
]

# Every alternative begins with a literal character, which makes the search fast. Each group has a maximum length, which
# bounds the cost of an unclosed one (which is not a group).
_WHOLE = re.compile(
    r"```.{1,20000}?```|~~~.{1,20000}?~~~|`[^`\n]{1,400}`"  # code
    r"|\\\[.{1,4000}?\\\]|\\\(.{1,1000}?\\\)|\\begin\{(\w{1,20}\*?)\}.{0,4000}?\\end\{\1\}"
    r"|\$\$.{1,4000}?\$\$|\$(?![\s$])[^$\n]{1,400}(?<!\s)\$(?!\d)"  # TeX, not "$5 and $6"
    r"|\\[A-Za-z]{1,30}(?:\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,200}\}){0,300}\}){0,300}\})++",  # \frac{…}{…}
    re.DOTALL,
)
_INSIDE_NUMBER = re.compile(r"(?<=\d)[.,]?(?=\d)|(?<=[.,])(?=\d)")
_JOINED = re.compile(r"[\u0300-\u036f\u200d\ufe00-\ufe0f]")  # combining marks: part of the character before them


class Boundaries:
    """Cut positions in one text, computed lazily. A place p cuts into text[:p] and text[p:]."""

    def __init__(self, text: str):
        self.text = text
        self._free: dict[int, list[int]] = {}
        self._inside: dict[int, list[int]] = {}

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """(start, end) of code, LaTeX groups and similar, in order."""
        return [match.span() for match in _WHOLE.finditer(self.text)]

    def group_at(self, place: int) -> tuple[int, int] | None:
        """Returns the group that a cut at `place` would break, or None."""
        index = bisect_left(self.groups, (place,)) - 1
        if index >= 0 and self.groups[index][0] < place < self.groups[index][1]:
            return self.groups[index]
        return None

    def candidates(self, low: int, high: int, whole: bool) -> Iterator[int]:
        """Yields places in [low, high], the best level first and each level from its last place backward.

        Args:
            whole: only places outside groups; False: only those inside.
        """
        for level in range(len(_LEVELS)):
            places = self._places(level, whole)
            yield from reversed(places[bisect_left(places, low) : bisect_right(places, high)])

    def _places(self, level: int, whole: bool) -> list[int]:
        if level not in self._free:
            end = len(self.text)
            every = [m.end() for m in _LEVELS[level].finditer(self.text) if m.end() < end]
            broken = [p for p in every if self.group_at(p)]
            self._inside[level] = broken
            self._free[level] = [p for p in every if not self.group_at(p)] if broken else every
        return (self._free if whole else self._inside)[level]

    def character(self, low: int, high: int) -> int:
        """Returns the last place in [low, high] between separable characters; `high` if there is none."""
        fallback = None
        for place in range(high, max(low, high - 200) - 1, -1):
            if _JOINED.match(self.text, place) or self.text[place - 1 : place] == "\u200d":
                continue
            if fallback is None:
                fallback = place
            before, after = self.text[place - 1 : place], self.text[place : place + 1]
            if not ((before.isalnum() or before == "\\") and after.isalnum()) and not _INSIDE_NUMBER.match(
                self.text, place
            ):
                return place
        return high if fallback is None else fallback
