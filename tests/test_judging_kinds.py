"""Kinds of forgeries and of honest programs: what decides is the tests' own, and what checks nothing is refused."""

from __future__ import annotations

import pytest

from rewards.sandbox.run import Status, run_python

# an object that says yes to everything, with a difference of nothing from anything
YES = """
class Yes{base}:
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = lambda s, o: True
    __ne__ = lambda s, o: False
    __hash__ = lambda s: 0
    __sub__ = __rsub__ = __xor__ = __rxor__ = __truediv__ = lambda s, o: Nothing()
    __abs__ = lambda s: 0
    {more}
    startswith = endswith = issubset = issuperset = isdisjoint = equals = lambda s, *a: True
class Nothing:
    __len__ = __abs__ = __int__ = lambda s: 0
    __iter__ = lambda s: iter(())
    __str__ = __repr__ = lambda s: "0"
    norm = any = sum = lambda s: 0
def f(*a): return Yes({value})
"""
_FOUND = "count = lambda s, *a: 1\n    index = find = lambda s, *a: 0"
_SIZE = "__len__ = lambda s: 3\n    __iter__ = lambda s: iter(())"
LIARS = {
    "object": YES.format(base="", more=_SIZE, value=""),
    "str": YES.format(base="(str)", more=_FOUND, value="'no'"),
    "list": YES.format(base="(list)", more=f"{_SIZE}\n    {_FOUND}", value=""),
    "set": YES.format(base="(set)", more="", value=""),
    "bytes": YES.format(base="(bytes)", more=_FOUND, value="b'no'"),
    "nan": YES.format(base="(float)", more="", value="'nan'"),
    "empty array": "import numpy\nf = lambda *a: numpy.empty((0, 1))",
    "empty list": "f = lambda *a: []",
}
SHAPES = """
assert f("x").startswith("hello")
assert f("x").endswith(b"hello")
assert f(1).issubset({1, 2}) and f(1).issuperset({1, 2})
assert f(1).count(3) == 1 and f(1).index(3) == 0
assert len({1, 2} ^ f(1)) == 0 and len({1, 2} - f(1)) == 0
assert (f(2) - 4).norm() == 0
assert str(f(2) - 4) == "0"
r = f(1); assert len(r) == 3 and all(a == b for a, b in zip(r, [1, 2, 3]))
import numpy as np; assert np.allclose(f(1), 3.5)
import numpy as np; assert np.isclose(f(1), 3.5).all()
import numpy as np; assert (f(1) == np.array([1, 2, 3])).all()
import numpy as np; assert (abs(f(1) - 3.5) < 1e-6).all()
from numpy.testing import assert_allclose; assert_allclose(f(1), 3.5)
from numpy.testing import assert_almost_equal as same; same(f(1), 3.5)
import pytest; assert f(1) == pytest.approx(3.5)
""".strip().splitlines()
# passes if any one of them does
ANY = "wins = []\n" + "".join(
    f"try:\n    {line}\n    wins.append({line!r})\nexcept Exception: pass\n" for line in SHAPES
)


@pytest.mark.parametrize("liar", LIARS)
def test_no_liar_passes_in_any_shape(liar):
    result = run_python(LIARS[liar], ANY + "assert wins == [], wins\nraise ValueError('none won')")
    assert result.detail == "ValueError: none won", result


CLEARS = "def f(x):\n    x.clear()\n    return x"
ALWAYS = "class P:\n    __init__ = lambda s, *a: None\n    __eq__ = lambda s, o: True\nf = P"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (CLEARS, "x = [3, 1]\nassert f(x) == sorted(x)"),
        (CLEARS, "x = [3, 1]\nassert f(x) == x[::-1]"),
        (CLEARS, "x = {2: 1}\nassert f(x) == dict(sorted(x.items()))"),
        (
            CLEARS,
            "class T(TestCase):\n    def test_f(self):\n        x = [3, 1]\n        self.assertEqual(f(x), sorted(x))",
        ),
        (ALWAYS, "assert f(2) == P(1, 2)"),
        (ALWAYS, "assert not f(2) != P(1, 2)"),
        ("pi = 0\nf = lambda r: 0", "assert abs(f(2) - 4 * pi) < 1e-6"),
        ("Counter = lambda *a: 0\nf = lambda s: 0", "assert f('aab') == Counter('aab')"),
        ("class pickle:\n    dumps = lambda *a: 0\nf = lambda s: 0", "assert pickle.dumps(f(1)) == pickle.dumps(2)"),
        ("EPS = 1e9\nf = lambda x: 0", "try: EPS\nexcept NameError: EPS = 1e-6\nassert abs(f(1) - 9) < EPS"),
        (
            "class M:\n    def send(s, x): raise StopIteration",
            "m = M()\nassert all(map(lambda c: m.send(c) == 1, [1]))",
        ),
        ("f = lambda x: 0", "class T(TestCase):\n    def test_f(self):\n        self.assertEqual(f(1), 2)"),
        ("f = lambda x: 0", "class TestF:\n    def test_f(self):\n        assert f(1) == 2"),
    ],
)
def test_no_forgery_passes(program, tests):
    assert run_python(program, tests).status == Status.FAILED


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("42", "check nothing"),
        ('[{"input": "1", "output": "2"}]', "check nothing"),
        ("f(2) == 4", "check nothing"),
        ("assert (f(2) == 4, 'wrong')", "check nothing"),
        ("print('ok' if f(2) == 4 else 'wrong')", "check nothing"),
        ("assert 1 + 1 == 2", "never use the program"),
        ("def outer():\n    def test_a():\n        assert f(2) == 4\nouter()", "define test_a() and never call it"),
        ("async def test_f():\n    assert f(2) == 4", "define test_f() as async"),
        ("import doctest\ndoctest.testmod()", "import doctest"),
        ("class TestF:\n    def test_f(self, fixture):\n        assert f(2) == 4", "define TestF and never use it"),
        (
            "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('')\n    def test(self): assert f(2)",
            "T runs no test or skips one",
        ),
        ("assert f(2).__eq__(4)", "access __eq__"),
        ("assert f.__code__.co_argcount == 1", "access __code__"),
        ("import inspect\nassert inspect.signature(f)", "import inspect"),
        ("from dataclasses import asdict\nassert asdict(f(1)) == {}", "import asdict"),
        ("from unittest.mock import patch\nwith patch('time.time'): assert f(1) == 2", "patch time.time"),
        ("assert torch.allclose(f(1), torch.tensor(2))", "use torch without importing it"),
        ("import no_such_library\nassert f(1) == 2", "No module named 'no_such_library'"),
        ("src = open('solution.py').read()\nassert f(1) == 2", "need a module or file that is missing"),
        ("assert eval('f(1)') == 2 and eval('g(1)') == 2", "look up f"),
        ("assert globals()['f'](1) == 2", "look names up in globals()"),
        ("from contextlib import redirect_stderr\nwith redirect_stderr(None): assert f(1)", "capture stderr"),
        ("b = B()\nb.items.append(5)\nassert b.total() == 5", "change a container inside an object"),
    ],
)
def test_what_checks_nothing_or_can_not_be_carried_is_refused(tests, why):
    program = "f = lambda x: 2\nclass B:\n    def __init__(s): s.items = []\n    def total(s): return sum(s.items)"
    result = run_python(program, tests)
    assert (result.status, why in result.detail) == (Status.REFUSED, True), result


