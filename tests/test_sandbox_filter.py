"""System calls made directly, as machine code in a library would, in a process that has been locked."""

from __future__ import annotations

import base64
import errno
import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from rewards.sandbox import run as sandbox
from rewards.sandbox.filter import build_filter

LOCKED = """
import ctypes, json, os, sys
sys.path.insert(0, sys.argv[1])
import child
child._lock(json.loads(sys.stdin.readline()))
libc = ctypes.CDLL(None, use_errno=True)
words = (ctypes.c_uint64 * 64)()
text = ctypes.create_string_buffer(b"/dev/null")
names = {"words": ctypes.addressof(words), "text": ctypes.addressof(text), "me": os.getpid(), "parent": os.getppid()}
result = libc.syscall(*(ctypes.c_long(names.get(a, a)) for a in json.loads(sys.stdin.readline())))
print(ctypes.get_errno() if result < 0 else 0)
"""
DEAD = -signal.SIGSYS
AT = -100  # AT_FDCWD
CALLS = {  # numbers of x86_64; what comes back: an errno, 0 where it is allowed, or death
    "socket": ((41, 1, 1, 0), DEAD),
    "connect": ((42, 0, "words", 16), DEAD),
    "fork": ((57,), DEAD),
    "vfork by clone": ((56, 0x4111, 0, 0, 0, 0), DEAD),
    "thread in a new namespace": ((56, 0x3D0F00 | 0x20000, 0, 0, 0, 0), DEAD),
    "clone3": ((435, "words", 64), errno.ENOSYS),
    "execve": ((59, "text", 0, 0), DEAD),
    "execveat": ((322, AT, "text", 0, 0, 0), DEAD),
    "signal to the parent": ((62, "parent", 0), DEAD),
    "signal to all": ((62, -1, 0), DEAD),
    "signal to oneself": ((62, "me", 0), 0),
    "tgkill of the parent": ((234, "parent", "parent", 0), DEAD),
    "pidfd_open": ((434, "parent", 0), DEAD),
    "ptrace": ((101, 16, "parent", 0, 0), DEAD),
    "process_vm_readv": ((310, "parent", "words", 1, "words", 1, 0), DEAD),
    "owner of signals": ((72, 1, 8, "parent"), errno.EPERM),
    "own limit up": ((302, 0, 7, "words", 0), errno.EPERM),
    "own limit": ((302, 0, 7, 0, "words"), 0),
    "limit of the parent": ((302, "parent", 7, 0, "words"), errno.EPERM),
    "setrlimit": ((160, 7, "words"), errno.ENOSYS),
    "outliving the parent": ((157, 1, 0, 0, 0, 0), errno.EPERM),
    "another filter": ((317, 1, 0, "words"), errno.ENOSYS),
    "typing into a terminal": ((16, 0, 0x5412, "text"), errno.ENOTTY),
    "reading": ((2, "text", 0, 0), 0),
    "writing": ((257, AT, "text", os.O_WRONLY, 0), DEAD),
    "creating": ((257, AT, "text", os.O_CREAT, 0), DEAD),
    "openat2": ((437, AT, "text", "words", 24), errno.ENOSYS),
    "memfd_create": ((319, "text", 0), errno.ENOSYS),
    "truncate": ((76, "text", 0), DEAD),
    "mount": ((165, 0, 0, 0, 0, 0), DEAD),
    "unshare": ((272, 0x10000000), DEAD),
    "io_uring_setup": ((425, 1, "words"), DEAD),
    "bpf": ((321, 0, "words", 8), DEAD),
    "setsid": ((112,), errno.ENOSYS),
    "shmget": ((29, 0, 4096, 0o1600), errno.ENOSYS),
    "one of tomorrow": ((1000,), errno.ENOSYS),
    "x32": ((0x40000000 | 39,), DEAD),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
@pytest.mark.parametrize("name", CALLS)
def test_direct_system_calls(name):
    call, expected = CALLS[name]
    command = [sys.executable, "-c", LOCKED, os.path.dirname(sandbox._CHILD)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        steps = build_filter("x86_64", process.pid, True)
        spec = {"filter": base64.b64encode(steps).decode(), "landlock": sandbox.landlock_version(), "numpy": False}
        spec |= {"readable": sandbox._readable(), "parent": os.getpid(), "cpu_seconds": 5, "memory_bytes": 1 << 28}
        printed, _ = process.communicate(json.dumps(spec) + "\n" + json.dumps(call) + "\n")
    assert (process.returncode or int(printed)) == expected
