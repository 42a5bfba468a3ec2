"""Partition of a chain of thought into segments of at most eta tokens (InftyThink, arXiv 2503.06692, section 3)."""

from __future__ import annotations

import re
from collections.abc import Callable

# Best boundary first. Each pattern matches the separator that ends a piece; the piece keeps it, so pieces join back.
_BOUNDARIES = [
    re.compile(r"\n[^\S\n]*\n\s*"),  # paragraph
    re.compile(r"\n"),  # line
    re.compile(r"[.!?][\"')\]]*\s+|[。！？]"),  # sentence
    re.compile(r"\s+"),  # word
    re.compile(r"", re.DOTALL),  # character
]


def split_reasoning(text: str, count_tokens: Callable[[str], int], segment_tokens: int) -> list[str]:
    """Cuts `text` greedily, in order, into pieces of at most `segment_tokens` tokens.

    Each piece is as long as fits and ends at the best boundary that fits: paragraph, line, sentence, word, and last
    of all a character. `"".join(result) == text`; the empty text has no piece.

    Args:
        count_tokens: tokens of a string by the target model's tokenizer.

    Raises:
        ValueError: `segment_tokens` is below 1, or a single character takes more tokens than that.
    """
    if segment_tokens < 1:
        raise ValueError(f"segment_tokens is {segment_tokens}; it must be at least 1")
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = _cut(text, start, count_tokens, segment_tokens)
        pieces.append(text[start:end])
        start = end
    return pieces


def _cut(text: str, start: int, count_tokens: Callable[[str], int], limit: int) -> int:
    """End of the piece that starts at `start`."""
    # A window with at least one piece in it: doubled until it no longer fits, so a cut costs O(piece), not O(text).
    width = 2 * limit
    while start + width < len(text) and count_tokens(text[start : start + width]) <= limit:
        width *= 2
    window_end = min(len(text), start + width)
    if window_end == len(text) and count_tokens(text[start:]) <= limit:
        return len(text)
    for boundary in _BOUNDARIES:
        ends = [m.end() for m in boundary.finditer(text, start, window_end) if start < m.end() < len(text)]
        end = _last_that_fits(text, start, ends, count_tokens, limit)
        if end is not None:
            return end
    raise ValueError(f"the character {text[start]!r} alone takes more than {limit} tokens")


def _last_that_fits(
    text: str, start: int, ends: list[int], count_tokens: Callable[[str], int], limit: int
) -> int | None:
    """Largest of the ascending `ends` whose piece fits, by bisection; the piece returned has been counted."""
    low, high, best = 0, len(ends) - 1, None
    while low <= high:
        middle = (low + high) // 2
        if count_tokens(text[start : ends[middle]]) <= limit:
            best, low = ends[middle], middle + 1
        else:
            high = middle - 1
    return best
