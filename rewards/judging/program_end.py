"""The program's end of the pipe: performs the judge's requests on the program's objects, one at a time.

This code is not trusted, because the program shares its process, and it does not know the tests.
A request is [operation, arguments, keywords, surroundings]. The reply is ["ok", value, ...] or ["raise", exception,
...]. Before it, any number of requests ["back", operation, arguments, keywords] may be sent for operations on objects
of the judge, which replies ["ok", value] or ["raise", exception].
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import importlib
import io
import math
import operator
import sys
import types

from rewards.judging import wire

_BASES = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)
_PLAIN = {  # converts a subclass's value to its built-in base type, ignoring overridden methods
    int: int.__int__,
    float: float.__float__,
    complex: lambda v: complex(v.real, v.imag),
    str: str.__str__,
    bytes: lambda v: bytes.__getitem__(v, slice(None)),
    bytearray: lambda v: bytearray(bytes(v)),
    tuple: lambda v: tuple.__getitem__(v, slice(None)),
    list: lambda v: list.__getitem__(v, slice(None)),
    dict: lambda v: dict(dict.items(v)),
    set: lambda v: set().union(v),
    frozenset: lambda v: frozenset().union(v),
}
_OPERATORS = """
add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift eq ne lt le gt ge neg pos invert index
getitem setitem delitem contains
"""
_LENT = "call iter next len bool str repr hash eq ne lt le gt ge add sub mul getitem setitem contains"
OPERATIONS = {
    **{name: getattr(operator, name) for name in _OPERATORS.split()},
    **{f.__name__: f for f in (abs, bool, bytes, complex, dir, divmod, float, format, hash, int, isinstance, iter)},
    **{f.__name__: f for f in (issubclass, len, next, repr, reversed, round, str, getattr, setattr, delattr)},
    **{f.__name__: f for f in (math.ceil, math.floor, math.trunc, copy.copy, copy.deepcopy)},
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "enter": lambda manager: type(manager).__enter__(manager),
    "exit": lambda manager, kind, error: type(manager).__exit__(manager, kind, error, None),
}


def _equals_all(value: object) -> bool:
    """Whether it equals even a newly created object, so that its equality with others means nothing."""
    try:
        return (value == object()) is True
    except Exception:  # a program's `__eq__` may raise anything
        return False


def _same(a: object, b: object) -> object:
    return a == b if not (_equals_all(a) or _equals_all(b)) else False


def _other_than(a: object, b: object) -> object:
    return a != b if not (_equals_all(a) or _equals_all(b)) else True


def _is_a(value: object, module: str, name: str) -> bool:
    return isinstance(value, getattr(importlib.import_module(module), name))


OPERATIONS |= {"eq": _same, "ne": _other_than, "is_a": _is_a}


class Borrowed:
    """Proxy in the program for an object of the judge."""

    def __init__(self, number: int, back: object):
        self.__dict__.update(_number=number, _back=back)

    def __getattr__(self, name: str) -> object:
        return self._back("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._back("setattr", self, name, value)


def _lend(method: str, operation: str) -> None:
    setattr(Borrowed, method, lambda self, *args, **kwargs: self._back(operation, self, *args, **kwargs))


for _name in _LENT.split():
    _lend(f"__{_name}__", _name)


class ProgramEnd:
    def __init__(self, module: types.ModuleType, requests: int, replies: int):
        self._requests, self._replies = requests, replies
        self._objects: list[object] = [module]  # a handle is an index; objects are never released
        self._numbers: dict[int, int] = {id(module): 0}
        self._borrowed: dict[int, Borrowed] = {}
        self._module, self._watched = module, {}
        self._operations = {**OPERATIONS, "plain": self._plain}

    def serve(self) -> None:
        """Answers requests until the judge closes the pipe."""
        while True:
            try:
                request = wire.receive(self._requests)
            except EOFError:
                return
            self._reply(self._answer(request))

    def _reply(self, answer: list) -> None:
        try:
            wire.send(self._replies, answer)
        except (wire.Uncarried, ValueError, RecursionError) as error:  # nothing was sent
            wire.send(self._replies, ["raise", self._error(error), [], None, {}])

    def _answer(self, request: list) -> list:
        operation, arguments, keywords, around = request
        if operation == "names":
            return ["ok", self._names(arguments)]
        reader = wire.Reader(self._read_other)
        arguments = [reader.value(a) for a in arguments]
        keywords = {key: reader.value(a) for key, a in keywords.items()}
        known = {id(c): number for number, c in enumerate(reader.containers)}
        before = [self._shallow(c, known) for c in reader.containers]
        sent_out = self._surround(around)
        try:
            result = self._operations[operation](*arguments, **keywords)
            answer = ["ok", wire.Writer(self._other, known).tree(result)]
        except BaseException as error:  # raised by the program's own code: passed on to the tests
            answer = ["raise", self._error(error)]
        printed = self._restore(sent_out)
        with contextlib.suppress(Exception):  # the program may have replaced stdout with anything
            sys.stdout.flush()
        after = [self._shallow(c, known) for c in reader.containers]
        changed = [[n, new] for n, (old, new) in enumerate(zip(before, after, strict=True)) if new != old]
        return [*answer, changed, printed, self._news()]

    def _names(self, wanted: list[str]) -> dict[str, object]:
        """Returns the program's values of the wanted names. Plain values are checked again after each request."""
        found = {}
        for name in wanted:
            if name in vars(self._module):
                try:
                    found[name] = wire.Writer(self._other).tree(vars(self._module)[name])
                except wire.Uncarried:
                    continue
                if not (isinstance(found[name], list) and found[name][0] in ("h", "E", "m", "T")):
                    self._watched[name] = found[name]
        return found

    def _news(self) -> dict[str, object]:
        watched, self._watched = self._watched, {}
        if not watched:
            return {}
        now = self._names(list(watched))
        return {name: tree for name, tree in now.items() if tree != watched[name]}

    def _shallow(self, container: object, known: dict[int, int]) -> object:
        try:
            return wire.Writer(self._other, known).tree(container, content=True)
        except wire.Uncarried:
            return None

    def _other(self, value: object) -> list:
        if isinstance(value, Borrowed):
            return ["k", value.__dict__["_number"]]
        if type(value) is types.ModuleType and value is not self._module and value.__name__ in wire.LIBRARIES:
            return ["m", value.__name__]
        if isinstance(value, type) and issubclass(value, BaseException):
            bases = [wire.Writer(self._other).tree(b) for b in value.__bases__ if issubclass(b, BaseException)]
            return ["E", self._handle(value), value.__module__, value.__qualname__, bases]
        return ["h", self._handle(value), self._base(value) is not None]

    def _handle(self, value: object) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return self._numbers[id(value)]

    def _base(self, value: object) -> type | None:
        return next((kind for kind in type(value).__mro__ if kind in _BASES), None)

    def _plain(self, value: object) -> object:
        return _PLAIN[self._base(value)](value)

    def _error(self, error: BaseException) -> list:
        """Encodes an exception: class, arguments, text and handle."""
        writer = wire.Writer(self._other)
        try:
            arguments = [writer.tree(a) for a in error.args]
        except BaseException:  # `args` and `__str__` are the program's code too
            arguments = []
        try:
            text = str(error)[:10_000]
        except BaseException:
            text = ""
        return [writer.tree(type(error)), arguments, text, self._handle(error)]

    def _read_other(self, tree: list) -> object:
        match tree:
            case ["h", number]:
                return self._objects[number]
            case ["k", number]:
                if number not in self._borrowed:
                    self._borrowed[number] = Borrowed(number, self._back)
                return self._borrowed[number]
            case ["e", str(name), arguments]:
                return wire.NAMED[name](*(wire.Reader(self._read_other).value(a) for a in arguments))
        raise wire.Uncarried("an invalid message")

    def _back(self, operation: str, *arguments: object, **keywords: object) -> object:
        """Has the judge perform an operation on one of its objects; answers its requests in the meantime."""
        writer = wire.Writer(self._other)
        keywords = {key: writer.tree(a) for key, a in keywords.items()}
        wire.send(self._replies, ["back", operation, [writer.tree(a) for a in arguments], keywords])
        while True:
            message = wire.receive(self._requests)
            if len(message) == 4:
                self._reply(self._answer(message))
                continue
            value = wire.Reader(self._read_other).value(message[1])
            if message[0] == "raise":
                raise value
            return value

    def _surround(self, around: list | None) -> object:
        """Replaces input and output for one request if the tests have replaced theirs; returns the originals."""
        if not around:
            return None
        typed, ask, listening = around
        kept = sys.stdin, sys.stdout, builtins.input
        if typed is not None:
            sys.stdin = io.StringIO(typed)
        if ask is not None:
            builtins.input = self._read_other(ask)
        if listening:
            sys.stdout = io.StringIO()
        return kept

    def _restore(self, kept: object) -> list | None:
        """Restores input and output; returns the printed text and the number of unread input characters."""
        if kept is None:
            return None
        out, left = sys.stdout, None
        printed = out.getvalue() if isinstance(out, io.StringIO) else ""
        if isinstance(sys.stdin, io.StringIO):
            left = len(sys.stdin.read())
        sys.stdin, sys.stdout, builtins.input = kept
        return [printed, left]
