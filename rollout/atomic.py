"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A path to write a file to, which stands at `path` once the block has ended.

    A reader finds the old file or the new one, also after a kill or a loss of power. Where the block raises, the old
    one stays. A file that is replaced keeps its permissions.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        if path.exists():
            shutil.copymode(path, part)
        _to_disk(part)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every file system does this for a folder
        _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
