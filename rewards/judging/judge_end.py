"""The judge's process: runs the tests, with the program's names in their namespace."""

from __future__ import annotations

import ast
import importlib
import sys
import traceback
import types

from rewards.judging.empties import guard_comparisons
from rewards.judging.handles import Handle
from rewards.judging.link import Gone, Link, Refused
from rewards.judging.rewriting import Rewriting


class _Program(types.ModuleType):
    """The module that the tests import as `program`: its attributes are the program's."""

    def __init__(self, link: Link, names: dict[str, object]):
        super().__init__("program")
        self.__dict__.update(names)
        self.__dict__["judge_link"] = link

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["judge_link"].module(), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.__dict__["judge_link"].module(), name, value)
        self.__dict__[name] = value


def judge(tests: str, plan: dict, requests: int, replies: int) -> list[str]:
    """Returns the verdict (passed, failed, memory, gone or refused) and its reason. `plan`: from `names.read_tests`."""
    link = Link(requests, replies)
    try:
        names = link.take_names(plan["wanted"], plan["free"])
        for name, where in plan["instead"].items():
            module, _, attribute = where.partition(":")
            found = importlib.import_module(module)
            names[name] = getattr(found, attribute) if attribute else found
        link.names.update({name: names[name] for name in (*plan["free"], *plan["instead"]) if name in names})
        link.names.update(__name__="__main__", judge_type=_type, isinstance=_isinstance)
        program = _Program(link, names)
        for name in ("program", "solution", "__main__"):
            sys.modules[name] = program
        _run(tests, plan, link)
    except (Refused, Gone):
        pass
    except MemoryError:
        return ["memory"]
    except BaseException as error:  # any exception raised by a test, or passed on from the program, is a failed test
        if not link.refusal and not link.gone and not _needs_more(error, link, plan):
            return ["failed", type(error).__name__, _shown(error)]
    if link.gone:
        return ["gone", link.gone]
    return ["refused", link.refusal] if link.refusal else ["passed"]


def _needs_more(error: BaseException, link: Link, plan: dict) -> bool:
    """Refuses if a failure may be the judge's: tests that need a module, file or name that is missing here."""
    if link.raised(error):
        return False
    if isinstance(error, ImportError | OSError):
        link.refuse(f"the tests need a module or file that is missing in the sandbox: {error}"[:200])
    elif isinstance(error, NameError) and error.name and error.name not in plan["wanted"]:
        link.refuse(f"the tests look up {error.name} in a way that the judge does not support"[:200])
    elif link.has_lost_a_change():
        link.refuse("the tests change a container inside an object of the program")
    return bool(link.refusal)


def _shown(error: BaseException) -> str:
    try:
        traceback.print_exc()
        return f"{error}"[:300]
    except BaseException:  # its arguments may be objects of the program, which can raise anything
        return ""


def _type(value: object) -> object:
    """Returns `type(value)`; for an object of the program, its class in the program."""
    return value.__class__ if type(value) is Handle else type(value)


def _isinstance(value: object, kinds: object) -> bool:
    """`isinstance` that asks the program about abstract classes, because a handle supports every operation."""
    if type(value) is Handle and type(kinds) is not Handle:
        if isinstance(kinds, tuple):
            return any(_isinstance(value, kind) for kind in kinds)
        found = [name for name, kind in vars(types).items() if kind is kinds]
        where = ("types", found[0]) if found else (getattr(kinds, "__module__", ""), getattr(kinds, "__name__", ""))
        if where[0] in ("collections.abc", "types"):
            return value._judge_state.link.ask("is_a", value, *where) is True
    return isinstance(value, kinds)


def _run(tests: str, plan: dict, link: Link) -> None:
    """Runs the tests' code, then the test cases and test functions that it defined but did not run."""
    names = link.names
    run_cases = _cases_of(link) if "TestCase" in tests or "unittest" in tests else None
    if "numpy" in tests or "np" in plan["instead"]:
        guard_comparisons(testing="testing" in tests or "numpy.testing" in f"{plan['instead'].values()}")
    tree = Rewriting(set(plan["wanted"]) & set(plan["free"])).visit(ast.parse(tests))
    exec(compile(tree, "<tests>", "exec", dont_inherit=True), names)
    if run_cases:
        run_cases()
    for name in plan["run"]:
        names[name]()
    for name in plan["classes"]:
        _run_class(names[name])


def _run_class(case: type) -> None:
    """Runs a pytest-style test class."""
    for name in vars(case):
        if name.startswith("test"):
            one = case()
            getattr(one, "setup_method", lambda: None)()
            getattr(one, name)()
            getattr(one, "teardown_method", lambda: None)()


def _cases_of(link: Link) -> object:
    """Returns a function that runs each test case in the tests' namespace once; it also replaces `unittest.main`."""
    import unittest
    import unittest.case

    class Result(unittest.TestResult):
        """Keeps the first exception."""

        wrong: BaseException | None = None

        def _keep(self, case: object, error: tuple) -> None:
            self.wrong = self.wrong or error[1]

        addError = addFailure = _keep

        def addSubTest(self, case: object, part: object, error: tuple | None) -> None:
            if error:
                self._keep(part, error)

        def addUnexpectedSuccess(self, case: object) -> None:
            self.wrong = self.wrong or AssertionError("a test that should fail passed")

    ran: list[type] = []
    unittest.case.isinstance = _isinstance

    def run_cases(*_: object, **__: object) -> None:
        for case in list(link.names.values()):
            is_case = type(case) is type and issubclass(case, unittest.TestCase)
            if is_case and case.__module__ == "__main__" and case not in ran:
                ran.append(case)
                result = Result()
                unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
                if result.wrong:
                    raise result.wrong
                if result.skipped or (not result.testsRun and not case.__subclasses__()):
                    raise link.refuse(f"{case.__name__} runs no test or skips one")

    unittest.main = run_cases
    return run_cases
