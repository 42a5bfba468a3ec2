"""Runs Python programs that a model wrote: one process each, with limits and a system-call filter of the kernel.

It needs no root, no user namespace and no container. The process (`rewards.sandbox_child`) gives up its capabilities,
takes resource limits, lets Landlock restrict what it can read to the Python installation and the system's libraries,
and installs a seccomp filter (`rewards.sandbox_filter`). Where the kernel can't, nothing runs: ERROR. Where only
Landlock is missing (Linux before 5.13, gVisor), the program can open no file at all and so import only numpy and a
list of standard modules.

They talk in lines over a pipe: the child says locked, loaded, tested, passed; only then does the parent send, in turn,
the program, the tests and a random word that `passed` must bring back. So a program that ends before its tests have
run through (`os._exit(0)`, `sys.exit()`) or that writes to every pipe it finds has not passed.

What remains: program and tests share an interpreter. A program can answer with objects that equal everything, replace
functions of modules that the tests call, and read the tests' constants from `sys._getframe`; one written against this
very protocol can also speak for the child. It can learn which paths exist, but not what is in them. It can use up the
CPU and memory it was given, in threads too. asyncio's loop does not start: it opens a socket.
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
from dataclasses import dataclass
from enum import StrEnum

from rewards.sandbox_filter import build_filter
from rewards.sandbox_pump import Pump

_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox_child.py")
_START_SECONDS = 60.0  # an interpreter starts in 0.05 s, on a loaded machine in seconds
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo"),
    *("/etc/ld.so.cache", "/dev/null", "/dev/urandom"),
)


_ENVIRONMENT = {
    **{"LANG": "C.UTF-8", "PYTHONUTF8": "1", "TZ": "UTC", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    "PYTHONHASHSEED": "0",  # the same program, the same verdict
    **{"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},  # a thread maps 10s of MB
    "MALLOC_ARENA_MAX": "2",
}


class Status(StrEnum):
    PASSED = "passed"  # the program ran through, and so did its tests
    FAILED = "failed"  # an exception, an end before the end, a crash, too much output
    TIMEOUT = "timeout"  # of CPU or wall time
    MEMORY = "memory"
    FORBIDDEN = "forbidden"  # stopped at something that it may not do
    ERROR = "error"  # the sandbox could not start: says nothing about the program


@dataclass(frozen=True)
class SandboxResult:
    status: Status
    stdout: str = ""  # the last `output_bytes` of it
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
    """Runs `code`, then `tests` in the same namespace. Works from any thread; blocks until the process is gone.

    Args:
        tests: more code, such as asserts. The program sees none of it before it has run through. Without tests,
            `code` is a whole program, `__main__`, which may end itself with `sys.exit(0)`.
        cpu_seconds: of the program and all its threads.
        wall_seconds: from the program's start; by default 5 more than 4 times `cpu_seconds`.
        memory_bytes: address space on top of the interpreter's own, threads' stacks included.
        output_bytes: how much of the end of stdout and of stderr to keep. 256 times as much ends the program.
    """
    wall_seconds = 4 * cpu_seconds + 5 if wall_seconds is None else wall_seconds
    landlock = landlock_version()
    try:
        process, control, report = _start()
    except OSError as error:
        return SandboxResult(Status.ERROR, detail=f"the sandbox could not start: {error}")
    with Pump(process, control, report, stdin, output_bytes) as pump:
        try:
            program_filter = build_filter(platform.machine(), process.pid, may_open=landlock > 0)
        except ValueError as error:
            return SandboxResult(Status.ERROR, detail=str(error))
        spec = {
            "filter": base64.b64encode(program_filter).decode(),
            "landlock": landlock,
            "readable": _readable(),
            "parent": os.getpid(),
            "numpy": "numpy" in code,
            "whole": tests is None,
            "cpu_seconds": cpu_seconds,
            "memory_bytes": memory_bytes,
        }
        nonce = secrets.token_hex(16)
        # each line of the child's, in this order, and the answer to it
        stages = [(["locked"], code), (["loaded"], tests or ""), (["tested"], nonce), (["passed", nonce], None)]
        notes: dict[str, str] = {}
        pump.deadline_in(_START_SECONDS)
        pump.send(spec)
        for line in pump.lines():
            if stages and line == stages[0][0]:
                if line == ["locked"]:
                    pump.deadline_in(wall_seconds)
                pump.send(stages.pop(0)[1])
            else:
                notes[line[0]] = ": ".join(word for word in line[1:] if word)
        pump.end()
        status, detail = _judge(len(stages), notes, pump, cpu_seconds)
        return SandboxResult(status, *pump.output(), " ".join(detail.split()))


def _judge(stages_left: int, notes: dict[str, str], pump: Pump, cpu_seconds: float) -> tuple[Status, str]:
    code = pump.returncode
    if code is None:
        return Status.ERROR, "something else in this program waits for child processes: the exit code is lost"
    if stages_left == 4:
        why = notes.get("error") or pump.output()[1].strip().rpartition("\n")[2] or f"exit code {code}"
        return Status.ERROR, f"the sandbox could not start: {'too slow' if pump.late else why}"
    if pump.flooded:
        return Status.FAILED, f"wrote more than {pump.most_bytes} bytes"
    if pump.late:
        return Status.TIMEOUT, "out of wall time"
    if not stages_left and code == 0:
        return Status.PASSED, ""
    if code == -signal.SIGSYS:
        return Status.FORBIDDEN, notes.get("stopped") or "a system call that it may not make"
    if code in (-signal.SIGXCPU, -signal.SIGPROF) or (code == -signal.SIGKILL and pump.cpu_seconds >= cpu_seconds):
        return Status.TIMEOUT, f"more than {cpu_seconds:g} s of CPU time"
    if code == -signal.SIGKILL:
        return Status.MEMORY, "killed by the kernel, most likely for want of memory"
    if "memory" in notes:
        return Status.MEMORY, "MemoryError"
    if code < 0:
        return Status.FAILED, f"crashed with {signal.Signals(-code).name}"
    return Status.FAILED, notes.get("failed") or f"ended itself with exit code {code}"


def _start() -> tuple[subprocess.Popen, int, int]:
    """The child with the ends of its control pipe (write) and of its report pipe (read)."""
    # nothing of this process's environment but what an interpreter may need to start
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ} | _ENVIRONMENT
    pipes: list[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        control_read, control, report, report_write = pipes
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-B", _CHILD, str(control_read), str(report_write)],
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
            bufsize=0,
            pass_fds=(control_read, report_write),
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except OSError:
        for fd in pipes:
            os.close(fd)
        raise
    os.close(control_read)
    os.close(report_write)
    return process, control, report


@functools.cache
def landlock_version() -> int:
    """The kernel's Landlock ABI, 0 where it has none or does not let this process use it."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(ctypes.c_long(444), None, ctypes.c_long(0), ctypes.c_long(1)))


def _readable() -> list[str]:
    """Folders of the Python installation and of the system's libraries, and a few files that libraries ask for."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return sorted({*(sysconfig.get_path(name) for name in names), os.path.join(sys.base_prefix, "lib"), *_SYSTEM})
