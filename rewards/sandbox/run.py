"""Runs Python programs written by a model: one process each, with kernel limits and a system-call filter.

Needs no root, user namespace or container. A process (`rewards.sandbox.child`) forks the program and the judge, which
has the tests (`rewards.judging`) and calls the program's functions over a pipe. Both drop their capabilities, set
resource limits, use Landlock to restrict reading to the Python installation and system libraries, and install a
seccomp filter (`rewards.sandbox.filter`). If the kernel can't do one of these, nothing runs: ERROR. If only Landlock is
missing (Linux before 5.13, gVisor), no files can be opened: imports are limited to numpy and some standard modules.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import os
import platform
import secrets
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from enum import StrEnum

from rewards.judging.names import Unclear, read_tests
from rewards.sandbox.filter import build_filter
from rewards.sandbox.pump import Pump

_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "child.py")
# Two pairs of pipes. On the program's pair, the program reports locked and loaded, and receives its code; nothing sent
# on it can make tests pass. On the other, the first process reports the two process ids and how they ended, and the
# judge its verdict. A program without tests passes if it returns a random word that is sent after its end.
_PROGRAM, _TRUSTED = 0, 1  # indices of the pairs
_START_SECONDS = 60.0  # an interpreter starts in 0.05 s; on a loaded machine it takes seconds
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"),
    *("/etc/ld.so.cache", "/dev/null", "/dev/urandom"),
)


_ENVIRONMENT = {
    **{"LANG": "C.UTF-8", "PYTHONUTF8": "1", "TZ": "UTC", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    "PYTHONHASHSEED": "0",  # deterministic verdicts
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},  # each thread maps tens of MB
    "MALLOC_ARENA_MAX": "2",
}


class Status(StrEnum):
    PASSED = "passed"  # the program and its tests ran to the end
    FAILED = "failed"  # an exception, an early exit, a crash, too much output
    TIMEOUT = "timeout"  # of CPU or wall time
    MEMORY = "memory"
    FORBIDDEN = "forbidden"  # stopped at a forbidden operation
    REFUSED = "refused"  # the tests need something that the judge can't transfer: no verdict on the program
    ERROR = "error"  # the sandbox could not start: no verdict on the program


@dataclass(frozen=True)
class SandboxResult:
    status: Status
    stdout: str = ""  # the last `output_bytes`
    stderr: str = ""
    detail: str = ""  # one line: why it did not pass


def run_python(
    code: str,
    tests: str | None = None,
    *,
    stdin: str = "",
    cpu_seconds: float = 5.0,
    wall_seconds: float | None = None,
    memory_bytes: int = 512 << 20,
    output_bytes: int = 64 << 10,
) -> SandboxResult:
    """Runs `code`, then `tests` against it. Works from any thread; blocks until the processes are gone.

    Remaining limitations: a program sees the calls made to it. It can learn which paths exist, but not their contents.
    It can use up its CPU and memory limits, in threads too. asyncio's loop does not start, because it opens a socket.

    Args:
        tests: more code, such as asserts, run by the judge (docs/rewards.md). Without tests, `code` runs as `__main__`
            and may end itself with `sys.exit(0)`.
        cpu_seconds: limit for the program including all its threads, and separately for the judge.
        wall_seconds: limit from the program's start; default: 4 * `cpu_seconds` + 5.
        memory_bytes: limit on address space in addition to the interpreter's own, thread stacks included.
        output_bytes: how much of the end of stdout and of stderr to keep. 256 times as much output ends the program.
    """
    wall_seconds = 4 * cpu_seconds + 5 if wall_seconds is None else wall_seconds
    landlock, plan = landlock_version(), None
    if tests is not None:
        try:
            plan = read_tests(tests)
        except Unclear as error:
            return SandboxResult(Status.REFUSED, detail=f"these tests can't be judged: {error}")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return SandboxResult(Status.REFUSED, detail=f"these tests are not valid Python: {error}")
    try:
        process, controls, reports = _start()
    except OSError as error:
        return SandboxResult(Status.ERROR, detail=f"the sandbox could not start: {error}")
    with Pump(process, controls, reports, stdin, output_bytes) as pump:
        nonce = secrets.token_hex(16)
        seen = _Seen()
        pump.deadline_in(_START_SECONDS)
        pump.send(
            _TRUSTED,
            {
                "landlock": landlock,
                "readable": _readable(),
                "numpy": "numpy" in f"{code}{tests}",
                "tests": tests is not None,
                "cpu_seconds": cpu_seconds,
                "memory_bytes": memory_bytes,
            },
        )
        for source, words in pump.lines():
            if source == _TRUSTED:
                seen.trusted[words[0]] = words[1:]
                if words[0] == "forked":
                    for to, text, pid in zip((_PROGRAM, _TRUSTED), (code, tests), words[1:], strict=True):
                        try:
                            steps = build_filter(platform.machine(), int(pid), may_open=landlock > 0)
                        except ValueError as error:
                            return SandboxResult(Status.ERROR, detail=str(error))
                        order = {"filter": base64.b64encode(steps).decode(), "code": text}
                        if text is not None:
                            pump.send(to, {**order, "plan": plan} if to == _TRUSTED else order)
            else:
                seen.program.setdefault(words[0], words[1:])
                if words == ["locked"]:
                    pump.deadline_in(wall_seconds)
                elif words == ["loaded"] and tests is None:
                    pump.send(_PROGRAM, nonce)
        pump.end()
        for words in pump.rest(_TRUSTED):
            seen.trusted[words[0]] = words[1:]
        passed = "passed" in seen.trusted if tests is not None else seen.program.get("passed") == [nonce]
        status, detail = _outcome(seen, passed, pump, cpu_seconds)
        return SandboxResult(status, *pump.output(), " ".join(detail.split()))


@dataclass
class _Seen:
    """Received lines: first word -> the other words. The program may have written anything."""

    program: dict[str, list[str]] = field(default_factory=dict)
    trusted: dict[str, list[str]] = field(default_factory=dict)

    def said(self, word: str, by_program: bool = True) -> str | None:
        words = (self.program if by_program else self.trusted).get(word)
        return None if words is None else ": ".join(part for part in words if part)


def _outcome(seen: _Seen, passed: bool, pump: Pump, cpu_seconds: float) -> tuple[Status, str]:
    if pump.returncode is None:
        return Status.ERROR, "other code in this process reaped the child process: its exit code is lost"
    if "locked" not in seen.program or seen.said("error", by_program=False):
        why = seen.said("error") or seen.said("error", by_program=False)
        why = why or pump.output()[1].strip().rpartition("\n")[2] or f"exit code {pump.returncode}"
        return Status.ERROR, f"the sandbox could not start: {'too slow' if pump.late else why}"
    if pump.flooded:
        return Status.FAILED, f"wrote more than {pump.most_bytes} bytes"
    if pump.late:
        return Status.TIMEOUT, "out of wall time"
    code, seconds, judge_code, judge_seconds = seen.trusted.get("ended") or ["", "0", "", "0"]
    if passed and (judge_code or code) == "0":
        return Status.PASSED, ""
    if "refused" in seen.trusted:
        return Status.REFUSED, f"these tests can't be judged: {seen.said('refused', by_program=False)}"
    for word in ("failed", "memory"):
        if word in seen.trusted:
            why = seen.said(word, by_program=False) or "MemoryError"
            return (Status.MEMORY if why.startswith("MemoryError") else Status.FAILED), why
    if judge_code == str(-signal.SIGSYS):
        return Status.REFUSED, "these tests can't be judged: they make a forbidden system call"
    if "threads" in seen.trusted:
        return Status.FAILED, seen.said("threads", by_program=False) or ""
    if code:
        return _how_it_ended(int(code), float(seconds), cpu_seconds, seen)
    if judge_code and int(judge_code) and "gone" not in seen.trusted:
        return _how_it_ended(int(judge_code), float(judge_seconds), cpu_seconds, seen)
    return Status.FAILED, seen.said("gone", by_program=False) or "no verdict"


def _how_it_ended(code: int, seconds: float, cpu_seconds: float, seen: _Seen) -> tuple[Status, str]:
    if code == -signal.SIGSYS:
        return Status.FORBIDDEN, seen.said("stopped") or "a forbidden system call"
    if code in (-signal.SIGXCPU, -signal.SIGPROF) or (code == -signal.SIGKILL and seconds >= cpu_seconds):
        return Status.TIMEOUT, f"more than {cpu_seconds:g} s of CPU time"
    if code == -signal.SIGKILL:
        return Status.MEMORY, "killed by the kernel, most likely out of memory"
    if "memory" in seen.program:
        return Status.MEMORY, "MemoryError"
    if code < 0:
        return Status.FAILED, f"crashed with {signal.Signals(-code).name}"
    return Status.FAILED, seen.said("failed") or f"exited with code {code}"


def _start() -> tuple[subprocess.Popen, list[int], list[int]]:
    """Starts the first process; returns it, the control pipes' write ends and the report pipes' read ends."""
    # from this process's environment, only what an interpreter may need to start
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ} | _ENVIRONMENT
    pipes: list[int] = []
    try:
        for _ in range(4):
            pipes += os.pipe()
        controls, control_writes, reports, report_writes = pipes[0:4:2], pipes[1:4:2], pipes[4:8:2], pipes[5:8:2]
        theirs = [fd for pair in zip(controls, report_writes, strict=True) for fd in pair]
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-B", _CHILD, *map(str, theirs)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
            bufsize=0,
            pass_fds=theirs,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError:
        for fd in pipes:
            os.close(fd)
        raise
    for fd in theirs:
        os.close(fd)
    return process, control_writes, reports


@functools.cache
def landlock_version() -> int:
    """Returns the kernel's Landlock ABI version, 0 if it has none or does not let this process use it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(ctypes.c_long(444), None, ctypes.c_long(0), ctypes.c_long(1)))


def _readable() -> list[str]:
    """Returns the folders of the Python installation and system libraries, and a few files that libraries need."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = (path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages"))
    own = (sysconfig.get_path(name) for name in names)
    return sorted({*own, *installed, os.path.join(sys.base_prefix, "lib"), *_SYSTEM})
