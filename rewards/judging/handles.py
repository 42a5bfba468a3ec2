"""Handles: the program's objects as the tests see them. The program executes each operation and returns plain data.

The program must not decide the verdict. A handle never equals a plain value and can't be ordered against one, unless
its class is derived from a built-in type: then that type's value is compared in the judge. With a plain operand, `+`,
`-`, `in` and the like yield a number only for objects that the tests made by calling a class, i.e. a capitalized name:
`Vector(1, 2) * 3` and `3 in Interval(1, 5)`, but not `f(2) - 4`, which would reveal the expected 4. Nor can other
objects be asked about the result of such a difference, or whether they start with the expected value.
"""

from __future__ import annotations

import operator

# dunder attributes that tests use; any other could interact with the judge's libraries (`__array__`)
_ATTRIBUTES = """
__name__ __qualname__ __doc__ __dict__ __annotations__ __module__ __version__ __all__ __next__ __wrapped__
"""
_ORDER = {"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge}
_ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and lshift rshift or xor divmod"
ARITHMETIC = {f"{name}_" if name in ("and", "or") else name for name in _ARITHMETIC.split()}
_UNARY = "abs neg pos invert round trunc floor ceil int float complex index bool"
_OTHER = "str repr format bytes getitem setitem delitem reversed copy"
# methods that receive the expected value and could just return True
_COMPARING = {"startswith", "endswith", "issubset", "issuperset", "isdisjoint", "equals", "isclose", "allclose"}
_SEARCHING = {"count", "index", "find", "rfind", "rindex"}
_DIFFERENCES = ("sub", "xor", "truediv", "mod", "divmod", "floordiv")
# operations still allowed on an object that was combined with a value of the tests
_STILL = {"eq", "ne", "isinstance", "issubclass", "getattr"}


class State:
    """The judge's state of a handle.

    Attributes:
        number: index of the object in the program.
        has_base: its class is derived from a built-in data type.
        made: created by the tests' calling a class, or from such objects by operators.
        touched: 1 if it resulted from an operation with a plain value of the tests, 2 if from a difference with one.
        is_sized: the tests have asked for its length.
        resumes: it is a method that resumes a generator, which may end.
        capital: all names under which the tests have reached it start with a capital letter.
    """

    def __init__(self, link: object, number: int, has_base: bool):
        self.link, self.number, self.has_base = link, number, has_base
        self.made = self.is_sized = self.resumes = False
        self.touched = 0
        self.capital: bool | None = None

    def named(self, name: str) -> None:
        self.capital = name.lstrip("_")[:1].isupper() and self.capital is not False

    def answers(self, operation: str) -> bool:
        """Whether the program may perform the operation, given that a value of the tests may be in this object."""
        if self.made or not self.touched:
            return True
        return operation in _STILL and not (operation == "getattr" and self.touched == 2)


class Handle:
    __slots__ = ("__weakref__", "_judge_state")
    __array_ufunc__ = None  # numpy leaves operators to the handle

    def __init__(self, state: State):
        object.__setattr__(self, "_judge_state", state)

    @property
    def __class__(self) -> object:
        if self._judge_state.has_base:
            return type(plain(self))
        found = self._judge_state.link.ask("getattr", self, "__class__")
        return found if type(found) is Handle else Handle  # the program can't claim one of the judge's types

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name.endswith("__") and name not in _ATTRIBUTES.split():
            raise AttributeError(name)
        state = self._judge_state
        if not state.made and name in (_COMPARING | _SEARCHING if state.has_base else _COMPARING):
            if not state.has_base:
                raise TypeError(f"{name}() of a result that is not a plain value")
            return getattr(plain(self), name)
        found = state.link.ask("getattr", self, name)
        if type(found) is Handle:
            found._judge_state.named(name)
            found._judge_state.resumes = name in ("send", "throw") and not state.made
        return found

    def __setattr__(self, name: str, value: object) -> None:
        self._judge_state.link.ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._judge_state.link.ask("delattr", self, name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        state = self._judge_state
        result = state.link.ask("call", self, *args, **kwargs)
        if type(result) is Handle and state.capital:
            result._judge_state.made = True
        return result

    def __len__(self) -> int:
        state = self._judge_state
        if state.has_base and not state.made:
            return len(plain(self))
        state.is_sized = True
        return state.link.ask("len", self)

    def __iter__(self) -> object:
        state = self._judge_state
        if state.has_base and not state.made:
            return iter(plain(self))
        items = state.link.ask("iter", self)
        return _counted(self, items) if state.is_sized and not state.made else items

    def __next__(self) -> object:
        return self._judge_state.link.ask("next", self)

    def __contains__(self, value: object) -> bool:
        state = self._judge_state
        if state.has_base:
            return value in plain(self)
        if state.made or type(value) is Handle:
            return state.link.ask("contains", self, value) is True
        return any(value is item or value == item for item in self)

    def __hash__(self) -> int:
        return hash(plain(self)) if self._judge_state.has_base else self._judge_state.link.ask("hash", self)

    def __eq__(self, other: object) -> object:
        if type(other) is Handle:
            return self is other or self._judge_state.link.ask("eq", self, other) is True
        return plain(self) == other if self._judge_state.has_base else NotImplemented

    def __ne__(self, other: object) -> object:
        if type(other) is Handle:
            return self._judge_state.link.ask("ne", self, other) is True
        return plain(self) != other if self._judge_state.has_base else NotImplemented

    def __dir__(self) -> object:
        return self._judge_state.link.ask("dir", self)

    def __enter__(self) -> object:
        return self._judge_state.link.ask("enter", self)

    def __exit__(self, kind: object, error: object, trace: object) -> object:
        return self._judge_state.link.ask("exit", self, kind, error)

    def __deepcopy__(self, memo: object) -> object:
        return self._judge_state.link.ask("deepcopy", self)

    def __reduce_ex__(self, version: object) -> object:
        raise TypeError("an object of the program can't be pickled by the tests")

    def __instancecheck__(self, value: object) -> bool:
        return type(value) is Handle and self._judge_state.link.ask("isinstance", value, self) is True

    def __subclasscheck__(self, kind: object) -> bool:
        return type(kind) is Handle and self._judge_state.link.ask("issubclass", kind, self) is True

    def __mro_entries__(self, bases: object) -> object:
        raise self._judge_state.link.refuse("the tests subclass a class of the program")


def _counted(handle: Handle, items: object) -> object:
    """Yields the items and checks their number against `len`: `zip` with the expected values would stop early."""
    count = 0
    for item in items:
        count += 1
        yield item
    if count != len(handle):
        raise RuntimeError(f"an object of length {len(handle)} with {count} items")


def plain(handle: Handle) -> object:
    """Returns the object's current value as the built-in type that its class is derived from, from the program."""
    value = handle._judge_state.link.ask("plain", handle)
    if type(value) is Handle:
        raise TypeError("an object of the program is not a plain value")
    return value


def _order(name: str) -> object:
    def method(self: Handle, other: object) -> object:
        state = self._judge_state
        if type(other) is Handle:
            return state.link.ask(name, self, other)
        return _ORDER[name](plain(self), other) if state.has_base else NotImplemented

    return method


def _arithmetic(name: str, reflected: bool) -> object:
    word = f"{name}_" if name in ("and", "or") else name
    here = divmod if name == "divmod" else getattr(operator, word)

    def method(self: Handle, other: object) -> object:
        state = self._judge_state
        is_plain = type(other) is not Handle
        if is_plain and state.has_base:
            return here(other, plain(self)) if reflected else here(plain(self), other)
        if is_plain and not state.link.is_simple(other):
            return NotImplemented
        result = state.link.ask(word, *((other, self) if reflected else (self, other)))
        if type(result) is Handle:
            made = result._judge_state
            made.made |= state.made
            now = is_plain + (is_plain and name in _DIFFERENCES)
            made.touched = max(made.touched, now, state.touched, 0 if is_plain else other._judge_state.touched)
        elif is_plain and not state.made:
            raise TypeError(f"'{name}' of a result that is not a plain value and a value of the tests")
        return result

    return method


def _unary(name: str) -> object:
    def method(self: Handle, *args: object) -> object:
        state = self._judge_state
        result = state.link.ask(name, self, *args)
        if type(result) is Handle:
            result._judge_state.made |= state.made
        return result

    return method


for _name in _ORDER:
    setattr(Handle, f"__{_name}__", _order(_name))
for _name in _ARITHMETIC.split():
    setattr(Handle, f"__{_name}__", _arithmetic(_name, reflected=False))
    setattr(Handle, f"__r{_name}__", _arithmetic(_name, reflected=True))
for _name in _UNARY.split():
    setattr(Handle, f"__{_name}__", _unary(_name))
for _name in _OTHER.split():
    setattr(Handle, f"__{_name}__", lambda self, *args, _name=_name: self._judge_state.link.ask(_name, self, *args))
