"""Which checkpoint a stage goes on from: the newest that is whole. Loads nothing."""

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
    """No checkpoint of a stage can be read, though there are some."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; None where training has to begin.

    One that a kill left half-written is removed, a damaged one is set aside (`damaged-checkpoint-20`), each with a
    line. Other processes may do the same at the same time.

    Raises:
        DamagedCheckpoint: there are damaged ones only. They stay as they are.
    """
    found = sorted((int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := _NAME.match(p.name)))
    damaged: list[tuple[Path, str]] = []
    whole = None
    for _, path in reversed(found):
        if not path.is_dir():
            damaged.append((path, "is not a folder"))
        elif not os.path.lexists(path / STATE):  # it is written last
            shutil.rmtree(path, ignore_errors=True)
            print(f"removed {path}, which a stop while it was saved has left half-written")
        elif fault := half_written(path):
            print(f"{path} is half-written ({STATE} {fault}): set aside as {_set_aside(path).name}")
        elif fault := find_damage(path):
            damaged.append((path, fault))
        else:
            whole = path
            break
    if damaged and whole is None:
        path, fault = damaged[0]
        raise DamagedCheckpoint(
            f"no checkpoint in {folder} can be read ({path.name}: {fault}): bring one back, or delete {folder} to "
            "begin this stage anew"
        )
    for path, fault in damaged:
        print(f"{path} is damaged ({fault}): set aside as {_set_aside(path).name}, going on from {whole.name}")
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
    """A folder to write into that stands at `folder` when the block has ended, and not before: all of it or nothing."""
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
