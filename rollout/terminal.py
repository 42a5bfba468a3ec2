"""Prints untrusted text safely: text from a model, a dataset or a file name must not control the terminal."""

from __future__ import annotations

import logging
import unicodedata
from typing import Any, TextIO

_KEPT = "\n\t\u200c\u200d"  # invisible characters that stay: the last two join or separate letters and emoji
_STEERING = ("Cc", "Cf", "Cs")  # control, format, surrogate
_BREAKS = {"\u2028": "\n", "\u2029": "\n", "\x85": "\n"}


def clean(text: str) -> str:
    """Removes characters that can control a terminal: control and format characters (text direction), surrogates."""
    return "".join(
        c for c in (_BREAKS.get(c, c) for c in text) if c in _KEPT or unicodedata.category(c) not in _STEERING
    )


class CleanFormatter(logging.Formatter):
    """Cleans log records, whose messages quote untrusted answers, tests and errors."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))


class CleanOutput:
    """A text stream that cleans everything written to it and otherwise delegates to the wrapped stream."""

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
    """Shortens a text of more than `most` characters to its beginning, the count of omitted characters, its end."""
    half = most // 2
    left_out = len(text) - 2 * half
    return text if len(text) <= most else f"{text[:half]}\n[… {left_out:,} characters …]\n{text[-half:]}"
