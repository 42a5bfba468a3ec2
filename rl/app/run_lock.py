"""One command at a time works on a run folder. The kernel gives the lock up when its process ends, however it ends."""

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

_STARTED_FOR = "SAWTOOTH_RUN_LOCK"  # tells a stage's own processes for which folder their starter holds the lock


@contextmanager
def run_lock(folder: Path, command: str) -> Iterator[None]:
    """Holds the lock of a run folder within the block.

    The starter (or the first rank, where ranks were started by other means) takes the folder for itself, then lets in
    only the processes that it starts: these hold the lock too, so that it stays where the starter alone is killed.
    It is a record lock (`fcntl.lockf`), which forked helpers do not inherit and which network file systems know.

    Raises:
        ConfigError: another command holds it; in one line.
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
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # atomic: nobody comes in between
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by {file.read(300).strip() or 'another command'}: wait for it, stop it, or choose "
                "another --name"
            ) from None
        except OSError as error:
            print(f"{folder}: its file system has no locks ({error.strerror}); see that one command at a time uses it")
        before = os.environ.get(_STARTED_FOR)
        os.environ[_STARTED_FOR] = place
        try:
            yield
        finally:
            os.environ.pop(_STARTED_FOR)
            if before is not None:
                os.environ[_STARTED_FOR] = before
