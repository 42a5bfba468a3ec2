"""The script of the sandbox's processes: a supervisor and its two forks, the program and the judge of its tests.

`rewards.sandbox.run` starts it and documents the protocol. The forks drop their privileges; once `_lock` has returned
in the program's, the kernel enforces the limits and that process is no longer trusted.
"""

from __future__ import annotations

import _thread
import base64
import contextlib
import ctypes
import importlib
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
import types

# if no files may be opened, only these can be imported (and numpy)
_PRELOADED = """
abc array bisect builtins cmath collections.abc contextlib copy dataclasses datetime decimal enum fractions functools
hashlib heapq io itertools json math numbers operator random re statistics string struct textwrap threading time typing
unicodedata unittest
"""
# audit events raised just before a system call that the kernel answers with SIGSYS
_TELLING = """
os.chmod os.chown os.exec os.fork os.forkpty os.kill os.link os.mkdir os.posix_spawn os.remove os.rename os.rmdir
os.symlink os.system os.truncate os.utime signal.pthread_kill socket.__new__ subprocess.Popen
"""
# ways for the program to inspect this script: no solution of a task needs them
_REFUSED = """
ctypes.addressof ctypes.call_function ctypes.cdata ctypes.cdata/buffer ctypes.dlopen ctypes.dlsym ctypes.dlsym/handle
ctypes.string_at ctypes.wstring_at gc.get_objects gc.get_referents gc.get_referrers sys._current_exceptions
sys._current_frames sys.monitoring.register_callback sys.setprofile sys.settrace
"""
_MOST_THREADS = 64
_GONE, _GONE_SECONDS = 3, 1.0  # the judge's exit code if the program's end of the pipe is closed
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main(program_control: int, program_report: int, control: int, report: int) -> None:
    """Forks the program and, if there are tests, their judge; waits for both and reports how they ended."""
    spec = _message(control, os.read)
    parent, judge = os.getpid(), 0
    if not spec["landlock"]:
        for name in _PRELOADED.split():
            importlib.import_module(name)
    if spec["numpy"]:  # once for both
        importlib.import_module("numpy")
    if spec["tests"]:
        sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
        from rewards.judging import judge_end, program_end

        del sys.path[0]
        asked, requests = os.pipe()
        replies, replied = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD, signal.SIGTERM))
    prctl = ctypes.CDLL(None).prctl
    prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: this user's other processes can't inspect it
    program = os.fork()
    if not program:
        _close(control, report, *((requests, replies) if spec["tests"] else ()))
        serve = (lambda module: program_end.ProgramEnd(module, asked, replied).serve()) if spec["tests"] else None
        return _program({**spec, "parent": parent}, program_control, program_report, serve)
    if spec["tests"]:
        judge = os.fork()
        if not judge:
            _close(program_control, program_report, asked, replied)
            return _judge({**spec, "parent": parent}, control, report, judge_end.judge, requests, replies)
        _close(asked, requests, replies, replied)
    _close(0, 1, 2, program_control, program_report, control)
    _say(report, "forked", str(program), str(judge))
    ended = _wait(program, judge, report)
    _say(report, "ended", *ended)
    os._exit(0)


def _wait(program: int, judge: int, report: int) -> list[str]:
    """Returns exit codes and CPU seconds of program and judge. Ends both soon after one exits, or at SIGTERM."""
    codes = {program: "", judge: ""}  # empty: killed by this function
    seconds = {program: "0", judge: "0"}
    left, killed, late = {pid for pid in (program, judge) if pid}, set(), float("inf")
    while left:
        got = signal.sigtimedwait((signal.SIGCHLD, signal.SIGTERM), 0.02)
        doomed = set(left) if got and got.si_signo == signal.SIGTERM else set()
        if program in left - killed and _threads(program) > 2 * _MOST_THREADS:
            _say(report, "threads", f"more than {2 * _MOST_THREADS} threads")
            doomed.add(program)
        while left:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if not pid:
                break
            left.discard(pid)
            seconds[pid] = str(usage.ru_utime + usage.ru_stime)
            if pid not in killed:
                codes[pid] = str(os.waitstatus_to_exitcode(status))
            if pid == judge:  # the program may be about to end by itself, which explains why its pipe was closed
                late = time.monotonic() + (_GONE_SECONDS if codes[judge] == str(_GONE) else 0)
        if time.monotonic() >= late:
            doomed.add(program)
        for pid in doomed & left - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return [codes[program], seconds[program], codes[judge], seconds[judge]]


def _threads(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _receive(fd: int, size: int, read) -> bytes:
    data = b""
    while len(data) < size:
        part = read(fd, size - len(data))
        if not part:
            raise SystemExit(1)  # the parent is gone
        data += part
    return data


def _message(fd: int, read, loads=json.loads):
    return loads(_receive(fd, int.from_bytes(_receive(fd, 8, read), "big"), read))


def _say(report: int, *words: str, write=os.write, dumps=json.dumps) -> None:
    write(report, dumps(words).encode() + b"\n")  # all texts are well below PIPE_BUF, so one write is atomic


def _locked(spec: dict, report: int) -> None:
    try:
        _lock(spec)
    except Exception as error:
        _say(report, "error", f"{type(error).__name__}: {error}")
        raise SystemExit(1) from None
    sys.addaudithook(_watch(lambda *words: _say(report, *words)))
    _say(report, "locked")


def _limit_threads() -> None:
    """Raises Python's own error at too many threads. A program that bypasses this is killed by `_wait`."""

    def limited(start):
        threads, most, error = _thread._count, _MOST_THREADS, RuntimeError

        def start_new_thread(*arguments, **keywords):
            if threads() >= most:
                raise error("can't start new thread")
            return start(*arguments, **keywords)

        return start_new_thread

    for name in ("start_new_thread", "start_new", "start_joinable_thread"):
        if hasattr(_thread, name):
            setattr(_thread, name, limited(getattr(_thread, name)))
            if "threading" in sys.modules and hasattr(sys.modules["threading"], f"_{name}"):
                setattr(sys.modules["threading"], f"_{name}", getattr(_thread, name))


def _judge(spec: dict, control: int, report: int, judge, requests: int, replies: int) -> None:
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)  # stdin belongs to the program
    order = _message(control, os.read)
    _locked({**spec, **order}, report)
    verdict = judge(order["code"], order["plan"], requests, replies)
    with contextlib.suppress(Exception):
        sys.stdout.flush(), sys.stderr.flush()
    _say(report, *verdict)
    os._exit(_GONE if verdict[0] == "gone" else 0)


