"""The wire format between judge and program: plain data of exact types, as JSON with tags.

None, bool, int, float and str are plain JSON; all else is a list whose first item is a type tag. Reading never runs
code of the sender: values are built from data by the constructors named below. Lists, dicts, sets, bytearrays, deques
and arrays of a request are numbered, so that a reply can refer to them ("@") and report how they changed.
"""

from __future__ import annotations

import base64
import builtins
import importlib
import json
import os
import re
import sys
from collections.abc import Callable

MOST_BYTES = 16 << 20  # per message
_MOST_DEPTH = 100
_SMALL = 1 << 62  # a smaller int is a JSON number; a larger one is sent as hexadecimal, which has no digit limit
_DTYPE = re.compile(r"[<>|=][biufcSUMm?]\d{1,6}(\[\d{0,6}[a-zA-Z]{1,2}\])?")

# libraries by the names that programs import them as; tests that rely on such an import get the judge's own
_AS_THEY_ARE = """
math cmath random re json string itertools functools operator collections heapq bisect
datetime decimal fractions statistics copy io sys os time typing unittest numpy pytest
base64 binascii contextlib csv dataclasses difflib enum hashlib inspect logging numbers pathlib pickle pprint secrets
struct textwrap threading traceback types unicodedata uuid warnings zlib asyncio subprocess
"""
LIBRARIES = {
    **{name: name for name in _AS_THEY_ARE.split()},
    "np": "numpy",
    "dt": "datetime",
    "it": "itertools",
}
# types and functions of `builtins` that can be sent by name in either direction; none of them inspects its caller
_NAMED = """
int float str bytes bool complex list tuple dict set frozenset range slice object type bytearray zip map filter
enumerate reversed abs all any ascii bin chr divmod format hex isinstance issubclass iter len max min next oct ord
pow repr round sorted sum callable
"""
NAMED = {name: getattr(builtins, name) for name in _NAMED.split()} | {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}
_NAMES = {id(value): name for name, value in NAMED.items()}

# type -> (function to plain values, constructor from them)
_VALUES: dict[tuple[str, str], tuple[Callable[[object], list], Callable[..., object]]] = {
    ("builtins", "complex"): (lambda v: [v.real, v.imag], complex),
    ("builtins", "range"): (lambda v: [v.start, v.stop, v.step], range),
    ("builtins", "slice"): (lambda v: [v.start, v.stop, v.step], slice),
    ("builtins", "tuple"): (list, lambda *v: tuple(v)),
    ("builtins", "frozenset"): (list, lambda *v: frozenset(v)),
    ("builtins", "dict_keys"): (list, lambda *v: dict.fromkeys(v).keys()),
    ("builtins", "dict_values"): (list, lambda *v: dict(enumerate(v)).values()),
    ("builtins", "dict_items"): (list, lambda *v: dict(v).items()),
    ("builtins", "ellipsis"): (lambda v: [], lambda: ...),
    ("builtins", "NotImplementedType"): (lambda v: [], lambda: NotImplemented),
    ("fractions", "Fraction"): (lambda v: [v.numerator, v.denominator], None),
    ("decimal", "Decimal"): (lambda v: [str(v)], None),
    ("datetime", "date"): (lambda v: [v.year, v.month, v.day], None),
    ("datetime", "time"): (lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo], None),
    ("datetime", "datetime"): (
        lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo],
        None,
    ),
    ("datetime", "timedelta"): (lambda v: [v.days, v.seconds, v.microseconds], None),
    ("datetime", "timezone"): (lambda v: [v.utcoffset(None)], None),
    ("uuid", "UUID"): (lambda v: [str(v)], None),
    ("pathlib", "PosixPath"): (lambda v: [str(v)], None),
    ("pathlib", "PurePosixPath"): (lambda v: [str(v)], None),
    ("array", "array"): (lambda v: [v.typecode, v.tolist()], None),
    ("collections", "Counter"): (lambda v: [dict(v)], None),
    ("collections", "OrderedDict"): (lambda v: [list(v.items())], None),
    ("collections", "defaultdict"): (lambda v: [None, dict(v)], None),
}


