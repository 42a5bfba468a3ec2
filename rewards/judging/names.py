"""Determines, from the tests alone, which names they take from the program and which they must not.

Runs in the process that requests the verdict, before any other process is started.
"""

from __future__ import annotations

import ast
import builtins
import functools
import symtable

from rewards.judging.checks import Unclear, checks_of, third_party
from rewards.judging.wire import LIBRARIES

# comparison functions, and types and values that results are compared with: name -> module
_COMPARE = {
    **dict.fromkeys(("isclose", "isnan", "isinf", "pi", "tau", "inf", "nan"), "math"),
    **dict.fromkeys(("allclose", "array_equal"), "numpy"),
    **dict.fromkeys(("assert_allclose", "assert_array_equal", "assert_almost_equal", "assert_equal"), "numpy.testing"),
    **dict.fromkeys(("assert_array_almost_equal",), "numpy.testing"),
    **dict.fromkeys(("approx", "raises"), "pytest"),
    **dict.fromkeys(("TestCase",), "unittest"),
    **dict.fromkeys(("ANY", "patch", "Mock", "MagicMock"), "unittest.mock"),
    **dict.fromkeys(("Counter", "OrderedDict", "defaultdict", "deque", "namedtuple"), "collections"),
    **dict.fromkeys(("date", "datetime", "timedelta"), "datetime"),
    **{"Decimal": "decimal", "Fraction": "fractions", "deepcopy": "copy", "StringIO": "io"},
    "redirect_stdout": "contextlib",
}
# built-ins that tests wrap around calls of the program's function; not the function under test
_AROUND = "isinstance len abs round sorted list set tuple dict type print range all any str repr int"
_MODULES = ("program", "solution", "__main__")  # names under which the tests can import the program


@functools.lru_cache(256)
def read_tests(tests: str) -> dict:
    """Returns the plan for judging with these tests.

    Returns:
        `wanted`: names to take from the program; `free`: names that the tests do not bind; `instead`: name -> module,
        or module:attribute, to import instead; `run` and `classes`: see `checks_of`.
        The name of a built-in function is the program's only if the tests have no other candidate, as in a task to
        implement `pow`.

    Raises:
        Unclear: they name several such functions and nothing else, or nothing at all, or see `checks_of`.
        SyntaxError, ValueError, RecursionError, MemoryError: not Python.
    """
    tree = ast.parse(tests)  # no text of the tests may reach the program: it could be an answer
    checks = checks_of(tree)
    free = _free(tests)
    everything, bases = set(), set()
    imported = False
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=base), attr=attribute):
                bases.add(base)
                everything.add(attribute)
                imported |= base in _MODULES
            case ast.Attribute(attr=attribute):
                everything.add(attribute)
            case ast.Name(id=name):
                everything.add(name)
            case ast.Import(names=names):
                imported |= any(alias.name in _MODULES for alias in names)
            case ast.ImportFrom(module=module, names=names):
                everything.update(alias.name for alias in names)
                imported |= module in _MODULES
    third_party(free, bases)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    libraries = {name for name in free & set(LIBRARIES) if name in bases and name not in called}
    own = {name for name in free if name in vars(builtins) or name in _COMPARE} - libraries
    subjects = free - own - libraries
    asked: set[str] = set()
    if not subjects and not imported:
        kinds = {name for name in own if not isinstance(getattr(builtins, name, None), type)} or own
        asked = kinds & called
        asked = asked if len(asked) == 1 else (kinds - set(_AROUND.split())) & called
        if len(asked) > 1:
            raise Unclear(
                f"they call only Python built-ins, so the function under test is ambiguous: {', '.join(sorted(asked))}"
            )
        if not asked and tree.body:
            raise Unclear("they never use the program")
    instead = {name: LIBRARIES[name] for name in libraries}
    instead |= {name: f"{_COMPARE[name]}:{name}" for name in own & set(_COMPARE) if name not in asked}
    wanted = [name for name in sorted(everything - libraries - (own - asked)) if not name.startswith("__")]
    return {"wanted": wanted, "free": sorted(free), "instead": instead, **checks}


def _free(tests: str) -> set[str]:
    """Returns the names that the tests read but never bind at top level."""
    top = symtable.symtable(tests, "<tests>", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    read: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                read.add(symbol.get_name())
            if table is not top and symbol.is_declared_global() and symbol.is_assigned():
                bound.add(symbol.get_name())
    return read - bound
