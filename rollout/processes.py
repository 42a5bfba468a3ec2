"""Which of a launcher's processes this one is (torchrun sets it); one alone is the first of one."""

from __future__ import annotations

import os


def rank() -> int:
    """The number of this process among all that train: of several, the first one speaks and writes."""
    value = os.environ.get("RANK", "")
    return int(value) if value.isdecimal() else 0


def ranks() -> int:
    """How many they are."""
    return int(os.environ.get("WORLD_SIZE", "1"))
