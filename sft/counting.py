"""Token counts of a tokenizer, exact, and several times faster than encoding where its kind allows.

A byte-level BPE tokenizer (GPT-2, Llama 3, Qwen) first parts a text by a regular expression and encodes each part on
its own. So a part's count can be kept, and a text's is the sum. Where anything about a text makes that doubtful (added
tokens, rare characters), and for other tokenizers, it is encoded.
"""

from __future__ import annotations

import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from functools import cache
from itertools import accumulate
from typing import Any, Protocol

from tokenizers import Tokenizer

from rollout.errors import InputError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_MOST_KEPT, _LONGEST_KEPT = 1_000_000, 64  # parts whose counts are kept, and their characters: about 150 MB
_LONG_PART = 64  # tokens of a part that is worth a cut inside
# Characters on whose class all libraries agree; a text with others is encoded.
_USUAL = (
    "\t\n\r -~\u00a0-\u00ac\u00ae-\u00ff\u0391-\u03a1\u03a3-\u03c9\u2010-\u2027\u2030-\u205e\u2070\u2071\u2074-\u208e"
    "\u2090-\u209c\u20a0-\u20bf\u2100-\u23ff\u2500-\u27bf\u3001-\u3029\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5"
    "\uac00-\ud7a3\uff01-\uff5e"
)
_ALL_USUAL = re.compile(f"[{_USUAL}]*+")


class Ruler(Protocol):
    """Measures pieces of one text."""

    def tokens(self, start: int, end: int) -> int:
        """Tokens of text[start:end] alone."""

    def reach(self, start: int, limit: int) -> int:
        """About where `limit` tokens from `start` end: a guess, to be checked with `tokens`."""


class PlainRuler:
    """For any function that counts tokens: guesses by bisection."""

    def __init__(self, text: str, count: Any):
        self.text, self.count = text, count

    def tokens(self, start: int, end: int) -> int:
        return self.count(self.text[start:end])

    def reach(self, start: int, limit: int) -> int:
        width = 2 * limit  # doubled until it no longer fits, so a piece costs in proportion to itself
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


class _EncodedRuler:
    """For any tokenizer: the text is encoded once for the guesses, and each piece for its count."""

    def __init__(self, text: str, tokenizer: Tokenizer):
        self.text, self.tokenizer = text, tokenizer
        self.ends = [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]

    def tokens(self, start: int, end: int) -> int:
        return len(self.tokenizer.encode(self.text[start:end], add_special_tokens=False))

    def reach(self, start: int, limit: int) -> int:
        last = bisect_right(self.ends, start) + limit
        return len(self.text) if last > len(self.ends) else max(start + 1, self.ends[last - 1])


class _PartsRuler:
    """For a tokenizer whose parts are encoded on their own: sums of kept counts."""

    def __init__(self, text: str, parts: list[str], pattern: Any, counts: dict[str, int], count: Any):
        self.text, self.pattern, self.counts, self.count = text, pattern, counts, count
        self.ends = [0, *accumulate(map(len, parts))]  # of the parts, in characters
        self.sums = [0, *accumulate(map(counts.__getitem__, parts))]  # tokens up to there

    def tokens(self, start: int, end: int) -> int:
        # A piece's parts are the text's, but for the first ones, where the cut fell inside a part, and the last ones:
        # whitespace is parted by what follows it.
        head, first = start, 0
        place = bisect_left(self.ends, head)
        while self.ends[place] != head:
            match = self.pattern.match(self.text, head, end)
            if match is None:
                return self.count(self.text[start:end])
            first, head = first + self.counts[match[0]], match.end()
            if head >= end:
                return first
            place = bisect_left(self.ends, head)
        last = bisect_right(self.ends, end) - 1
        while last > place and (self.ends[last] == end or self.text[self.ends[last] : end].isspace()):
            last -= 1
        tail = self.pattern.findall(self.text, self.ends[last], end)
        return first + self.sums[last] - self.sums[place] + sum(map(self.counts.__getitem__, tail))

    def reach(self, start: int, limit: int) -> int:
        before = self.sums[bisect_right(self.ends, start) - 1]
        last = bisect_right(self.sums, before + limit + 1) - 1  # one more: cut off, the end may take a token less
        if last + 1 < len(self.sums) and self.sums[last + 1] - max(before, self.sums[last]) > _LONG_PART:
            return PlainRuler(self.text, self.count).reach(start, limit)
        return max(start + 1, self.ends[last])