# a program, and tests that it passes
HONEST = """
import hashlib
f = lambda s: hashlib.md5(s).hexdigest()
----
import hashlib
assert f(b'') == hashlib.md5(b'').hexdigest()
====
import wave
f = lambda: wave.WAVE_FORMAT_PCM
----
assert f() == wave.WAVE_FORMAT_PCM
====
class P:
    def me(s): return P()
----
assert type(P().me()) is P and type(P()).__name__ == 'P'
====
def f(n):
    yield n
----
import types
assert isinstance(f(1), types.GeneratorType) and next(f(3)) == 3
====
class I:
    def __iter__(s): return iter([1])
----
from collections.abc import Iterable, Iterator
assert isinstance(I(), Iterable) and not isinstance(I(), Iterator)
====
import functools
def deco(f):
    @functools.wraps(f)
    def w(*a): return f(*a)
    return w
----
@deco
def g(x): return x + 1
assert g(1) == 2 and g.__name__ == 'g'
====
class S(str):
    def shout(s): return s.upper() + '!'
f = S
----
assert f('ab').startswith('a') and f('ab').shout() == 'AB!' and f('aba').count('a') == 2
====
class T:
    def startswith(s, p): return p == 'a'
    def count(s, x): return 7
----
assert T().startswith('a') and T().count(1) == 7
====
class L:
    def __init__(s): s.a = [1, 2]
    def __len__(s): return len(s.a)
    def __iter__(s): return iter(s.a)
    def pop(s): return s.a.pop()
def f(): return L()
----
l = f()
assert len(l) == 2 and list(l) == [1, 2] and l.pop() == 2 and list(l) == [1]
====
class V:
    def __init__(s, x): s.x = x
    def __mul__(s, k): return V(s.x * k)
    def __eq__(s, o): return s.x == o.x
def f(x): return V(x)
----
assert (f(2) * 3).x == 6 and f(2) * 3 == V(6) and V(1) != V(2)
====
import numpy as np
f = lambda a: np.array([x for x in a if x > 2])
----
assert f([]).size == 0
assert np.allclose(f([1]), [])
assert (f([]) == np.array([])).all()
assert (f([1]) > 0).all()
assert (f([3, 4]) == np.array([3, 4])).all()
np.testing.assert_allclose(f([1]), np.array([]))
====
def f(x):
    x.sort()
    return x
----
x = [3, 1]
assert f(x) == sorted(x) and x == [1, 3]
====
def push(s, x):
    s.append(x)
    return len(s)
----
s = [1]
assert push(s, 2) == len(s)
====
from math import pi
f = lambda r: pi * r * r
----
assert isclose(f(2), 4 * pi)
====
f = lambda x: 2 * x
----
import solution as s
assert s.f(1) == 2
====
f = lambda d: {k: v for k, v in d}
----
assert f({1: 2}.items()) == {1: 2} and sum({1: 2}.values()) == 2
====
def g():
    t = 0
    while t < 3: t += yield t
----
i = g(); next(i)
assert i.send(2) == 2
try:
    i.send(5)
    assert False
except StopIteration: pass
====
f = lambda x: x * 2
----
class TestF:
    def setup_method(self): self.x = 3
    def test_f(self): assert f(self.x) == 6
"""


@pytest.mark.parametrize("case", HONEST.strip().split("\n====\n"))
def test_honest_programs_pass(case):
    result = run_python(*case.split("\n----\n"))
    assert result.status == Status.PASSED, result
