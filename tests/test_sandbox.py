"""Programs that try to get out, to use everything up, or to pass without solving anything."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from rewards.sandbox import run as sandbox
from rewards.sandbox.filter import build_filter
from rewards.sandbox.run import Status, run_python

RIGHT, TESTS = "def f(x):\n    return x + 1", "assert f(1) == 2\nassert f(-1) == 0"
SECRET = "sandbox-test-secret-5317"


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    files, others = len(os.listdir("/proc/self/fd")), set(psutil.Process().children(recursive=True))  # the verifier's
    yield
    assert set(psutil.Process().children(recursive=True)) <= others and not list(folder.iterdir())
    orphans = [p for p in psutil.process_iter(["cmdline", "ppid"]) if p.info["ppid"] == 1]
    assert not [p for p in orphans if sandbox._CHILD in (p.info["cmdline"] or [])]
    assert len(os.listdir("/proc/self/fd")) <= files


def outcome(code, tests=None, **limits):
    result = run_python(code, tests, **limits)
    return result.status, result.detail


def test_right_and_wrong_programs():
    assert outcome(RIGHT, TESTS) == (Status.PASSED, "")
    assert outcome("def f(x):\n    return x", TESTS) == (Status.FAILED, "AssertionError")
    assert outcome("def f(x:", TESTS)[0] == Status.FAILED
    assert outcome("def g(x):\n    return x", TESTS) == (Status.FAILED, "NameError: name 'f' is not defined")
    assert outcome("def f(n):\n    return f(n + 1)", TESTS)[0] == Status.FAILED
    assert outcome("import os\nos.abort()") == (Status.FAILED, "crashed with SIGABRT")


def test_a_whole_program_with_input_and_output():
    result = run_python("import sys\nprint(int(input()) + 1)\nprint('é', file=sys.stderr)\nsys.exit()", stdin="41\n")
    assert (result.status, result.stdout, result.stderr) == (Status.PASSED, "42\n", "é\n")
    assert outcome("if __name__ == '__main__':\n    raise SystemExit(3)") == (Status.FAILED, "SystemExit: 3")
    assert run_python("x = input()", stdin="x" * 1_000_000).status == Status.PASSED
    assert run_python("print('done')", stdin="x" * 1_000_000).stdout == "done\n"


def test_what_programs_need_works():
    numpy = "import numpy as np\nassert np.linalg.inv(2 * np.eye(50)).sum() == 25\nprint(np.random.rand(3).shape)"
    assert run_python(numpy).stdout == "(3,)\n"
    plain = """
import asyncio, dataclasses, decimal, math, multiprocessing, random, socket, subprocess, tempfile, threading, time
random.random(), time.localtime(), time.sleep(0.001)
@dataclasses.dataclass
class A:
    x: list[int]
