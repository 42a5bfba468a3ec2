"""Counts tokens of pieces of a text: exactly, by encoding each piece; offsets give a guess of a piece's end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Protocol

from tokenizers import Tokenizer

from rollout.errors import InputError


class Ruler(Protocol):
    """Measures pieces of one text."""

    def tokens(self, start: int, end: int) -> int:
        """Count the tokens of text[start:end] alone."""

    def reach(self, start: int, limit: int) -> int:
        """Guess the end of `limit` tokens from `start`; the caller checks it with `tokens`."""


class PlainRuler:
    """A ruler for any function that counts tokens: guesses by bisection."""

    def __init__(self, text: str, count: Callable[[str], int]):
        self.text, self.count = text, count

    def tokens(self, start: int, end: int) -> int:
        return self.count(self.text[start:end])

    def reach(self, start: int, limit: int) -> int:
        width = 2 * limit  # doubled until it no longer fits, so the cost is proportional to the piece
        while start + width < len(self.text) and self.tokens(start, start + width) <= limit:
            width *= 2
        low, high = start + 1, min(len(self.text), start + width)
        while low < high:
            middle = (low + high + 1) // 2
            if self.tokens(start, middle) <= limit:
                low = middle
            else:
                high = middle - 1
        return low


class OffsetRuler:
    """A ruler for a fast tokenizer: encodes the whole text once for guesses, each piece once for its exact count."""

    def __init__(self, text: str, tokenizer: Tokenizer):
        self.text, self.tokenizer = text, tokenizer
        self.ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
        self._counts = {(0, len(text)): len(self.ends)}  # a cut is measured again when short pieces are joined

    def tokens(self, start: int, end: int) -> int:
        if (start, end) not in self._counts:
            encoded = self.tokenizer.encode(self.text[start:end], add_special_tokens=False)
            self._counts[start, end] = len(encoded)
        return self._counts[start, end]

    def reach(self, start: int, limit: int) -> int:
        last = bisect_right(self.ends, start) + limit  # one token more: a piece alone may need one less at its end
        return max(start + 1, self.ends[last]) if last < len(self.ends) else len(self.text)


class TokenCounter:
    """`count_tokens` of a fast tokenizer, without special tokens: `counter(text)`, and `counter.ruler(text)`.

    Args:
        tokenizer: a fast tokenizer of transformers, or its `backend_tokenizer`.
    """

    def __init__(self, tokenizer: Any):
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise InputError(f"{type(tokenizer).__name__} is not a fast tokenizer; its folder needs a tokenizer.json")
        self.tokenizer = Tokenizer.from_str(backend.to_str())  # a copy: the trainer's may get padding or truncation
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def __call__(self, text: str) -> int:
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def ruler(self, text: str) -> OffsetRuler:
        """Returns a ruler for pieces of `text`."""
        return OffsetRuler(text, self.tokenizer)
