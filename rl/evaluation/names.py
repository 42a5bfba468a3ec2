"""Names of models and data sets in tables, files and URLs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_PLAIN = ("final", "runs", ".", "..", "/")


def unique_names(names: Sequence[str]) -> list[str]:
    """Returns the names, with a number appended to each repeated one."""
    made: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in made:
            number, candidate = number + 1, f"{name}-{number}"
        made.append(candidate)
    return made


def short_path(folder: Path) -> str:
    """Returns the last informative parts of a path: demo-rl for runs/demo/rl/final."""
    parts = [part for part in folder.parts if part not in _PLAIN]
    return "-".join(parts[-3:] if parts and parts[-1].startswith("checkpoint-") else parts[-2:]) or "model"


def file_name(parts: Sequence[str]) -> str:
    """Returns a file name that is safe in a URL, for the monitor's links."""
    return "_".join(re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-") for part in parts)