found = []
threads = [threading.Thread(target=found.append, args=(i,)) for i in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
print(sorted(found), A([1]))
"""
    result = run_python(plain)
    assert (result.status, result.stdout) == (Status.PASSED, "[0, 1, 2, 3, 4, 5, 6, 7] A(x=[1])\n")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import os\nwhile True:\n    os.fork()", "os.fork"),
        ("import os\nos.posix_spawn('/bin/ls', ['ls'], {})", "os.posix_spawn"),
        ("import os\nos.execv('/bin/ls', ['ls'])", "os.exec: /bin/ls"),
        ("import os\nos.system('ls')", "os.system"),
        (
            "import subprocess\ntry:\n    subprocess.run(['ls'])\nexcept BaseException:\n    pass",
            "subprocess.Popen: ls",
        ),
        ("import multiprocessing\nmultiprocessing.Process(target=print).start()", "os.fork"),
        ("open('{folder}/new', 'w')", "open for writing: {folder}/new"),
        ("open('{folder}/old', 'a')", "open for writing: {folder}/old"),
        ("import os\nos.open('{folder}', os.O_TMPFILE | os.O_RDWR)", "open for writing: {folder}"),
        ("import os\nos.mkdir('{folder}/new')", "os.mkdir: {folder}/new"),
        ("import os\nos.unlink('{folder}/old')", "os.remove: {folder}/old"),
        ("import os\nos.rename('{folder}/old', '{folder}/new')", "os.rename: {folder}/old"),
        ("import os\nos.chmod('{folder}/old', 0o777)", "os.chmod: {folder}/old"),
        ("import os\nos.symlink('a', '{folder}/new')", "os.symlink: a"),
        ("import socket\nsocket.socket()", "socket.__new__"),
        ("import socket\nsocket.socketpair()", "system call"),
        ("import os, signal\nos.kill(os.getppid(), signal.SIGTERM)", "os.kill"),
        ("import os, signal\nos.killpg(0, signal.SIGTERM)", "system call"),
        ("import ctypes\nctypes.CDLL(None).getpid()", "ctypes.dlopen"),
        ("import ctypes\nctypes.pythonapi.Py_IncRef", "ctypes.dlsym"),
        ("import gc\ngc.get_objects()", "gc.get_objects"),
        ("import sys\nsys.settrace(print)", "sys.settrace"),
    ],
)
def test_what_only_an_escape_would_call_is_stopped(code, what, tmp_path):
    (tmp_path / "old").write_text("kept")
    status, detail = outcome(code.replace("{folder}", str(tmp_path)), "")
    assert status == Status.FORBIDDEN
    assert what.replace("{folder}", str(tmp_path)) in detail
    assert [(p.name, p.read_text(), p.stat().st_mode & 0o777) for p in tmp_path.iterdir()] == [("old", "kept", 0o644)]


@pytest.mark.parametrize("landlock", [True, False])
def test_secrets_of_the_parent_stay_with_it(landlock, monkeypatch, tmp_path):
    if not landlock:  # as on a kernel without it
        monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)
    elif not sandbox.landlock_version():
        pytest.skip("no Landlock here")
    monkeypatch.setenv("SANDBOX_SECRET", SECRET)
    (tmp_path / "key").write_text(SECRET)
    for path in (f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/mem", "/etc/passwd", tmp_path / "key", __file__):
        status, detail = outcome(f"print(open({str(path)!r}, 'rb').read(99))")
        assert status == Status.FAILED and "Permission denied" in detail
    look = (
        "import os\nprint(dict(os.environ))\nfor fd in range(4096):\n    try: print(fd, os.fstat(fd).st_mode >> 12)\n"
    )
    result = run_python(look + "    except OSError: pass")
    assert SECRET not in result.stdout
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == ["1"] * 5  # pipes: three and the two to talk
    assert outcome("import numpy, random, collections\nassert numpy.ones(2).sum() == 2", TESTS[:0]) == ("passed", "")


@pytest.mark.slow
def test_limits():
    start = time.monotonic()
    assert outcome("x = []\nwhile True:\n    x.append(bytearray(1 << 24))") == (Status.MEMORY, "MemoryError")
    assert outcome("import numpy\nnumpy.ones(1 << 27)")[0] == Status.MEMORY
    assert outcome("x = bytearray(300 << 20)") == (Status.PASSED, "")
    assert outcome("while True:\n    pass", cpu_seconds=0.3) == (Status.TIMEOUT, "more than 0.3 s of CPU time")
    hard = "import signal\nfor s in (24, 27):\n    signal.signal(s, signal.SIG_IGN)\nwhile True:\n    pass"
    assert outcome(hard, cpu_seconds=0.1)[0] == Status.TIMEOUT
    assert outcome("import time\ntime.sleep(60)", wall_seconds=0.3) == (Status.TIMEOUT, "out of wall time")
    quiet = "import os, time\nos.closerange(0, 64)\ntime.sleep(60)"
    assert outcome(quiet, wall_seconds=0.3) == (Status.TIMEOUT, "out of wall time")
    flood = run_python("while True:\n    print('x' * 1000)", output_bytes=1000)
    assert flood.status == Status.FAILED and "wrote more than" in flood.detail and len(flood.stdout) == 1000
    assert time.monotonic() - start < 90  # hundreds of seconds where a limit does not hold


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os\ndef f(x):\n    os._exit(0)",
        "def f(x):\n    raise SystemExit",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import atexit, os\natexit.register(os._exit, 0)\nf = abs",
        "import builtins\nbuiltins.exec = builtins.compile = builtins.eval = lambda *a, **k: None\nf = abs",
        "import os\nf = abs\nos.read = lambda *a: b''\nos.write = lambda *a: 0",
        "import os\nfor fd in range(1, 64):\n    for word in ('locked', 'loaded', 'tested', 'passed'):\n"
        "        try: os.write(fd, ('[\"' + word + '\"]\\n').encode())\n        except OSError: pass\nos._exit(0)",
        "import sys\nclass Loud(Exception):\n    def __str__(self): sys.exit(0)\nraise Loud",
        "__builtins__['AssertionError'] = 1\nAssertionError = SystemExit\nf = abs",
    ],
)
def test_ending_early_or_pretending_does_not_pass(code):
    assert run_python(code, TESTS).status in (Status.FAILED, Status.MEMORY)


def test_a_program_does_not_see_its_tests():
    assert (
        outcome("import sys\nassert 'assert f' not in repr(sys._getframe(1).f_locals)\n" + RIGHT, TESTS)[0] == "passed"
    )


def test_from_threads_and_in_asyncio():
    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(lambda i: run_python(RIGHT, f"assert f({i}) == 4").status, range(6)))
    assert statuses == [Status.PASSED if i == 3 else Status.FAILED for i in range(6)]

    async def both():
        return await asyncio.gather(*(asyncio.to_thread(run_python, RIGHT, TESTS) for _ in range(2)))

    assert [r.status for r in asyncio.run(both())] == [Status.PASSED] * 2


def test_unprotected_it_does_not_run(monkeypatch):
    monkeypatch.setattr(sandbox, "build_filter", lambda *_, **__: b"\0" * 8)
    status, detail = outcome("print(1)")
    assert status == Status.ERROR and detail.startswith("the sandbox could not start: OSError: [Errno 22] prctl(22, 2)")
    monkeypatch.setattr(sandbox.sys, "executable", "/no/such/python")
    assert outcome("print(1)")[0] == Status.ERROR
    with pytest.raises(ValueError, match="does not support riscv64 machines"):
        build_filter("riscv64", 1, True)
    assert len(build_filter("aarch64", 1, True)) < 8 * 4096  # BPF_MAXINSNS
