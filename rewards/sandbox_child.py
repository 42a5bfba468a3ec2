"""What the sandbox's process runs: gives up its powers, then runs the program and its tests.

A script of its own, which imports nothing of the project. `rewards.sandbox` starts it and describes what they say to
each other. Once `_lock` has returned, the kernel holds the limits and nothing here is trusted any more.
"""

from __future__ import annotations

import base64
import builtins
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

# where nothing may be opened, only these can be imported (and numpy)
_PRELOADED = """
abc array bisect builtins cmath collections.abc contextlib copy dataclasses datetime decimal enum fractions functools
hashlib heapq io itertools json math numbers operator random re statistics string struct textwrap threading time typing
unicodedata unittest
"""
# audit events that come just before a call that the kernel answers with SIGSYS
_TELLING = """
os.chmod os.chown os.exec os.fork os.forkpty os.kill os.link os.mkdir os.posix_spawn os.remove os.rename os.rmdir
os.symlink os.system os.truncate os.utime signal.pthread_kill socket.__new__ subprocess.Popen
"""
# ways to look into this script from the program: nothing that solves a task needs them
_REFUSED = """
ctypes.addressof ctypes.call_function ctypes.cdata ctypes.cdata/buffer ctypes.dlopen ctypes.dlsym ctypes.dlsym/handle
ctypes.string_at ctypes.wstring_at gc.get_objects gc.get_referents gc.get_referrers sys._current_exceptions
sys._current_frames sys.monitoring.register_callback sys.setprofile sys.settrace
"""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main(control: int, report: int) -> None:
    # bound to local names: the program may replace what builtins and modules hold
    read, write, run, compiled, dumps, show = os.read, os.write, exec, compile, json.dumps, traceback.print_exc
    failures, memory_error, leave = BaseException, MemoryError, SystemExit
    no_memory = b'["memory"]\n'

    def receive(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = read(control, size - len(data))
            if not part:
                raise leave(1)  # the parent is gone
            data += part
        return data

    def message():
        return json_loads(receive(int.from_bytes(receive(8), "big")))

    def say(*words: str) -> None:
        write(report, dumps(words).encode() + b"\n")  # no text here is near PIPE_BUF: one write

    json_loads, original = json.loads, dict(vars(builtins))
    spec = message()
    try:
        _lock(spec)
    except Exception as error:
        say("error", f"{type(error).__name__}: {error}")
        raise leave(1) from None
    sys.argv = ["program"]
    module = types.ModuleType("__main__" if spec["whole"] else "program")
    sys.modules["__main__"] = sys.modules[module.__name__] = module
    namespace = module.__dict__
    sys.addaudithook(_watch(say))
    say("locked")
    try:
        try:
            run(compiled(message(), "<program>", "exec", dont_inherit=True), namespace)
        except leave as error:  # a whole program may end itself; one that tests follow may not
            if not spec["whole"] or error.code not in (None, 0):
                raise
        say("loaded")
        namespace["__builtins__"] = original
        run(compiled(message(), "<tests>", "exec", dont_inherit=True), namespace)
    except memory_error:
        write(report, no_memory)
        raise leave(1) from None
    except failures as error:
        say("failed", type(error).__name__, f"{error}"[:300])
        show()
        raise leave(1) from None
    say("tested")
    say("passed", message())


def _watch(say):
    """An audit hook. It names what the kernel is about to stop and refuses what looks into the interpreter."""
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
    """Gives up every power that the program must not have. Raises OSError where the kernel can't take it."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # a mask comes from the thread that started this process
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where the machine runs out of memory, this process goes first
    if not spec["landlock"]:
        for name in [*_PRELOADED.split(), *["numpy"] * spec["numpy"]]:
            importlib.import_module(name)
    # no capability is left, whoever runs this: header is version 3 and this process, data is all zero
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
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU, then SIGKILL for who ignores it
    signal.setitimer(signal.ITIMER_PROF, spec["cpu_seconds"])  # the same to the fraction: SIGPROF
    steps = base64.b64decode(spec["filter"])
    program = ctypes.create_string_buffer(steps, len(steps))
    header = (ctypes.c_uint64 * 2)(len(steps) // 8, ctypes.addressof(program))  # struct sock_fprog: count, address
    _call(libc.prctl, 22, 2, ctypes.byref(header))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _only_read(libc: ctypes.CDLL, version: int, paths: list[str]) -> None:
    """Landlock: only `paths` can be read, and other processes can't be looked into or signalled."""
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
    """A libc call, every number passed as a long. Raises OSError with the call's first arguments."""
    result = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function.__name__}{arguments[:2]}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
