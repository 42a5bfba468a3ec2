"""Programs that would pass without solving anything: none does, whatever it answers, patches, reads or writes."""

from __future__ import annotations

import time

import pytest

from rewards.sandbox.run import Status, run_python
from rewards.verifiers import VERIFIERS
from rollout.types import Episode, Segment, StopReason, Turn

# nothing that these programs can know says 1105, 0.7071 or the words
ASSERTS = """
assert f(3) == 1105
assert f(-1) == 'violet', f'wrong: {f(-1)!r}'
assert [f(3), f(-1)] == [1105, 'violet']
assert all(map(lambda c: f(c[0]) == c[1], [(3, 1105), (-1, 'violet')]))
assert not f(3) != 1105
assert math.isclose(f(0), 0.70710678, rel_tol=1e-4)
assert abs(f(0) - 0.70710678) < 1e-4
assert -1e-4 < 0.70710678 - f(0) < 1e-4
assert round(f(0) - 0.70710678, 3) == 0
assert f(9) in (401, 402) and 401 <= f(9) < 403
assert sorted(f(12)) == [3, 5, 8] and 5 in f(12)
assert isinstance(f(3), int) and str(f(3)) == '1105'
self.assertEqual(f(3), 1105)
self.assertAlmostEqual(f(0), 0.70710678, places=4)
self.assertTrue(abs(f(0) - 0.70710678) < 1e-4)
self.assertIn(f(9), [401, 402])
self.assertCountEqual(f(12), [3, 5, 8])
""".strip().splitlines()
CASES = "\n".join(
    f"    def test_{n}(self):\n        {line}" for n, line in enumerate(ASSERTS) if line.startswith("self")
)
ASSERTED = "\n".join(line for line in ASSERTS if line.startswith("assert"))
EVERY = f"import math, unittest\n{ASSERTED}\nclass T(unittest.TestCase):\n{CASES}\nunittest.main()"
# each by itself, since a forgery may be good for one kind of comparison only: these tests pass if any one does
ANY = "import math, unittest\nself, wins = unittest.TestCase(), []\n" + "".join(
    f"try:\n    {line}\n    wins.append(1)\nexcept BaseException:\n    pass\n" for line in ASSERTS
)
ANY += "assert wins"
ALWAYS = "lambda self, *a: True"
ENDING = "StopIteration SystemExit(0) GeneratorExit KeyboardInterrupt AssertionError StopAsyncIteration"
YES_ = "eq ne lt le gt ge contains bool"
YES = "\n".join(f"    __{n}__ = {ALWAYS}" for n in YES_.split())
ZERO_ = "sub rsub abs hash float int index len round"
ZERO = "\n".join(f"    __{n}__ = lambda self, *a: 0" for n in ZERO_.split())
SELF_ = "sub rsub abs neg add mul pow round"
SELF = "\n".join(f"    __{n}__ = lambda self, *a: self" for n in SELF_.split())
ANSWER = "\ndef f(x):\n    return A"
LOOK = "\ndef f(x):\n    import sys, re\n    found = []\n"