class Uncarried(Exception):
    """A value that is too deep, too large or of a type that can't be sent."""


class Writer:
    """Converts values to JSON.

    Args:
        other: called with values that are not plain data; returns a tagged list, or raises `Uncarried`.
        known: numbers of containers (by `id`) that the other side has too; only their number is sent.
        number: new containers are numbered and kept in `containers`, in order.
    """

    def __init__(self, other: Callable[[object], list], known: dict[int, int] | None = None, number: bool = False):
        self._other, self._number = other, number
        self._known = dict(known or {})
        self.containers: list[object] = []

    def tree(self, value: object, depth: int = 0, content: bool = False) -> object:
        """Converts one value. `content`: writes a known container's contents instead of its number."""
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if kind is int:
            return value if -_SMALL < value < _SMALL else ["i", hex(value)]
        if depth > _MOST_DEPTH:
            raise Uncarried(f"a value nested more than {_MOST_DEPTH} levels deep")
        if kind is bytes:
            return ["b", base64.b64encode(value).decode()]
        if id(value) in self._known and not content:
            return ["@", self._known[id(value)]]
        name = _NAMES.get(id(value))
        if name:
            return ["T", name]
        tag = _container(kind)
        if tag:
            return self._container(value, tag, depth + 1)
        key = (kind.__module__, kind.__qualname__)
        if key in _VALUES and _is(kind, *key):
            return ["x", *key, [self.tree(part, depth + 1) for part in _VALUES[key][0](value)]]
        numpy = sys.modules.get("numpy")
        if numpy and issubclass(kind, numpy.generic) and _DTYPE.fullmatch(value.dtype.str):
            return ["ns", value.dtype.str, base64.b64encode(value.tobytes()).decode()]
        return self._other(value)

    def _container(self, value: object, tag: str, depth: int) -> list:
        number = None
        if self._number:
            number = self._known[id(value)] = len(self.containers)
            self.containers.append(value)
        if tag == "d":
            return ["d", number, [[self.tree(k, depth), self.tree(v, depth)] for k, v in value.items()]]
        if tag == "ba":
            return ["ba", number, base64.b64encode(value).decode()]
        if tag == "n":
            if value.dtype.hasobject or not _DTYPE.fullmatch(value.dtype.str):
                if value.dtype.str != "|O":
                    raise Uncarried(f"an array of {value.dtype}")
                return ["no", number, list(value.shape), [self.tree(v, depth) for v in value.ravel().tolist()]]
            return ["n", number, value.dtype.str, list(value.shape), base64.b64encode(value.tobytes()).decode()]
        parts = [self.tree(part, depth) for part in value]
        return ["q", number, parts, value.maxlen] if tag == "q" else [tag, number, parts]


