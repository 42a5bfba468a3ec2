"""Rank and world size of this process, as torchrun sets them; a single process is rank 0 of 1."""

from __future__ import annotations

import os


def rank() -> int:
    """Returns this process's rank; only rank 0 prints and writes."""
    value = os.environ.get("RANK", "")
    return int(value) if value.isdecimal() else 0


def ranks() -> int:
    """Returns the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))
