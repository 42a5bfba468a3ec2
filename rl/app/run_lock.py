"""Locks a run folder for one command at a time. The kernel releases the lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl.settings.schema import ConfigError
from rollout.processes import rank

_STARTED_FOR = "SAWTOOTH_RUN_LOCK"  # tells a stage's processes which folder their parent has locked


@contextmanager
def run_lock(folder: Path, command: str) -> Iterator[None]:
    """Holds the lock of a run folder within the block.

    The parent (or rank 0, if a launcher started the ranks) locks the folder exclusively, then shares the lock only with
    the processes that it starts, so that the lock remains if only the parent is killed. It is a record lock
    (`fcntl.lockf`), which forked helpers do not inherit and which network file systems support.

    Raises:
        ConfigError: another command holds the lock.
    """
    place = str(folder.resolve())
    started = os.environ.get(_STARTED_FOR) == place
    if not started and rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            if not started:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)
                file.write(f"{command} (process {os.getpid()} on {socket.gethostname()}, since {time.ctime()})")
                file.flush()
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # atomic: no other process can lock it in between
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by {file.read(300).strip() or 'another command'}: wait for it, stop it, or choose "
                "another --name"
            ) from None
        except OSError as error:
            print(f"{folder}: its file system has no locks ({error.strerror}); run only one command in it at a time")
        before = os.environ.get(_STARTED_FOR)
        os.environ[_STARTED_FOR] = place
        try:
            yield
        finally:
            os.environ.pop(_STARTED_FOR)
            if before is not None:
                os.environ[_STARTED_FOR] = before
