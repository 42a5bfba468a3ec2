"""Text of others on a terminal: what a model, a data set or a file's name holds must not steer it."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any, TextIO

_KEPT = "\n\t\u200c\u200d"  # of the characters without a shape: the last two join and part letters and emoji
_STEERING = ("Cc", "Cf", "Cs")  # control, format, surrogate
_BREAKS = {"\u2028": "\n", "\u2029": "\n", "\x85": "\n"}


def clean(text: str) -> str:
    """Text without what could steer a terminal: control and format characters (reading direction), surrogates."""
    return "".join(
        c for c in (_BREAKS.get(c, c) for c in text) if c in _KEPT or unicodedata.category(c) not in _STEERING
    )


class CleanFormatter(logging.Formatter):
    """Of log records: their messages quote answers, tests and errors that others have written."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


class CleanOutput:
    """A text stream on which all that is printed is cleaned; all else is the stream's own."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(text if text.isascii() and text.isprintable() else clean(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def clip_middle(text: str, most: int) -> str:
    """Beginning and end of a text of more than `most` characters, and how much is left out between."""
    half = most // 2
    left_out = len(text) - 2 * half
    return text if len(text) <= most else f"{text[:half]}\n[… {left_out:,} characters …]\n{text[-half:]}"