class TokenCounter:
    """`count_tokens` of a fast tokenizer, without special tokens: `counter(text)`, and `counter.ruler(text)`.

    Args:
        tokenizer: a fast tokenizer of transformers, or its `backend_tokenizer`.
    """

    def __init__(self, tokenizer: Any):
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise InputError(f"{type(tokenizer).__name__} is no fast tokenizer: its folder needs a tokenizer.json")
        self.tokenizer = Tokenizer.from_str(backend.to_str())  # a copy: the trainer's may get padding or truncation
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        settings = json.loads(self.tokenizer.to_str())
        self._pattern = _parts_pattern(settings)
        added = [token["content"] for token in settings["added_tokens"] if token["content"]]
        self._added = re.compile("|".join(map(re.escape, added)) or r"(?!)")
        self._composed = settings["normalizer"] is not None
        self._counts = _Counts(self.tokenizer)

    def __call__(self, text: str) -> int:
        parts = self._parts(text)
        if parts is None:
            return len(self.tokenizer.encode(text, add_special_tokens=False))
        return sum(map(self._counts.__getitem__, parts))

    def ruler(self, text: str) -> Ruler:
        """A ruler for pieces of `text`."""
        parts = self._parts(text)
        if parts is None:
            return _EncodedRuler(text, self.tokenizer)
        return _PartsRuler(text, parts, self._pattern, self._counts, self)

    def _parts(self, text: str) -> list[str] | None:
        if self._pattern is None or not _ALL_USUAL.fullmatch(text):
            return None
        if self._added.search(text) or (self._composed and not unicodedata.is_normalized("NFC", text)):
            return None
        parts = self._pattern.findall(text)
        return parts if sum(map(len, parts)) == len(text) else None


class _Counts(dict):
    """Tokens of each part that has been asked for."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    def __missing__(self, part: str) -> int:
        count = len(self._tokenizer.encode(part, add_special_tokens=False))
        if len(part) <= _LONGEST_KEPT:
            if len(self) >= _MOST_KEPT:
                self.clear()
            self[part] = count
        return count


def _parts_pattern(settings: dict[str, Any]) -> Any:
    """The expression that a tokenizer parts its text by, compiled; None where it works in another way."""
    if settings["normalizer"] not in (None, {"type": "NFC"}):
        return None
    step = settings["pre_tokenizer"] or {}
    steps = step.get("pretokenizers", [step])
    last = steps[-1]
    if last.get("type") == "ByteLevel":
        if last.get("add_prefix_space"):
            return None
        if last.get("use_regex", True):
            return _compiled(_GPT2) if len(steps) == 1 else None
        steps = steps[:-1]
    if len(steps) != 1 or steps[0].get("type") != "Split":
        return None
    split = steps[0]
    expression = split["pattern"].get("Regex")
    if expression is None or split["behavior"] != "Isolated" or split["invert"] or "(?<" in expression:
        return None
    return _compiled(expression)


def _compiled(expression: str) -> re.Pattern[str] | None:
    """The expression for Python's `re` and usual characters; None where it holds what `re` has not."""
    try:
        pattern = re.compile(_with_ranges(expression))
    except re.error:
        return None
    return None if pattern.groups else pattern


def _with_ranges(expression: str) -> str:
    """`\\p{L}` and `\\p{N}` written out as ranges: `re` has no names for them, and is twice as fast as `regex`."""
    pieces, in_class, place = [], False, 0
    while place < len(expression):
        piece = expression[place : place + 2] if expression[place] == "\\" else expression[place]
        name = expression[place : place + 5]
        if name in (r"\p{L}", r"\p{N}"):
            piece, inside = name, _members(name[3])
            pieces.append(inside if in_class else f"[{inside}]")
        else:
            in_class = piece == "[" or (in_class and piece != "]")
            pieces.append(piece)
        place += len(piece)
    return "".join(pieces)


@cache
def _members(category: str) -> str:
    """The usual characters of a Unicode category, as ranges of a character class."""
    codes = [code for code in range(0x10000) if _ALL_USUAL.fullmatch(chr(code))]
    codes = [code for code in codes if unicodedata.category(chr(code)).startswith(category)]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\u{low:04x}-\\u{high:04x}" for low, high in ranges)
