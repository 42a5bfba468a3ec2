"""A process in a terminal of its own: what a user types, and what the screen is sent."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from tests.quiet import as_a_user

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def screen(output: str) -> list[str]:
    """Lines that stand on an endless terminal in the end: knows the few movements that progress displays make."""
    lines, row, column = [""], 0, 0
    for word in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\s\S]", output):
        if word == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif word == "\r":
            column = 0
        elif word == "\b":
            column -= 1
        elif word.endswith("A") and len(word) > 1:
            row -= int(word[2:-1] or 1)
        elif word == "\x1b[2K":
            lines[row] = ""
        elif len(word) == 1:
            lines[row] = lines[row][:column].ljust(column) + word + lines[row][column + 1 :]
            column += 1
    return lines


class Terminal:
    """Starts a command whose controlling terminal is ours: Ctrl-C typed here reaches it as from a keyboard.

    Args:
        patience: seconds to wait for anything.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None, patience: float = 120.0):
        self.output = ""  # all that came
        self.patience = patience
        self._seen = 0  # of it, up to here by `wait_for`
        self._bytes = b""
        self._screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        settings = {k: v for k, v in as_a_user().items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}

        def own_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job's tests ignore it

        self.process = subprocess.Popen(
            command, cwd=ROOT, env=settings | {"TERM": "xterm-256color"} | dict(environment or {}),
            stdin=inner, stdout=inner, stderr=inner, start_new_session=True, preexec_fn=own_terminal,
        )  # fmt: skip
        os.close(inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, text: str) -> str:
        """Waits for `text` after all that was waited for before. Returns what came up to its end."""
        deadline = time.monotonic() + self.patience
        while (at := self.output.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.output[self._seen :]!r}"
            assert self._read(), f"it has ended without {text!r}: {self.output[self._seen :]!r}"
        start, self._seen = self._seen, at + len(text)
        return self.output[start : self._seen]

    def end(self, key: str = "") -> int:
        """Waits for its end. Returns the exit code.

        Args:
            key: pressed every second until then. Python loses a Ctrl-C that comes just as its prompt appears.
        """
        deadline = time.monotonic() + self.patience
        pressed = 0.0
        while self._read():
            if key and time.monotonic() > pressed + 1:
                pressed = time.monotonic()
                self.type(key)
            assert time.monotonic() < deadline, f"it does not end: {self.output[self._seen :]!r}"
        return self.process.wait(self.patience)

    def echoes(self) -> bool:
        """Whether what is typed is shown by the terminal itself."""
        return bool(termios.tcgetattr(self._screen)[3] & termios.ECHO)

    def _read(self) -> bool:
        """Reads what is there, waiting a little for it; False at the end."""
        if select.select([self._screen], [], [], 0.1)[0]:
            try:
                new = os.read(self._screen, 65536)
            except OSError:  # Linux's way to say that nobody holds the other side any more
                new = b""
            self._bytes += new
            self.output = self._bytes.decode(errors="replace")
            return bool(new)
        return True
