"""Explains failed writes, such as on a full disk, even if a library hides the reason."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.errors import UserError

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file is larger than the limit (ulimit -f)",
}
_CLOSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST)
_TEXTS = {
    r"No space left on device|os error 28\b|StorageFull|database or disk is full|errno 28\b": errno.ENOSPC,
    r"Disk quota exceeded|os error 122\b|QuotaExceeded": errno.EDQUOT,
    r"File too large|os error 27\b|FileTooLarge": errno.EFBIG,
    r"Read-only file system|os error 30\b|ReadOnlyFilesystem|attempt to write a readonly database": errno.EROFS,
}
_HIDDEN = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|disk I/O error")
"""Messages of torch and SQLite about a failed write that do not contain the reason."""


class WriteError(UserError, OSError):
    """A file could not be written: which, why, and how much room there is. One line."""


@contextmanager
def named_write_errors(folder: Path) -> Iterator[None]:
    """Converts any error that means that a file, usually in `folder`, can't be written to a `WriteError`."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        line = describe(error, folder)
        if line is None:
            raise
        raise WriteError(line) from error


def describe(error: BaseException, folder: Path) -> str | None:
    """Returns one line on a failed write, with its path and the free space; None: another kind of error."""
    link: BaseException | None = error
    hidden = None
    while link is not None:
        text = str(link)
        number = link.errno if isinstance(link, OSError) else None
        if number is None:
            number = next((code for pattern, code in _TEXTS.items() if re.search(pattern, text)), None)
        name = getattr(link, "filename2", None) or getattr(link, "filename", None)  # of a rename, the new name
        path = Path(os.fsdecode(name)) if isinstance(name, (str, bytes)) else folder
        if number in _FULL:
            return _no_room(path, _FULL[number])
        place = _existing(path)
        if number in _CLOSED and not os.access(place, os.W_OK):
            return f"{_CLOSED[number]}: {path} can't be written"
        if number in _IN_THE_WAY and not place.is_dir():
            return f"{path} can't be written: {place} is not a folder"
        if number == errno.EISDIR and place.is_dir():
            return f"{path} is a folder but must be a file: move it away"
        hidden = hidden or _HIDDEN.search(text)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return _no_room(folder, f"the disk is full, or a limit is reached ({hidden.group()})") if hidden else None


def _no_room(path: Path, reason: str) -> str:
    free = shutil.disk_usage(_existing(path)).free / 2**20
    return f"{reason} ({path}; {free:,.1f} MiB free there); free some space and run the same command again"


def _existing(path: Path) -> Path:
    """Returns the path or its nearest existing parent, without a trailing slash."""
    return next(place for place in [path.absolute(), *path.absolute().parents] if os.path.lexists(place))
