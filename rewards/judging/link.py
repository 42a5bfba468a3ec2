"""The judge's end of the pipe: asks the program's process for one operation at a time."""

from __future__ import annotations

import builtins
import importlib
import io
import operator
import sys
import types
from collections.abc import Iterator

from rewards.judging import wire
from rewards.judging.empties import guarded_array
from rewards.judging.handles import ARITHMETIC, Handle, State

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, tuple, list, dict, set, frozenset)
_CALLABLE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_UNREADABLE = (wire.Uncarried, ValueError, TypeError, ArithmeticError, AttributeError, LookupError, RecursionError)
_DATA = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset)
# library exceptions that tests expect: (module, name)
_KNOWN_ERRORS = {
    *(("json.decoder", "JSONDecodeError"), ("decimal", "InvalidOperation"), ("decimal", "DivisionByZero")),
    *(("re", "error"), ("re", "PatternError"), ("queue", "Empty"), ("_queue", "Empty"), ("queue", "Full")),
    *(("statistics", "StatisticsError"), ("dataclasses", "FrozenInstanceError"), ("struct", "error")),
    *(("numpy.linalg", "LinAlgError"), ("binascii", "Error"), ("graphlib", "CycleError"), ("zlib", "error")),
}
_LENT_OPERATORS = "eq ne lt le gt ge add sub mul getitem setitem contains"
# operations that the program may perform on an object of the tests
_LENT = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    **{f.__name__: f for f in (iter, next, len, bool, str, repr, hash)},
    **{n: getattr(operator, n) for n in _LENT_OPERATORS.split()},
    "getattr": getattr,
    "setattr": setattr,
}


class Refused(BaseException):
    """The tests need something that can't be transferred to the program or back."""


class Gone(BaseException):
    """The program's process has ended or violated the protocol."""


