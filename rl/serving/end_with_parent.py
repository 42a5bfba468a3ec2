"""Run a command that must not outlive its starter: `python end_with_parent.py COMMAND…`, with an open pipe as stdin.

When the pipe closes (the starter has ended, by any signal), the command and all its child processes are ended.
Standalone: it imports nothing from this package.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

_GRACE = 10.0  # seconds between asking it to end and killing it


def main(command: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit: `finally` ends the command
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        while child.poll() is None and not select.select([sys.stdin], [], [], 0.2)[0]:
            pass  # nothing is ever written to it: readable means closed
    finally:
        _end(child)
    return child.returncode


def _end(child: subprocess.Popen) -> None:
    """SIGTERM, then SIGKILL, for its whole process group: vLLM's engine is a separate process."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