def _program(spec: dict, control: int, report: int, serve) -> None:
    # bound to local names: the program may replace attributes of builtins and modules
    read, write, run, compiled, show, say = os.read, os.write, exec, compile, traceback.print_exc, _say
    failures, memory_error, leave, loads, message = BaseException, MemoryError, SystemExit, json.loads, _message
    no_memory = b'["memory"]\n'
    order = message(control, read)
    _locked({**spec, **order}, report)
    _limit_threads()
    sys.argv = ["program"]
    module = types.ModuleType("program" if serve else "__main__")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    try:
        try:
            run(compiled(order.pop("code"), "<program>", "exec", dont_inherit=True), module.__dict__)
        except leave as error:  # a program without tests may end itself; one followed by tests may not
            if serve or error.code not in (None, 0):
                raise
        say(report, "loaded")
        if serve:
            serve(module)
            return
    except memory_error:
        write(report, no_memory)
        raise leave(1) from None
    except failures as error:
        say(report, "failed", type(error).__name__, f"{error}"[:300])
        show()
        raise leave(1) from None
    say(report, "passed", message(control, read, loads))


def _watch(say):
    """Returns an audit hook that reports calls that the kernel is about to stop, and blocks interpreter inspection."""
    telling, refused = frozenset(_TELLING.split()), frozenset(_REFUSED.split())
    writes, kind, text, number = _WRITES, type, str, int
    stop, end, number_of_it = signal.raise_signal, os._exit, int(signal.SIGSYS)

    def hook(event: str, arguments: tuple) -> None:
        if event in refused or event in telling:
            first = arguments[0] if arguments and kind(arguments[0]) is text else ""
            say("stopped", event, first[:200])
            if event in refused:
                stop(number_of_it)
                end(1)  # the program may have a handler for the signal
        elif event == "open" and kind(arguments[2]) is number and arguments[2] & writes:
            say("stopped", "open for writing", arguments[0][:200] if kind(arguments[0]) is text else "")

    return hook


def _lock(spec: dict) -> None:
    """Drops every privilege that the program must not have. Raises OSError if the kernel can't enforce that."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the mask was inherited from the thread that started this process
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if the machine runs out of memory, this process is killed first
    # drops all capabilities, also of root: header is version 3 and this process, data is all zero
    _call(libc.capset, ctypes.create_string_buffer(b"\x22\x05\x08\x20", 8), ctypes.create_string_buffer(24))
    _call(libc.prctl, 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    _call(libc.prctl, 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no core file, no debugger of the same user
    _call(libc.prctl, 1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != spec["parent"]:
        raise OSError("the parent is gone")
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    if spec["landlock"]:
        _only_read(libc, spec["landlock"], spec["readable"])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_AS, mapped + spec["memory_bytes"])
    seconds = math.ceil(time.process_time() + spec["cpu_seconds"])
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU, then SIGKILL if it is ignored
    signal.setitimer(signal.ITIMER_PROF, spec["cpu_seconds"])  # the same limit with fractions of a second: SIGPROF
    steps = base64.b64decode(spec["filter"])
    program = ctypes.create_string_buffer(steps, len(steps))
    header = (ctypes.c_uint64 * 2)(len(steps) // 8, ctypes.addressof(program))  # struct sock_fprog: count, address
    _call(libc.prctl, 22, 2, ctypes.byref(header))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _only_read(libc: ctypes.CDLL, version: int, paths: list[str]) -> None:
    """Applies Landlock: only `paths` can be read, and other processes can't be inspected or signaled."""
    size = 8 if version < 4 else 16 if version < 6 else 24
    every_access = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    attributes = (ctypes.c_uint64 * 3)(every_access, 0b11, 0b11)  # files; TCP; abstract sockets and signals
    rules = _call(libc.syscall, 444, ctypes.byref(attributes), size, 0)  # landlock_create_ruleset
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        access = 0b1100 if os.path.isdir(path) else 0b100  # LANDLOCK_ACCESS_FS_READ_FILE, _READ_DIR
        rule = ctypes.create_string_buffer(access.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder), 12)
        _call(libc.syscall, 445, rules, 1, rule, 0)  # landlock_add_rule, LANDLOCK_RULE_PATH_BENEATH
        os.close(fd)
    _call(libc.syscall, 446, rules, 0)  # landlock_restrict_self
    os.close(rules)


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    most = resource.getrlimit(kind)[1]
    hard = soft if hard is None else hard
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))


def _call(function, *arguments) -> int:
    """Calls a libc function, passing every number as a long. Raises OSError with the call's first arguments."""
    result = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}{arguments[:2]}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main(*(int(fd) for fd in sys.argv[1:]))
