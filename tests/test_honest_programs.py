"""Right programs of many kinds, with tests as data sets have them: each passes, and fails where it has a fault."""

from __future__ import annotations

import pytest

from rewards.sandbox.run import Status, run_python

# name -> program, tests, and a fault: text of the program and what stands there in a wrong one
HONEST = {
    "function": ("def f(x):\n    return x + 1", "assert f(1) == 2\nassert f(-1) == 0", ("+ 1", "+ 2")),
    "recursion": (
        "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
        "assert [fib(i) for i in range(12)] == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]",
        ("n < 2", "n < 3"),
    ),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(5000)\ndef depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)",
        "assert depth(3000) == 3000",
        ("5000", "500"),
    ),
    "float with tolerance": (
        "def root(x):\n    return x ** 0.5",
        "import math\nassert abs(root(2) - 1.41421356) < 1e-6\nassert math.isclose(root(9), 3.0)\n"
        "assert round(root(3), 3) == 1.732",
        ("0.5", "0.51"),
    ),
    "tolerance by the program's import": (
        "import math\ndef area(r):\n    return math.pi * r * r",
        "assert math.isclose(area(2), 12.566370614359172)",
        ("r * r", "r"),
    ),
    "nan and infinity": (
        "def f(x):\n    return [x, -x, x - x]",
        "import math\na, b, c = f(float('inf'))\nassert a == math.inf and b == -math.inf and math.isnan(c)",
        ("x - x", "x"),
    ),
    "large integers": (
        "import math\ndef f(n):\n    return math.factorial(n)",
        "import math\nassert f(100) == math.factorial(100)\nassert f(3000) % 7919 == math.factorial(3000) % 7919",
        ("(n)", "(n - 1)"),
    ),
    "strings": (
        "def f(s):\n    return s[::-1].upper()",
        "assert f('aß€😀') == '😀€SSA'\nassert f('') == ''\nassert f('a\\n\\0b') == 'B\\0\\nA'",
        (".upper()", ""),
    ),
    "nested data": (
        "def f(x):\n    return {'a': [1, (2, 3.5)], (1, 2): {x}, None: frozenset([True]), 'b': b'\\xff', 'c': 1 + 2j}",
        "assert f(5) == {'a': [1, (2, 3.5)], (1, 2): {5}, None: frozenset([True]), 'b': b'\\xff', 'c': 1 + 2j}\n"
        "assert type(f(5)['a'][1]) is tuple",
        ("(2, 3.5)", "[2, 3.5]"),
    ),
    "generator": (
        "def gen(n):\n    for i in range(n):\n        yield i * i",
        "assert list(gen(4)) == [0, 1, 4, 9]\ng = gen(2)\nassert next(g) == 0 and next(g) == 1\n"
        "assert next(g, None) is None\nassert sum(gen(3)) == 5",
        ("i * i", "i"),
    ),
    "endless generator": (
        "def count():\n    n = 0\n    while True:\n        yield n\n        n += 2",
        "import itertools\nassert list(itertools.islice(count(), 3)) == [0, 2, 4]",
        ("+= 2", "+= 1"),
    ),
    "coroutine of old": (
        "def average():\n    total = n = 0\n    mean = None\n    while True:\n        total += yield mean\n"
        "        n += 1\n        mean = total / n",
        "a = average()\nnext(a)\nassert a.send(10) == 10\nassert a.send(20) == 15\na.close()",
        ("total / n", "total"),
    ),
    "map and zip": (
        "def f(xs):\n    return map(str, xs)\ndef g(a, b):\n    return zip(a, b)",
        "assert list(f([1, 2])) == ['1', '2']\nassert dict(g('ab', (1, 2))) == {'a': 1, 'b': 2}",
        ("str, xs", "int, xs"),
    ),
    "exceptions": (
        "def f(x):\n    if x < 0:\n        raise ValueError('negative: %d' % x)\n    return x",
        "try:\n    f(-1)\n    assert False, 'no error'\nexcept ValueError as e:\n"
        "    assert 'negative: -1' in str(e)\n"
        "assert f(2) == 2",
        ("ValueError", "TypeError"),
    ),
    "exception of its own": (
        "class Empty(Exception):\n    def __init__(self, name):\n        super().__init__(f'{name} is empty')\n"
        "        self.name = name\ndef pop(name):\n    raise Empty(name)",
        "try:\n    pop('q')\nexcept Empty as e:\n    assert e.name == 'q' and str(e) == 'q is empty'\n"
        "    assert isinstance(e, Exception)\nelse:\n    raise AssertionError",
        ("raise Empty(name)", "return None"),
    ),
    "unittest": (
        "def div(a, b):\n    return a / b",
        "import unittest\nclass T(unittest.TestCase):\n    def test_value(self):\n"
        "        self.assertEqual(div(4, 2), 2)\n"
        "        self.assertAlmostEqual(div(1, 3), 0.3333333, places=5)\n    def test_zero(self):\n"
        "        with self.assertRaises(ZeroDivisionError):\n            div(1, 0)\n"
        "        self.assertIn(div(2, 2), [1])\n"
        "if __name__ == '__main__':\n    unittest.main()",
        ("a / b", "a / b + 1"),
    ),
    "test functions": (
        "def double(x):\n    return 2 * x",
        "from solution import double\ndef test_one():\n    assert double(1) == 2\ndef test_text():\n"
        "    assert double('a') == 'aa'",
        ("2 * x", "x"),
    ),
    "check of a candidate": (
        "def add(a, b):\n    return a + b",
        "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert candidate(b=1, a=0) == 1\ncheck(add)",
        ("a + b", "a - b"),
    ),
    "solution class": (
        "class Solution:\n    def twoSum(self, nums, target):\n        seen = {}\n"
        "        for i, n in enumerate(nums):\n"
        "            if target - n in seen:\n                return [seen[target - n], i]\n            seen[n] = i",
        "assert Solution().twoSum([2, 7, 11], 9) == [0, 1]\nassert Solution().twoSum(nums=[3, 3], target=6) == [0, 1]",
        ("i]", "0]"),
    ),
    "stack": (
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n"
        "        self.items.append(x)\n    def pop(self):\n        return self.items.pop()\n    def __len__(self):\n"
        "        return len(self.items)\n    def __contains__(self, x):\n        return x in self.items\n"
        "    def __bool__(self):\n        return bool(self.items)",
        "s = Stack()\nassert not s\ns.push(1); s.push([2])\n"
        "assert len(s) == 2 and s.items == [1, [2]] and 1 in s and 5 not in s\n"
        "assert s.pop() == [2] and s.pop() == 1\ntry:\n    s.pop()\nexcept IndexError:\n    pass\nelse:\n"
        "    assert 0",
        ("items.pop()", "items.pop(0)"),
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Point:\n    x: int\n    y: int = 0\n"
        "def flip(p):\n    return Point(p.y, p.x)",
        "assert flip(Point(1, 2)) == Point(2, 1)\nassert Point(1) != Point(2)\n"
        "assert repr(Point(1)) == 'Point(x=1, y=0)'\n"
        "assert len({Point(1), Point(1)}) == 1\nfrom dataclasses import FrozenInstanceError\ntry:\n"
        "    Point(1).x = 3\n"
        "    assert False\nexcept FrozenInstanceError:\n    pass",
        ("p.y, p.x", "p.x, p.y"),
    ),
    "operators": (
        "class Vec:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n    def __add__(self, o):\n"
        "        return Vec(self.x + o.x, self.y + o.y)\n    def __mul__(self, k):\n"
        "        return Vec(self.x * k, self.y * k)\n"
        "    __rmul__ = __mul__\n    def __eq__(self, o):\n        return (self.x, self.y) == (o.x, o.y)\n"
        "    def __lt__(self, o):\n        return self.x < o.x\n    def __abs__(self):\n"
        "        return (self.x ** 2 + self.y ** 2) ** 0.5\n"
        "    def __matmul__(self, o):\n        return self.x * o.x + self.y * o.y\n    def __iter__(self):\n"
        "        return iter((self.x, self.y))",
        "v = Vec(3, 4)\nassert v + Vec(1, 1) == Vec(4, 5)\nassert (2 * v).x == 6 and v * 2 == Vec(6, 8)\n"
        "assert abs(v) == 5\n"
        "assert v @ v == 25\nassert Vec(1, 0) < v\nassert tuple(v) == (3, 4)\nx, y = v\nassert [x, y] == [3, 4]\n"
        "assert max(Vec(1, 1), v) == v\nassert sorted([v, Vec(0, 0)])[0].x == 0",
        ("self.y + o.y", "self.y"),
    ),
    "inheritance": (
        "from abc import ABC, abstractmethod\nclass Shape(ABC):\n    @abstractmethod\n    def area(self): ...\n"
        "class Square(Shape):\n    def __init__(self, a):\n        self.a = a\n    def area(self):\n"
        "        return self.a ** 2\n"
        "    @property\n    def side(self):\n        return self.a\n    @classmethod\n    def unit(cls):\n"
        "        return cls(1)\n"
        "    @staticmethod\n    def sides():\n        return 4",
        "s = Square(3)\nassert s.area() == 9 and isinstance(s, Shape) and issubclass(Square, Shape) and s.side == 3\n"
        "assert Square.unit().area() == 1 and Square.sides() == 4\ns.a = 5\nassert s.area() == 25\n"
        "try:\n    Shape()\n    assert False\nexcept TypeError:\n    pass\n"
        "assert hasattr(s, 'area') and not hasattr(s, 'volume')",
        ("** 2", "* 3"),
    ),
    "iterator and items": (
        "class Grid:\n    def __init__(self):\n        self.d = {}\n    def __setitem__(self, k, v):\n"
        "        self.d[k] = v\n"
        "    def __getitem__(self, k):\n        return self.d[k]\n    def __delitem__(self, k):\n"
        "        del self.d[k]\n"
        "    def __iter__(self):\n        return iter(self.d)\n    def __len__(self):\n        return len(self.d)",
        "g = Grid()\ng[1, 2] = 'a'\ng['x'] = [1]\n"
        "assert g[1, 2] == 'a' and len(g) == 2 and list(g) == [(1, 2), 'x']\n"
        "del g['x']\ntry:\n    g['x']\n    assert False\nexcept KeyError as e:\n    assert e.args == ('x',)",
        ("= v", "= k"),
    ),
    "context manager": (
        "log = []\nclass Manager:\n    def __enter__(self):\n        log.append('in')\n        return self\n"
        "    def __exit__(self, kind, error, trace):\n        log.append(kind.__name__ if kind else 'out')\n"
        "        return kind is KeyError",
        "with Manager():\n    pass\nwith Manager():\n    raise KeyError(1)\n"
        "assert log == ['in', 'out', 'in', 'KeyError']",
        ("'in'", "'on'"),
    ),
    "closures and decorators": (
        "def counter():\n    n = 0\n    def step():\n        nonlocal n\n        n += 1\n        return n\n"
        "    return step\n"
        "def memo(f):\n    seen = {}\n    def g(x):\n        if x not in seen:\n            seen[x] = f(x)\n"
        "        return seen[x]\n    return g",
        "c = counter()\nassert [c(), c(), c()] == [1, 2, 3]\nassert counter()() == 1\ncalls = []\n@memo\n"
        "def square(x):\n"
        "    calls.append(x)\n    return x * x\nassert square(3) == 9 and square(3) == 9 and calls == [3]",
        ("if x not in seen", "if True"),
    ),
    "functions of the tests": (
        "def apply(f, xs):\n    return [f(x) for x in xs]\ndef compose(f, g):\n    return lambda x: f(g(x))",
        "assert apply(lambda x: x + 1, [1, 2]) == [2, 3]\nassert apply(str, (1,)) == ['1']\n"
        "assert compose(abs, lambda x: x - 5)(2) == 3\ndef bad(x):\n    raise KeyError(x)\ntry:\n"
        "    apply(bad, [1])\n"
        "    assert False\nexcept KeyError:\n    pass",
        ("f(g(x))", "g(f(x))"),
    ),
    "changed in place": (
        "def sort(a):\n    a.sort()\ndef put(d, k):\n    d[k] = d.get(k, 0) + 1\n    d['rows'][0].append(k)\n"
        "def dedup(s):\n    s.discard(1)",
        "a = [3, 1, 2]\nassert sort(a) is None\nassert a == [1, 2, 3]\nrow = [1]\nd = {'rows': [row]}\nput(d, 'x')\n"
        "assert d == {'rows': [[1, 'x']], 'x': 1} and row == [1, 'x'] and d['rows'][0] is row\ns = {1, 2}\n"
        "dedup(s)\nassert s == {2}",
        ("a.sort()", "sorted(a)"),
    ),
    "the same list back": (
        "def f(a):\n    a.append(len(a))\n    return a",
        "a = []\nassert f(a) is a and f(a) == [0, 1]\nassert f([1, [2]]) == [1, [2], 2]",
        ("return a", "return a[:]"),
    ),
    "printing": (
        "def greet(name):\n    print('Hello,', name)",
        "import io\nfrom contextlib import redirect_stdout\nout = io.StringIO()\nwith redirect_stdout(out):\n"
        "    greet('Ann')\n"
        "assert out.getvalue() == 'Hello, Ann\\n'",
        ("Hello", "Hallo"),
    ),
    "stdin": (
        "import sys\ndef main():\n    n = int(input())\n"
        "    rows = [list(map(int, sys.stdin.readline().split())) for _ in range(n)]\n"
        "    print(sum(map(sum, rows)))",
        "import io, sys\nfor text, expected in [('2\\n1 2\\n3 4\\n', '10\\n'), ('1\\n5\\n', '5\\n')]:\n"
        "    sys.stdin, kept, sys.stdout = io.StringIO(text), sys.stdout, io.StringIO()\n    main()\n"
        "    got, sys.stdout = sys.stdout.getvalue(), kept\n    assert got == expected",
        ("sum(map(sum, rows))", "rows"),
    ),
    "patched input": (
        "def ask():\n    return int(input('number? ')) + int(input())",
        "from unittest.mock import patch\nwith patch('builtins.input', side_effect=['4', '5']) as asked:\n"
        "    assert ask() == 9\n"
        "assert asked.call_count == 2",
        ("+ int", "- int"),
    ),
    "library types": (
        "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\n"
        "from datetime import *\n"
        "def f():\n"
        "    return [Counter('aab'), OrderedDict(a=1), deque([1, 2], maxlen=2), Decimal('1.10'), Fraction(1, 3),\n"
        "        date(2024, 2, 29), datetime(2024, 1, 1, 12, tzinfo=timezone.utc), timedelta(days=1), range(3)]\n"
        "def g():\n    d = defaultdict(list)\n    d[1].append(2)\n    return d",
        "from collections import *\nfrom datetime import date, timedelta\nfrom fractions import Fraction\n"
        "c, o, q, d, r, day, t, delta, n = f()\n"
        "assert c == Counter(a=2, b=1) and c.most_common(1) == [('a', 2)] and o == {'a': 1}\n"
        "assert q == deque([1, 2]) and str(d) == '1.10' and r * 3 == 1 and day + delta == date(2024, 3, 1)\n"
        "assert t.hour == 12 and list(n) == [0, 1, 2] and g() == {1: [2]}",
        ("Fraction(1, 3)", "Fraction(1, 4)"),
    ),
    "named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f():\n    return P(1, 2)",
        "p = f()\nassert p == (1, 2) and p.x == 1 and p[1] == 2 and isinstance(p, tuple) and p == P(1, 2)\n"
        "assert p._asdict() == {'x': 1, 'y': 2} and len(p) == 2 and sorted([f(), (0, 0)]) == [(0, 0), (1, 2)]",
        ("P(1, 2)", "P(2, 1)"),
    ),
    "enum": (
        "from enum import Enum, IntEnum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\nclass Level(IntEnum):\n"
        "    LOW = 1\n    HIGH = 2\n"
        "def mix(c):\n    return Color.BLUE if c is Color.RED else Color.RED",
        "assert mix(Color.RED) == Color.BLUE and mix(Color.RED) is Color.BLUE and Color.RED.value == 1\n"
        "assert Color['RED'] is Color.RED and [c.name for c in Color] == ['RED', 'BLUE']\n"
        "assert Level.HIGH == 2 and Level.HIGH > 1 and Level.LOW + 1 == 2",
        ("Color.BLUE if", "Color.RED if"),
    ),
    "linked list": (
        "class Node:\n    def __init__(self, val, next=None):\n        self.val, self.next = val, next\n"
        "def reverse(n):\n"
        "    last = None\n    while n:\n        n.next, last, n = last, n, n.next\n    return last",
        "def read(n):\n    out = []\n    while n:\n        out.append(n.val)\n        n = n.next\n    return out\n"
        "assert read(reverse(Node(1, Node(2, Node(3))))) == [3, 2, 1]\nassert reverse(None) is None",
        ("return last", "return n"),
    ),
    "tree of the tests": (
        "def depth(t):\n    return 0 if t is None else 1 + max(depth(t.left), depth(t.right))\ndef mark(t):\n"
        "    t.val = 'seen'\n    return t",
        "class TreeNode:\n    def __init__(self, val, left=None, right=None):\n"
        "        self.val, self.left, self.right = val, left, right\n"
        "t = TreeNode(1, TreeNode(2, None, TreeNode(3)))\nassert depth(t) == 3 and depth(None) == 0\n"
        "assert mark(t) is t and t.val == 'seen'",
        ("1 + max", "2 + max"),
    ),
    "numpy": (
        "import numpy as np\ndef f(a):\n    return a @ a.T\ndef g(n):\n    return np.arange(n) / 2\ndef h(a):\n"
        "    a *= 2\ndef m(a):\n    return a.mean()",
        "import numpy as np\na = np.array([[1, 2], [3, 4]])\n"
        "assert (f(a) == np.array([[5, 11], [11, 25]])).all() and f(a).dtype == a.dtype\n"
        "assert np.allclose(g(3), [0, 0.5, 1])\nnp.testing.assert_allclose(g(2), [0, 0.5])\nh(a)\n"
        "assert a.tolist() == [[2, 4], [6, 8]]\n"
        "assert m(a) == 5 and abs(m(a) - 5.0) < 1e-9 and isinstance(m(a), np.floating)\n"
        "assert g(4)[1:].shape == (3,)",
        ("a @ a.T", "a * a.T"),
    ),
    "numpy by the program's import": (
        "import numpy as np\ndef unit(v):\n    return v / np.linalg.norm(v)",
        "assert np.allclose(unit(np.array([3.0, 4.0])), np.array([0.6, 0.8]))",
        ("norm(v)", "norm(v) + 1"),
    ),
    "a name of Python's own": ("def pow(x, n):\n    return x ** n", "assert pow(2, 10) == 1024", ("x ** n", "x * n")),
    "imported by name": (
        "LIMIT = 10\ndef f(x):\n    return min(x, LIMIT)",
        "import program\nfrom program import f, LIMIT\nassert f(50) == LIMIT == program.LIMIT == 10\n"
        "assert program.f(3) == 3",
        ("min", "max"),
    ),
    "a counter of the module": (
        "calls = 0\nseen = []\ndef f(x):\n    global calls\n    calls += 1\n    seen.append(x)",
        "f(4)\nf(5)\nassert calls == 2 and seen == [4, 5]",
        ("+= 1", "+= 2"),
    ),
    "threads of its own": (
        "import threading\ndef total(xs):\n    out = []\n"
        "    ts = [threading.Thread(target=out.append, args=(x,)) for x in xs]\n"
        "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    return sum(out)",
        "assert total(range(30)) == 435",
        ("sum(out)", "len(out)"),
    ),
    "sorting by a key of the tests": (
        "def top(xs, key, reverse=False):\n    return sorted(xs, key=key, reverse=reverse)[0]\ndef first(it):\n"
        "    return next(it)",
        "assert top(['bb', 'a'], key=len) == 'a'\nassert top([(1, 'b'), (2, 'a')], key=lambda p: p[1]) == (2, 'a')\n"
        "assert first(x * x for x in (3, 4)) == 9 and first(iter([7])) == 7",
        ("[0]", "[-1]"),
    ),
    "many calls": (
        "def is_prime(n):\n    return n > 1 and all(n % k for k in range(2, int(n ** 0.5) + 1))",
        "assert sum(is_prime(n) for n in range(2000)) == 303",
        ("n > 1", "n > 2"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_a_right_program_passes_and_a_wrong_one_does_not(name):
    code, tests, (right, wrong) = HONEST[name]
    result = run_python(code, tests, wall_seconds=300)
    assert (result.status, result.detail) == (Status.PASSED, "")
    assert right in code
    assert run_python(code.replace(right, wrong), tests).status == Status.FAILED
