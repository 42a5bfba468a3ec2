"""The judge's process: runs the tests, with the program's names in their namespace."""

from __future__ import annotations

import importlib
import sys
import traceback
import types

from rewards.judging.link import Gone, Link, Refused


class _Program(types.ModuleType):
    """What the tests import as `program`: its attributes are the program's."""

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
    """The verdict: passed, failed, memory, gone or refused, and why. `plan` is that of `names.read_tests`."""
    link = Link(requests, replies)
    try:
        names = link.take_names(plan["wanted"], plan["free"])
        for name, where in plan["instead"].items():
            module, _, attribute = where.partition(":")
            found = importlib.import_module(module)
            names[name] = getattr(found, attribute) if attribute else found
        link.names.update(names, __name__="__main__")
        program = _Program(link, names)
        for name in ("program", "solution", "__main__"):
            sys.modules[name] = program
        _run(tests, plan["run"], link.names)
    except (Refused, Gone):
        pass
    except MemoryError:
        return ["memory"]
    except BaseException as error:
        if not link.refusal and not link.gone:
            return ["failed", type(error).__name__, _shown(error)]
    if link.gone:
        return ["gone", link.gone]
    return ["refused", link.refusal] if link.refusal else ["passed"]


def _shown(error: BaseException) -> str:
    try:  # its arguments may be objects of the program
        traceback.print_exc()
        return f"{error}"[:300]
    except BaseException:
        return ""


def _run(tests: str, functions: list[str], names: dict[str, object]) -> None:
    """Runs the tests: the code, then the test cases and test functions that it has defined and not itself run."""
    run_cases = _cases_of(names) if "unittest" in tests else None
    exec(compile(tests, "<tests>", "exec", dont_inherit=True), names)
    if run_cases:
        run_cases()
    for name in functions:
        names[name]()


def _cases_of(names: dict[str, object]) -> object:
    """What runs the test cases among `names`, once each. `unittest.main` becomes the same."""
    import unittest

    ran: list[type] = []

    def run_cases(*_: object, **__: object) -> None:
        for case in list(names.values()):
            is_case = type(case) is type and issubclass(case, unittest.TestCase)
            if is_case and case.__module__ == "__main__" and case not in ran:
                ran.append(case)
                result = unittest.TestResult()
                unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
                wrong = [*result.failures, *result.errors]
                if not result.wasSuccessful():
                    raise AssertionError(wrong[0][1].strip().rpartition("\n")[2] if wrong else "a test passed")

    unittest.main = run_cases
    return run_cases
