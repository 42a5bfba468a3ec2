"""Names of models and data sets in tables, files and addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_PLAIN = ("final", "runs", ".", "..", "/")


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, told apart where two are the same."""
    made: list[str] = []
    for name in names:
        number, candidate = 2, name
        while candidate in made:
            number, candidate = number + 1, f"{name}-{number}"
        made.append(candidate)
    return made


def short_path(folder: Path) -> str:
    """The last parts of a path that say something: runs/demo/rl/final is demo-rl."""
    parts = [part for part in folder.parts if part not in _PLAIN]
    return "-".join(parts[-3:] if parts and parts[-1].startswith("checkpoint-") else parts[-2:]) or "model"


def file_name(parts: Sequence[str]) -> str:
    """A file name that may stand in an address, as the monitor's links need it."""
    return "_".join(re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-") for part in parts)
