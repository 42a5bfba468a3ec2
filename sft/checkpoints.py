"""Finds the checkpoint that a stage resumes from: the newest complete one. Does not load it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rollout.errors import UserError
from sft.damage import STATE, find_damage, half_written

_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)\Z", re.ASCII)


class DamagedCheckpoint(UserError):
    """A stage has checkpoints, but none can be read."""


def newest_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint in `folder`; None if training has to start from the beginning.

    Removes one that a kill left half-written and sets a damaged one aside (`damaged-checkpoint-20`), with a printed
    line for each. Other processes may do the same concurrently.

    Raises:
        DamagedCheckpoint: all checkpoints are damaged. They are not changed.
    """
    found = sorted((int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := _NAME.match(p.name)))
    damaged: list[tuple[Path, str]] = []
    whole = None
    for _, path in reversed(found):
        if not path.is_dir():
            damaged.append((path, "is not a folder"))
        elif not os.path.lexists(path / STATE):  # it is written last
            shutil.rmtree(path, ignore_errors=True)
            print(f"removed {path}: incomplete, the run stopped while saving it")
        elif fault := half_written(path):
            print(f"{path} is incomplete ({STATE} {fault}): moved to {_set_aside(path).name}")
        elif fault := find_damage(path):
            damaged.append((path, fault))
        else:
            whole = path
            break
    if damaged and whole is None:
        path, fault = damaged[0]
        raise DamagedCheckpoint(
            f"no checkpoint in {folder} can be read ({path.name}: {fault}): restore one, or delete {folder} to "
            "restart this stage"
        )
    for path, fault in damaged:
        print(f"{path} is damaged ({fault}): moved to {_set_aside(path).name}, resuming from {whole.name}")
    return whole


def _set_aside(path: Path) -> Path:
    aside, number = path.with_name(f"damaged-{path.name}"), 2
    while os.path.lexists(aside):
        aside, number = path.with_name(f"damaged-{path.name}-{number}"), number + 1
    with suppress(FileNotFoundError):  # another process was first
        path.rename(aside)
    return aside


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder to write into, which is moved to `folder` when the block ends: atomically."""
    part, old = folder.with_name(f"{folder.name}.part"), folder.with_name(f"{folder.name}.old.part")
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