class Reader:
    """Builds values from untrusted JSON.

    Args:
        other: called with a tagged list that is not plain data; raises `Uncarried` for an unknown tag.
        containers: the containers that "@" refers to. Newly numbered ones are appended.
        array: called with each numpy array.
    """

    def __init__(
        self,
        other: Callable[[list], object],
        containers: list[object] | None = None,
        array: Callable[[object], object] = lambda array: array,
    ):
        self._other, self._array = other, array
        self.containers = [] if containers is None else containers

    def value(self, tree: object) -> object:
        if not isinstance(tree, list):
            if isinstance(tree, dict):
                raise Uncarried("an invalid message")
            return tree
        match tree:
            case ["i", str(digits)]:
                return int(digits, 16)
            case ["b", str(data)]:
                return base64.b64decode(data)
            case ["@", int(number)] if 0 <= number < len(self.containers):
                return self.containers[number]
            case ["T", str(name)] if name in NAMED:
                return NAMED[name]
            case ["x", str(module), str(name), list(parts)] if (module, name) in _VALUES:
                build = _VALUES[module, name][1] or getattr(importlib.import_module(module), name)
                return build(*(self.value(part) for part in parts))
            case ["ns", str(dtype), str(data)]:
                return _array(dtype, [1], data)[0]
            case ["l", number, list(parts)]:
                found = self._keep(number, [])
                found.extend(self.value(part) for part in parts)
            case ["d", number, list(pairs)]:
                found = self._keep(number, {})
                for key, value in pairs:
                    key = self.value(key)
                    found[key] = self.value(value)
            case ["s", number, list(parts)]:
                found = self._keep(number, set())
                found.update(self.value(part) for part in parts)
            case ["q", number, list(parts), most] if most is None or type(most) is int:
                from collections import deque

                found = self._keep(number, deque(maxlen=most))
                found.extend(self.value(part) for part in parts)
            case ["ba", number, str(data)]:
                found = self._keep(number, bytearray(base64.b64decode(data)))
            case ["n", number, str(dtype), list(shape), str(data)]:
                found = self._keep(number, self._array(_array(dtype, shape, data)))
            case ["no", number, list(shape), list(parts)]:
                import numpy

                flat = numpy.empty(len(parts), dtype=object)
                found = self._keep(number, flat.reshape([int(n) for n in shape]))
                for at, part in enumerate(parts):
                    flat[at] = self.value(part)
            case _:
                return self._other(tree)
        return found

    def _keep(self, number: object, container: object) -> object:
        if number is not None:
            if number != len(self.containers):
                raise Uncarried("an invalid message")
            self.containers.append(container)
        return container


def replace(container: object, new: object) -> None:
    """Replaces a mutable container's contents with another's, in place."""
    if type(container) is not type(new):
        raise Uncarried("an invalid message")
    if isinstance(container, list | bytearray):
        container[:] = new
    elif _container(type(container)) == "n":
        if container.shape != new.shape or container.dtype != new.dtype:
            raise Uncarried("an array's shape or dtype in place")
        container[...] = new
    else:
        container.clear()
        container.extend(new) if _container(type(container)) == "q" else container.update(new)


def send(fd: int, tree: object, write: Callable = os.write) -> None:
    data = json.dumps(tree, separators=(",", ":")).encode()
    if len(data) > MOST_BYTES:
        raise Uncarried(f"a value of more than {MOST_BYTES >> 20} MiB")
    data = memoryview(len(data).to_bytes(4, "big") + data)
    while data:
        data = data[write(fd, data) :]


def receive(fd: int, read: Callable = os.read) -> object:
    """Reads a message. Raises EOFError if the other side is gone, `Uncarried` if it is too long or not JSON."""
    size = int.from_bytes(_exactly(fd, 4, read), "big")
    if size > MOST_BYTES:
        raise Uncarried(f"a value of more than {MOST_BYTES >> 20} MiB")
    try:
        return json.loads(_exactly(fd, size, read))
    except (ValueError, RecursionError):
        raise Uncarried("an invalid message") from None


def _exactly(fd: int, size: int, read: Callable) -> bytearray:
    data = bytearray()
    while len(data) < size:
        part = read(fd, min(size - len(data), 1 << 16))
        if not part:
            raise EOFError
        data += part
    return data


def _container(kind: type) -> str:
    if kind in _TAGS:
        return _TAGS[kind]
    if kind.__module__ == "collections" and _is(kind, "collections", "deque"):
        return "q"
    if kind.__module__ == "rewards.judging.empties":
        return "n"
    return "n" if kind.__module__ == "numpy" and _is(kind, "numpy", "ndarray") else ""


_TAGS = {list: "l", dict: "d", set: "s", bytearray: "ba"}


def _is(kind: type, module: str, name: str) -> bool:
    return module == "builtins" or getattr(sys.modules.get(module), name, None) is kind


def _array(dtype: str, shape: list, data: str) -> object:
    import numpy

    if not _DTYPE.fullmatch(dtype):
        raise Uncarried("an invalid message")
    return numpy.frombuffer(base64.b64decode(data), numpy.dtype(dtype)).reshape([int(n) for n in shape]).copy()
