"""A command as a user starts it, and what of its output is not its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rollout.quiet import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("TRANSFORMERS_VERBOSITY", *ENVIRONMENT)  # what the tests' own process has set
_BAR = re.compile(r"([^|:]*[: ])?\s*\d+%\|[^|]*\| [^a-z]*\[.*\]\s*$")
_MOVES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


def as_a_user(**more: str) -> dict[str, str]:
    """The environment of a user's shell."""
    return {key: value for key, value in os.environ.items() if key not in _OURS} | {"PYTHONPATH": str(ROOT)} | more


def foreign(said: str, own: str = r"(?!)") -> list[str]:
    """Lines that are neither a bar of progress nor begin as `own` says."""
    lines = re.split(r"[\r\n]+", _MOVES.sub("", said))
    return [line for line in lines if line.strip() and not _BAR.match(line) and not re.match(own, line)]