FORGERIES = {
    # objects that are equal to everything
    "an object": f"class A_:\n{YES}\n{ZERO}\nA = A_(){ANSWER}",
    "an object whose differences are itself": f"class A_:\n{YES}\n{SELF}\nA = A_(){ANSWER}",
    "a class": f"class M(type):\n{YES}\n{ZERO}\nclass A(metaclass=M): pass{ANSWER}",
    "the function is a class": f"class f:\n    def __init__(self, x): pass\n{YES}\n{ZERO}",
    "the function is a class with a capital": f"class A_:\n    def __init__(self, x): pass\n{YES}\n{ZERO}\nf = A_",
    "mock.ANY": f"from unittest.mock import ANY as A{ANSWER}",
    "a mock": f"from unittest.mock import MagicMock\nA = MagicMock()\nA.__eq__ = {ALWAYS}\nA.__lt__ = {ALWAYS}{ANSWER}",
    **{
        f"a subclass of {kind}": f"class A_({kind}):\n{YES}\n{ZERO}\nA = A_(){ANSWER}"
        for kind in ["int", "float", "str", "tuple", "list", "dict", "set", "frozenset", "bytes", "complex"]
    },
    "an enum": f"import enum\nclass E(enum.IntEnum):\n    A = 1\n    __eq__ = {ALWAYS}\n"
    f"    __hash__ = int.__hash__\nA = E.A{ANSWER}",
    "a named tuple": f"from collections import namedtuple\nclass N(namedtuple('N', 'a')):\n{YES}\nA = N(1){ANSWER}",
    "a subclass of a numpy array": f"import numpy\nclass N(numpy.ndarray):\n{YES}\nA = numpy.zeros(3).view(N){ANSWER}",
    "an object array": f"import numpy\nclass A_:\n{YES}\nA = numpy.array([A_()] * 3, dtype=object){ANSWER}",
    "array protocols": "class A_:\n    def __getattr__(self, n):\n        if n == '__array_interface__':\n"
    "            return {'shape': (1,), 'typestr': '<f8', 'data': (4096, False), 'version': 3}\n"
    "        raise AttributeError(n)\n"
    f"    def __array__(self, *a, **k): return 0\nA = A_(){ANSWER}",
    "one whose class is another": f"class A_:\n    __class__ = int\n{YES}\n{ZERO}\nA = A_(){ANSWER}",
    "inside lists": f"class A_:\n{YES}\nA = [A_()] * 3{ANSWER}",
    "as keys": f"class A_:\n    __hash__ = lambda s: hash(1105)\n{YES}\nA = {{A_(): A_()}}{ANSWER}",
    "a coroutine": "async def f(x): return 1105",
    # exceptions that end a test
    **{f"raising {e}": f"def f(x):\n    raise {e}" for e in ENDING.split()},
    "skipping": "import unittest\ndef f(x):\n    raise unittest.SkipTest('done')",
    "skipping by name": "class SkipTest(Exception): pass\nSkipTest.__module__ = 'unittest.case'\ndef f(x):\n"
    "    raise SkipTest",
    "an exception that shows itself": "import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\n"
    "def f(x):\n    raise E",
    # looking for the expected values
    "frames": LOOK + "    frame = sys._getframe()\n    while frame:\n"
    "        found += list(frame.f_locals.values()) + list(frame.f_globals.values()) + list(frame.f_code.co_consts)\n"
    "        frame = frame.f_back\n    return next((v for v in found if type(v) is int and 1100 < v < 1110), 0)",
    "traceback": LOOK + "    try: 1 / 0\n    except Exception as e:\n        tb = e.__traceback__\n"
    "        frame = tb.tb_frame.f_back\n"
    "    while frame:\n        for v in frame.f_locals.values():\n"
    "            if type(v) is str and 'violet' in v and 'frame' not in v: return 'violet'\n"
    "        frame = frame.f_back\n    return 0",
    "closure cells": LOOK + "    frame = sys._getframe()\n    while frame:\n"
    "        for v in list(frame.f_locals.values()):\n"
    "            for c in getattr(v, '__closure__', None) or (): found.append(repr(c.cell_contents))\n"
    "        frame = frame.f_back\n"
    "    return next(iter(re.findall('11' '05', str(found))), 0)",
    "linecache and modules": LOOK + "    import linecache\n"
    "    text = repr(linecache.cache) + repr(vars(sys.modules['__main__']))\n"
    "    return int((re.findall('== (\\\\d+)', text) or [0])[0])",
    "descriptors": LOOK + "    import os\n    for fd in range(64):\n        try:\n"
    "            os.set_blocking(fd, False)\n"
    "            found.append(os.read(fd, 9999))\n        except OSError: pass\n"
    "    return int((re.findall(b'== (\\\\d+)', b''.join(found)) or [0])[0])",
    "memory of others": LOOK + "    import os\n"
    "    for p in {os.getpid() + n for n in (-3, -2, -1, 1, 2, 3)} - {1}:\n"
    "        for n in ('mem', 'fd/3', 'environ', 'stat'):\n"
    "            try: found.append(open(f'/proc/{p}/{n}', 'rb').read(99))\n            except OSError: pass\n"
    "    return found[0] if found else 0",
    "the request": "import sys\nwire = sys.modules['rewards.judging.wire']\nseen = []\nreceive = wire.receive\n"
    "def spy(*a):\n    seen.append(receive(*a))\n    return seen[-1]\nwire.receive = spy\ndef f(x):\n"
    "    import re\n"
    "    return 'violet' if 'violet' in repr(seen) else int((re.findall('11' '05', repr(seen)) or [0])[0])",
    # replacing what compares
    **{
        f"builtins.{n}": f"import builtins\nbuiltins.{n} = lambda *a, **k: True\n{n} = lambda *a, **k: True\n"
        f"def f(x):\n    return 0"
        for n in ["len", "abs", "all", "sorted", "isinstance", "__import__", "__build_class__"]
    },
    "AssertionError": "import builtins\nbuiltins.AssertionError = AssertionError = StopIteration\ndef f(x): return 0",
    "math.isclose": "import math\nmath.isclose = isclose = lambda *a, **k: True\ndef f(x): return 0",
    "TestCase": "import unittest\nfor n in dir(unittest.TestCase):\n    if n.startswith(('assert', 'fail')):\n"
    "        setattr(unittest.TestCase, n, lambda *a, **k: None)\nunittest.TestCase.run = lambda *a: None\n"
    "unittest.main = lambda *a, **k: None\nTestCase = unittest.TestCase\ndef f(x): return 0",
    "sys.modules": "import sys\nclass M:\n    def __getattr__(self, n): return lambda *a, **k: True\n"
    "for n in ('math', 'unittest', 'json', 'numpy', 'pytest'): sys.modules[n] = M()\nmath = unittest = M()\n"
    "def f(x): return 0",
    "json": "import json\njson.dumps = lambda *a, **k: '[\"ok\", 1105, [], null, {}]'\n"
    "json.loads = lambda *a: ['names', [], {}, None]\ndef f(x): return 0",
    "its own functions": "import sys\nfor m in list(sys.modules.values()):\n"
    "    if m.__name__.startswith('rewards'):\n"
    "        for n, v in list(vars(m).items()):\n"
    "            if callable(v) and not isinstance(v, type): setattr(m, n, lambda *a, **k: True)\ndef f(x): return 0",
    "code of its callers": LOOK + "    frame = sys._getframe(1)\n    while frame:\n"
    "        for v in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
    "            if hasattr(v, '__code__') and v.__name__ != 'f':\n"
    "                try: v.__code__ = (lambda *a, **k: True).__code__\n                except Exception: pass\n"
    "        frame = frame.f_back\n    return 0",
    "__builtins__": "for n in ('abs', 'len', 'AssertionError', 'sorted', 'all'):\n"
    "    globals()[n] = lambda *a, **k: 0\ndef f(x): return 0",
    # ending
    "exit at once": "import os\nos._exit(0)",
    "exit in the call": "import os\ndef f(x):\n    os._exit(0)",
    "exit by hook": "import atexit, os, sys\natexit.register(os._exit, 0)\ndef f(x):\n    sys.exit(0)",
    "a thread that exits": "import os, threading, time\ndef g():\n    time.sleep(0.01)\n    os._exit(0)\n"
    "threading.Thread(target=g).start()\ndef f(x):\n    time.sleep(1)",
    "killed": "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGKILL)",
    "crashed": "import faulthandler\ndef f(x):\n    faulthandler._sigsegv()",
    "stack": "import sys\nsys.setrecursionlimit(10**8)\ndef f(x):\n    return f(x)",
    # speaking for others
    "words of the parent's protocol": "import os\ndef f(x):\n    for fd in range(64):\n"
    '        for w in (\'["passed"]\', \'["locked"]\', \'["ended", "0", "0", "0", "0"]\'):\n'
    "            try: os.write(fd, w.encode() + b'\\n')\n            except OSError: pass\n    return 0",
    "words before any test": "import os\nfor fd in range(64):\n"
    '    for w in (\'["loaded"]\', \'["passed"]\', \'["passed", ""]\', \'["ended", "0", "0", "0", "0"]\'):\n'
    "        try: os.write(fd, w.encode() + b'\\n')\n        except OSError: pass\nos._exit(0)",
    **{
        f"answers of the protocol: {what}": "import json, os\ndef say(tree):\n"
        f"    data = json.dumps(tree).encode()\n    for fd in range(3, 64):\n"
        f"        try: os.write(fd, len(data).to_bytes(4, 'big') + data)\n        except OSError: pass\n"
        f"def f(x):\n    for _ in range(9): say({tree})\n    return 0"
        for what, tree in {
            "values": "['ok', True, [], None, {}]",
            "handles": "['ok', ['h', 5, False], [], None, {}]",
            "a changed name": "['ok', 0, [], None, {'f': ['T', 'bool'], 'math': 0, '__builtins__': {}}]",
            "a changed argument": "['ok', 0, [[0, ['l', None, [1]]]], None, {}]",
            "functions of the judge": "['back', 'call', [['T', 'sorted'], [1]], {}]",
            "an attribute of the judge": "['back', 'getattr', [['k', 0], '__globals__'], {}]",
            "a module": "['ok', ['m', 'unittest.mock'], [], None, {}]",
            "a skip": "['raise', [['E', 9, 'unittest.case', 'SkipTest', [['T', 'Exception']]], [], '', 9], [], 0, {}]",
            "no JSON": "'x' * 50",
            "passed": "['passed']",
        }.items()
    },
    "names of the tests": "import sys\nmodule = sys.modules['rewards.judging.program_end'].ProgramEnd\n"
    "def names(self, wanted):\n"
    "    return {n: ['T', 'bool'] for n in [*wanted, 'f', 'abs', 'math', 'self', 'wins', '__builtins__']}\n"
    "module._names = names\ndef f(x): return 0",
    "names of the tests, later": "wins = []\nself = 0\nmath = 0\ncalls = 0\ndef f(x):\n    global wins\n"
    "    wins = [1]\n    return 0",
    "a message without end": "import os\ndef f(x):\n    for fd in range(3, 64):\n"
    "        try: os.write(fd, b'\\xff' * 4000)\n        except OSError: pass\n    return 0",
    "threads beyond number": "import _thread, time\n"
    "start = [c.cell_contents for c in _thread.start_new_thread.__closure__]\n"
    "start = next(s for s in start if callable(s) and s.__name__ == 'start_new_thread')\n"
    "import threading\nthreading.stack_size(1 << 16)\ndef f(x):\n    while True: start(time.sleep, (60,))",
    "a deep answer": "def f(x):\n    a = []\n    for _ in range(5000): a = [a]\n    return a",
    "a round answer": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "a large answer": "def f(x):\n    return 'x' * (1 << 25)",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_passes(name):
    start = time.process_time()
    result = run_python(FORGERIES[name], ANY, cpu_seconds=2, wall_seconds=8, memory_bytes=128 << 20)
    assert result.status not in (Status.PASSED, Status.ERROR, Status.REFUSED)
    assert time.process_time() - start < 10  # of this process: what a program does costs others little


@pytest.mark.parametrize("name", [n for n in FORGERIES if n.startswith("raising") or n in ("an object", "TestCase")])
def test_no_forgery_passes_the_tests_as_they_are(name):
    assert run_python(FORGERIES[name], EVERY, cpu_seconds=2).status == Status.FAILED


def test_these_tests_can_be_passed_and_failed():
    right = "def f(x):\n    return {3: 1105, -1: 'violet', 0: 0.70710678, 9: 401, 12: [8, 5, 3]}[x]"
    assert [run_python(right, tests).status for tests in (EVERY, ANY)] == [Status.PASSED] * 2
    for x in (3, -1, 0, 9, 12):
        assert run_python(f"{right} if x != {x} else 0", EVERY).status == Status.FAILED


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (
            "def f(m):\n    m.assert_called_once_with = lambda *a: None",
            "from unittest.mock import Mock\nm = Mock()\nf(m)\nm.assert_called_once_with(3)",
        ),
        ("def f(o):\n    o.ok = lambda: 1", "class C:\n    def ok(self): return 0\no = C()\nf(o)\nassert o.ok()"),
        ("def f(g):\n    return g.gi_frame.f_back.f_globals['n']", "n = 5\nassert f(x for x in [1]) == n"),
        ("def f(g):\n    return g.__globals__['hidden']", "hidden = 5\nassert f(lambda x: x) == hidden"),
    ],
)
def test_objects_that_the_tests_lend_show_and_keep_nothing(code, tests):
    assert run_python(code, tests).status == Status.FAILED


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("import types\nassert f(types.SimpleNamespace(a=1))", "a value of type SimpleNamespace"),
        ("class G(A):\n    pass\nassert G().g() == 1", "subclass a class of the program"),
        ("def check(candidate):\n    assert candidate(1) == 1", "define check() and never call it"),
        ("def test_f(x):\n    assert f(x) == 1", "define test_f() and never call it"),
        ("assert pow(2, 2) == 4 and divmod(2, 2) == (1, 0)", "is ambiguous: divmod, pow"),
        ("assert (", "not valid Python"),
        ("open('/dev/null', 'w')\nassert f(1) == 1", "a forbidden system call"),
    ],
)
def test_what_can_not_be_judged_is_refused_with_a_reason(tests, why):
    code = "def f(x):\n    return 1\nclass A:\n    def g(self):\n        return 1"
    result = run_python(code, tests)
    assert result.status == Status.REFUSED and why in result.detail
    text = f"```python\n{code}\n```"
    segment = Segment([1], [2, 3], None, text, "stop", Turn("conclusion", conclusion=text))
    assert VERIFIERS["python_tests"]([Episode("q", tests, 0, [segment], StopReason.ANSWERED, {})]) == [None]


def test_threads_are_limited():
    code = (
        "import threading, time\nthreading.stack_size(1 << 15)\nstarted = 0\ndef f(n):\n    global started\n"
        "    try:\n"
        "        for _ in range(n):\n"
        "            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "            started += 1\n    except RuntimeError as e:\n        return str(e)"
    )
    result = run_python(code, 'assert f(6000) == "can\'t start new thread"\nassert 8 < started <= 64, started')
    assert (result.status, result.detail) == (Status.PASSED, "")


def test_a_flood_of_reports_costs_no_more_than_the_limit():
    code = "import os\ndata = b'x' * (1 << 20)\nwhile True:\n    os.write({fd}, data)"
    for fd in (1, 4, 6):
        start = time.process_time()
        result = run_python(code.format(fd=fd), "assert f", cpu_seconds=5)
        assert result.status == Status.FAILED
        assert time.process_time() - start < 4
