"""The parent's end of a sandbox process: feeds and drains its pipes until it ends, times out, or writes too much."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

_CHUNK = 1 << 16
_END_SECONDS = 10.0  # time allowed for the process to end its children
_LOOK_SECONDS = 0.05  # polling interval for the end of a silent process


class Pump:
    """The pipes of one process, whose process group is killed and reaped on exit from the `with` block.

    Uses no signals and no threads, so any thread can use one, and many threads one each.
    """

    def __init__(
        self,
        process: subprocess.Popen,
        controls: Sequence[int],
        reports: Sequence[int],
        stdin: str,
        keep_bytes: int,
    ):
        self.late = self.flooded = False
        self.returncode: int | None = None  # known after `end`, unless other code has reaped the process
        self.cpu_seconds = 0.0
        self.most_bytes = 256 * keep_bytes
        self._most_report = max(keep_bytes, 1 << 14)  # lower, because a report is kept and parsed as JSON
        self._process, self._keep = process, keep_bytes
        self._stdin, self._stdout, self._stderr = (f.fileno() for f in (process.stdin, process.stdout, process.stderr))
        self._controls, self._reports = list(controls), list(reports)
        self._read: dict[int, bytearray] = {fd: bytearray() for fd in (self._stdout, self._stderr, *reports)}
        self._total = dict.fromkeys(self._read, 0)
        self._write: dict[int, bytearray] = {
            **{control: bytearray() for control in controls},
            self._stdin: bytearray(stdin.encode(errors="replace")),
        }
        self._deadline, self._ended = 0.0, False
        self._selector = selectors.PollSelector()  # needs no file descriptor of its own
        for fd in self._read:
            self._selector.register(fd, selectors.EVENT_READ)
        for fd in self._write:
            os.set_blocking(fd, False)
        self._feed(self._stdin)

    def __enter__(self) -> Pump:
        return self

    def __exit__(self, *_) -> None:
        self.end()
        self._selector.close()
        for file in (self._process.stdin, self._process.stdout, self._process.stderr):
            file.close()
        for fd in (*self._controls, *self._reports):
            os.close(fd)

    def deadline_in(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def send(self, to: int, message: object) -> None:
        """Queues one length-prefixed JSON message for the control pipe with index `to`."""
        data = json.dumps(message).encode()
        self._write[self._controls[to]] += len(data).to_bytes(8, "big") + data
        self._feed(self._controls[to])

    def lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the report pipe's index and the words of each line, until the end. Skips malformed lines."""
        while not self.flooded:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self.late = True
                return
            # without open pipes it is about to end, or asleep, and only polling can tell
            ready = self._selector.select(min(left, _LOOK_SECONDS if self._selector.get_map() else 0.001))
            for key, _ in ready:
                if key.fd in self._write:
                    self._feed(key.fd)
                elif self._drain(key.fd) and key.fd in self._reports:
                    yield from self._take_lines(key.fd)
            if not ready and self._has_ended():
                return

    def rest(self, index: int) -> list[list[str]]:
        """Returns the unread lines of a report, after `end`."""
        while self._reports[index] in self._selector.get_map() and self._drain(self._reports[index]):
            pass
        return [words for _, words in self._take_lines(self._reports[index])]

    def output(self) -> tuple[str, str]:
        """Returns the ends of stdout and stderr."""
        return tuple(self._read[fd].decode(errors="replace") for fd in (self._stdout, self._stderr))

    def end(self) -> None:
        """Kills and reaps the process group. Its id can't have been reused: the leader has not been reaped yet."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)  # it reaps its own children, then ends
        until = time.monotonic() + _END_SECONDS
        while not self._has_ended() and time.monotonic() < until:
            time.sleep(0.001)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self._process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self._process.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_seconds = usage.ru_utime + usage.ru_stime
        self._process.returncode = self.returncode or 0  # so that Popen does not wait for it

    def _has_ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _feed(self, fd: int) -> None:
        """Writes as much as the pipe accepts. Closes stdin when done; control stays open for the next message."""
        data = self._write[fd]
        try:
            while data:
                del data[: os.write(fd, data[:_CHUNK])]
        except BlockingIOError:
            if fd not in self._selector.get_map():
                self._selector.register(fd, selectors.EVENT_WRITE)
            return
        except BrokenPipeError:  # the process has closed its end or died, which the reports will show
            data.clear()
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        if fd == self._stdin:
            self._process.stdin.close()

    def _drain(self, fd: int) -> bool:
        """Reads once; keeps all of a report, but only the end of stdout and stderr. Returns False at end of file."""
        part = os.read(fd, _CHUNK)
        if not part:
            self._selector.unregister(fd)
            return False
        self._total[fd] += len(part)
        self.flooded |= self._total[fd] > (self._most_report if fd in self._reports else self.most_bytes)
        kept = self._read[fd]
        kept += part
        if fd not in self._reports and len(kept) > self._keep:
            del kept[: len(kept) - self._keep]
        return True

    def _take_lines(self, fd: int) -> Iterator[tuple[int, list[str]]]:
        *lines, rest = self._read[fd].split(b"\n")
        self._read[fd] = bytearray(rest)
        for line in lines:
            try:
                words = json.loads(line)
            except (ValueError, RecursionError):  # the program can write here too
                continue
            if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
                yield self._reports.index(fd), words