class Link:
    """Attributes: `refusal`, why these tests can't be judged, and `gone`, why the program stopped (kept here because a
    test may have caught the exception); `names`, the tests' namespace, whose own classes can be lent to the program.
    """

    def __init__(self, requests: int, replies: int):
        self.refusal = self.gone = ""
        self.names: dict[str, object] = {}
        self._requests, self._replies = requests, replies
        self._handles: dict[int, Handle] = {}
        self._classes: dict[int, type] = {}
        self._own: list[object] = []
        self._errors: dict[int, BaseException] = {}
        self._watched: dict[str, object] = {}
        self._attributes: list[tuple[object, object]] = []
        self._surroundings = sys.stdin, sys.stdout, builtins.input

    def refuse(self, why: str) -> Refused:
        self.refusal = self.refusal or why
        return Refused(why)

    def _lost(self, why: str) -> Gone:
        self.gone = self.gone or why
        return Gone(why)

    @staticmethod
    def is_simple(value: object) -> bool:
        return type(value) in _SIMPLE or type(value).__module__ in ("fractions", "decimal", "datetime")

    def take_names(self, wanted: list[str], free: list[str]) -> dict[str, object]:
        """Returns the program's values of these names. Waits until the program's code has run.

        Args:
            free: names that the tests do not bind themselves; their plain values are kept in sync with the program.
        """
        self._send(["names", wanted, {}, None])
        match self._receive():
            case ["ok", dict(found)]:
                taken = {}
                for name, tree in found.items():
                    if name not in wanted:
                        raise self._lost("the program sent an invalid message")
                    taken[name] = value = self._read(tree, [])
                    if type(value) is Handle:
                        value._judge_state.named(name)
                    elif name in free:
                        self._watched[name] = value
                return taken
        raise self._lost("the program sent an invalid message")

    def module(self) -> Handle:
        return self._handle(0, False)

    def ask(self, operation: str, *arguments: object, **keywords: object) -> object:
        """Returns the result of an operation of `program_end`, or raises its exception."""
        for a in arguments:
            if type(a) is Handle and not a._judge_state.answers(operation) and operation not in ARITHMETIC:
                raise TypeError(f"{operation} of a result that is not a plain value and contains a value of the tests")
        writer = wire.Writer(self._other, number=True)
        try:
            trees = [writer.tree(a) for a in arguments]
            named = {key: writer.tree(a) for key, a in keywords.items()}
            self._send([operation, trees, named, self._around()])
        except wire.Uncarried as error:
            raise self.refuse(f"the tests pass {error} to the program") from None
        while True:
            match self._receive():
                case ["back", str(wish), list(given), dict(also)]:
                    self._send(self._do(wish, given, also))
                case ["ok", result, list(changed), printed, dict(news)]:
                    self._take(writer.containers, changed, printed, news)
                    value = self._read(result, writer.containers)
                    if operation == "getattr" and type(value) in (list, dict, set) and len(self._attributes) < 1000:
                        self._attributes.append((value, result))
                    return value
                case ["raise", [kind, list(given), str(text), int(number)], list(changed), printed, dict(news)]:
                    self._take(writer.containers, changed, printed, news)
                    error = self._error(self._read(kind, []), [self._read(a, []) for a in given], text, number)
                    iterates = operation == "next" or (operation == "call" and arguments[0]._judge_state.resumes)
                    if isinstance(error, StopIteration | StopAsyncIteration) and not iterates:
                        # in the tests' `all(map(...))` it would end the comparison as if all items had been compared
                        error = RuntimeError(f"the program raised {type(error).__name__}")
                    raise error
                case _:
                    raise self._lost("the program sent an invalid message")

    def raised(self, error: BaseException) -> bool:
        """Whether the program raised this exception."""
        return any(error is known for known in self._errors.values())

    def has_lost_a_change(self) -> bool:
        """Whether the tests changed their copy of a list, dict or set that is an attribute of a program's object."""
        return any(value != self._read(tree, []) for value, tree in self._attributes)

    def _send(self, tree: list) -> None:
        try:
            wire.send(self._requests, tree)
        except BrokenPipeError:
            raise self._lost("the program has ended") from None

    def _receive(self) -> object:
        try:
            return wire.receive(self._replies)
        except EOFError:
            raise self._lost("the program has ended") from None

    def _read(self, tree: object, containers: list[object]) -> object:
        try:
            return wire.Reader(self._read_other, list(containers), guarded_array).value(tree)
        except _UNREADABLE as error:
            raise self._lost(f"the program sent {error}"[:200]) from None

    def _read_other(self, tree: list) -> object:
        match tree:
            case ["h", int(number), bool(has_base)]:
                return self._handle(number, has_base)
            case ["k", int(number)] if 0 <= number < len(self._own):
                return self._own[number]
            case ["m", str(name)] if name in wire.LIBRARIES:
                return importlib.import_module(name)
            case ["E", int(number), str(module), str(name), list(bases)]:
                return self._error_class(number, module, name, bases)
        raise wire.Uncarried("an invalid message")

    def _handle(self, number: int, has_base: bool) -> Handle:
        if number not in self._handles:
            self._handles[number] = Handle(State(self, number, has_base))
        return self._handles[number]

    def _error_class(self, number: int, module: str, name: str, bases: list) -> type:
        """Creates a local class for a program's exception class (`except` needs a real one). Its bases are built-in."""
        if number not in self._classes:
            known = (module, name) in _KNOWN_ERRORS and getattr(importlib.import_module(module), name, None)
            kinds = tuple(self._read_other(b) if b[0] == "E" else wire.NAMED[b[1]] for b in bases)
            if not kinds or not all(issubclass(kind, BaseException) for kind in kinds):
                raise wire.Uncarried("an invalid message")
            body = {"__module__": "program", "__str__": _error_text}
            body["__getattr__"] = lambda error, attribute: self._error_attribute(error, attribute)
            self._classes[number] = known or type(name.rpartition(".")[2], kinds, body)
        return self._classes[number]

    def _error(self, kind: object, arguments: list, text: str, number: int) -> BaseException:
        if number in self._errors:
            return self._errors[number]
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise self._lost("the program sent an invalid message")
        try:
            error = kind(*arguments)
        except (TypeError, ValueError, AttributeError, LookupError):  # its constructor rejects the arguments
            error = kind.__new__(kind)
            error.args = tuple(arguments)
        if kind.__module__ == "program":
            error.__dict__.update(judge_text=text, judge_number=number)
        self._errors[number] = error
        return error

    def _error_attribute(self, error: BaseException, name: str) -> object:
        if name.startswith("__") or "judge_number" not in error.__dict__:
            raise AttributeError(name)
        return self.ask("getattr", self._handle(error.__dict__["judge_number"], False), name)

    def _other(self, value: object) -> list:
        """Encodes a handle or an object of the tests for the program."""
        if type(value) is Handle:
            return ["h", value._judge_state.number]
        known = [n for n, error in (*self._errors.items(), *self._classes.items()) if error is value]
        if known:
            return ["h", known[0]]
        kind = type(value)
        if isinstance(value, BaseException) and wire.NAMED.get(kind.__name__) is kind:
            return ["e", kind.__name__, [wire.Writer(self._other).tree(a) for a in value.args]]
        if not any(own is value for own in self._own):
            if not self._can_lend(value):
                raise self.refuse(f"the tests pass a value of type {kind.__name__} to the program")
            self._own.append(value)
        return ["k", next(number for number, own in enumerate(self._own) if own is value)]

    @staticmethod
    def _can_lend(value: object) -> bool:
        """Allows functions, iterators, text streams, mocks, and instances of the tests' own non-data classes."""
        kind = value if isinstance(value, type) else type(value)
        own = kind.__module__ == "__main__" and not issubclass(kind, _DATA) and not hasattr(kind, "assertEqual")
        library = kind.__module__ in ("unittest.mock", "functools") or isinstance(value, io.StringIO | io.BytesIO)
        return own or library or isinstance(value, (*_CALLABLE, Iterator))

    def _do(self, wish: str, given: list, also: dict) -> list:
        """Performs the program's operation on an object that the tests have lent it."""
        arguments = [self._read(a, []) for a in given]
        keywords = {key: self._read(a, []) for key, a in also.items()}
        try:
            if wish not in _LENT or not any(arguments[0] is own for own in self._own):
                raise self._lost("the program sent an invalid message")
            if wish in ("getattr", "setattr") and not _open(wish, arguments[0], arguments[1]):
                raise AttributeError(arguments[1])
            result = _LENT[wish](*arguments, **keywords)
        except Exception as error:  # raised by the tests' own code: passed on to the program
            kind = type(error)
            name = kind.__name__ if wire.NAMED.get(kind.__name__) is kind else "Exception"
            given = [wire.Writer(self._other).tree(a) for a in error.args]
            return ["raise", ["e", name, given]]
        try:
            return ["ok", wire.Writer(self._other).tree(result)]
        except wire.Uncarried as error:
            raise self.refuse(f"the tests pass {error} to the program") from None

    def _around(self) -> list | None:
        """Returns the tests' stdin, input() and whether they capture stdout, if they have replaced any of these."""
        stdin, stdout, ask = self._surroundings
        if sys.stdin is stdin and sys.stdout is stdout and builtins.input is ask:
            return None
        typed = None
        if sys.stdin is not stdin and isinstance(sys.stdin, io.StringIO):
            at = sys.stdin.tell()
            typed = sys.stdin.read()
            sys.stdin.seek(at)
        return [typed, None if builtins.input is ask else self._other(builtins.input), sys.stdout is not stdout]

    def _take(self, containers: list[object], changed: list, printed: object, news: dict) -> None:
        """Applies the operation's changes: to its arguments, to stdout, and to names of the program."""
        for number, tree in changed:
            if type(number) is not int or not 0 <= number < len(containers):
                raise self._lost("the program sent an invalid message")
            try:
                wire.replace(containers[number], self._read(tree, containers))
            except wire.Uncarried as error:
                raise self.refuse(f"the program changed {error}") from None
        if isinstance(printed, list) and len(printed) == 2:
            if type(printed[0]) is str and sys.stdout is not self._surroundings[1]:
                sys.stdout.write(printed[0])
            if type(printed[1]) is int and isinstance(sys.stdin, io.StringIO):
                sys.stdin.seek(max(sys.stdin.tell(), len(sys.stdin.getvalue()) - printed[1]))
        for name, tree in news.items():
            if name in self._watched and self.names.get(name) is self._watched[name]:
                self.names[name] = self._watched[name] = self._read(tree, [])


def _open(wish: str, lent: object, name: object) -> bool:
    """Whether the program may read or set an attribute: only of the tests' instances and streams; no method is set."""
    if type(name) is not str:
        return False
    if name in ("__name__", "__qualname__", "__module__"):  # `functools.wraps` reads them
        return wish == "getattr" and isinstance(lent, types.FunctionType)
    if name.startswith("_"):
        return False
    if isinstance(lent, io.StringIO | io.BytesIO):
        return wish == "getattr"
    if isinstance(lent, (*_CALLABLE, Iterator, type)):
        return False
    if type(lent).__module__ == "unittest.mock":
        return wish == "getattr" and name not in dir(sys.modules["unittest.mock"].NonCallableMock)
    if wish == "setattr":
        return type(lent).__module__ == "__main__" and not callable(getattr(type(lent), name, None))
    return type(lent).__module__ == "__main__"


def _error_text(error: BaseException) -> str:
    return error.__dict__.get("judge_text") or BaseException.__str__(error)
