"""Splits a chain of thought into segments of at most eta tokens (InftyThink, arXiv 2503.06692, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from sft.boundaries import Boundaries
from sft.counting import PlainRuler, Ruler

PACKINGS = ("greedy", "balanced")


def split_reasoning(
    text: str,
    count_tokens: Callable[[str], int],
    segment_tokens: int,
    *,
    floor: int = 0,
    packing: str = "greedy",
) -> list[str]:
    """Cuts `text`, in order, into pieces of at most `segment_tokens` tokens. `"".join(result) == text`.

    A piece ends at the best boundary that fits: paragraph, line, sentence, word, or finally a character. Code, LaTeX
    groups and numbers are cut only if they don't fit into a piece of their own. An empty text has no piece.

    Args:
        count_tokens: tokens of a string by the target model's tokenizer; a `TokenCounter` is fast.
        floor: minimum tokens of a piece, if its neighbors have room for it.
        packing: "greedy" (each piece as long as fits) or "balanced" (the same number of pieces, of similar length).

    Raises:
        ValueError: a setting is out of range, or a single character takes more tokens than a piece may have.
    """
    cuts = cut_reasoning(text, count_tokens, segment_tokens, floor=floor, packing=packing)
    return [text[start:end] for start, end in pairwise([0, *(end for end, _ in cuts)])]


def cut_reasoning(
    text: str, count_tokens: Callable[[str], int], segment_tokens: int, *, floor: int = 0, packing: str = "greedy"
) -> list[tuple[int, int]]:
    """Returns (end, tokens) of each piece of `split_reasoning`."""
    if segment_tokens < 1:
        raise ValueError(f"segment_tokens is {segment_tokens}; it must be at least 1")
    if not 0 <= floor <= segment_tokens // 2:
        raise ValueError(f"floor is {floor}; it must be from 0 to half of segment_tokens ({segment_tokens})")
    if packing not in PACKINGS:
        raise ValueError(f"packing is {packing!r}; it must be one of {', '.join(PACKINGS)}")
    make_ruler = getattr(count_tokens, "ruler", None)
    ruler = make_ruler(text) if make_ruler else PlainRuler(text, count_tokens)
    splitter = _Splitter(text, ruler, floor)
    ends = splitter.split(segment_tokens)
    if packing == "balanced" and len(ends) > 1:
        ends = _balance(splitter, ends, segment_tokens)
    return [(end, ruler.tokens(start, end)) for start, end in pairwise([0, *ends])]


def _balance(splitter: _Splitter, ends: list[int], limit: int) -> list[int]:
    """Evens out piece lengths: searches, to a 64th, the smallest limit that does not give more pieces."""
    total = splitter.ruler.tokens(0, ends[-1])
    low, high, best = max(1, 2 * splitter.floor, total // len(ends)), limit, ends
    while high - low > limit // 64:
        middle = (low + high) // 2
        try:
            tried = splitter.split(middle)
        except ValueError:  # a character that is longer than this limit
            low = middle + 1
            continue
        if len(tried) <= len(ends):
            high, best = middle, tried
        else:
            low = middle + 1
    return splitter.mend(best, limit)  # a neighbor may have room after all


class _Splitter:
    """Cuts one text; caches facts about the text that every limit can reuse."""

    def __init__(self, text: str, ruler: Ruler, floor: int):
        self.text, self.ruler, self.floor = text, ruler, floor
        self.boundaries = Boundaries(text)

    def split(self, limit: int) -> list[int]:
        """Returns the ends of the pieces."""
        ends: list[int] = []
        start = 0
        while start < len(self.text):
            start = self._cut(start, limit)
            ends.append(start)
        return self.mend(ends, limit)

    def _cut(self, start: int, limit: int) -> int:
        """Returns the end of the piece that starts at `start`."""
        reach = min(self.ruler.reach(start, limit), len(self.text))
        if reach == len(self.text) and self.ruler.tokens(start, reach) <= limit:
            return reach
        least = self.ruler.reach(start, self.floor) if self.floor else start + 1
        tries = [(least, True), (start + 1, True), (least, False), (start + 1, False)]
        group = self.boundaries.group_at(reach)
        if group and self.ruler.tokens(*group) > limit:  # it has to be broken, so avoid a short piece before it
            tries[1], tries[2] = tries[2], tries[1]
        for low, whole in tries:
            for place in self.boundaries.candidates(low, reach, whole):
                if self.ruler.tokens(start, place) <= limit:
                    return place
        return self._cut_characters(start, reach, limit)

    def _cut_characters(self, start: int, reach: int, limit: int) -> int:
        place = self.boundaries.character(start + 1, reach)
        while self.ruler.tokens(start, place) > limit:
            if place == start + 1:
                raise ValueError(f"the character {self.text[start]!r} alone takes more than {limit} tokens")
            place = self.boundaries.character(start + 1, place - 1)
        return place

    def mend(self, ends: list[int], limit: int) -> list[int]:
        """Joins a piece below the floor to a neighbor with room, or moves part of a neighbor into the last piece."""
        if not self.floor:
            return ends
        return self._join(self._fill_last(self._join(ends, limit), limit), limit)

    def _join(self, ends: list[int], limit: int) -> list[int]:
        joined: list[int] = []
        for end in ends:
            if joined:
                start, middle = (joined[-2] if len(joined) > 1 else 0), joined[-1]
                short = min(self.ruler.tokens(start, middle), self.ruler.tokens(middle, end)) < self.floor
                if short and self.ruler.tokens(start, end) <= limit:
                    joined.pop()
            joined.append(end)
        return joined

    def _fill_last(self, ends: list[int], limit: int) -> list[int]:
        if len(ends) < 2:
            return ends
        start, middle, end = (ends[-3] if len(ends) > 2 else 0), ends[-2], ends[-1]
        if self.ruler.tokens(middle, end) < self.floor:
            middle = self._cut(start, min(limit, self.ruler.tokens(start, end) - self.floor))
            if min(self.ruler.tokens(start, middle), self.ruler.tokens(middle, end)) >= self.floor:
                return [*ends[:-2], middle, end]
        return ends
