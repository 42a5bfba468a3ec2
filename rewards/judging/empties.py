"""Guards numpy's comparisons in the judge: an empty array does not equal a non-empty one.

numpy broadcasts an empty array against a number, finds no difference, and reports equality.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable

from rewards.judging.handles import Handle, plain

_NAMES = """
assert_allclose assert_almost_equal assert_approx_equal assert_array_almost_equal assert_array_almost_equal_nulp
assert_array_equal assert_array_less assert_array_max_ulp assert_equal
"""


class NothingCompared(AssertionError):
    pass


def guard_comparisons(testing: bool) -> None:
    """Replaces numpy's functions that compare two arrays with ones that raise if exactly one of them is empty.

    `testing`: also those of `numpy.testing`, which is slow to import.
    """
    import numpy

    if testing:
        importlib.import_module("numpy.testing")
        for name in _NAMES.split():
            setattr(numpy.testing, name, _guarded(getattr(numpy.testing, name)))
    for name in ("allclose", "isclose", "array_equiv"):
        setattr(numpy, name, _guarded(getattr(numpy, name)))


def _guarded(function: Callable) -> Callable:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def compare(*args: object, **kwargs: object) -> object:
        bound = signature.bind(*args, **kwargs)
        pair = list(bound.arguments)[:2]
        bound.arguments |= {name: _bare(bound.arguments[name]) for name in pair}
        if len({_is_empty(bound.arguments[name]) for name in pair}) == 2:
            raise NothingCompared("one side of the comparison is empty")
        return function(*bound.args, **bound.kwargs)

    return compare


def _bare(value: object) -> object:
    """Converts a handle or `Empty` to the numpy or built-in value that it represents; others unchanged."""
    import numpy

    if type(value) is Handle:
        return plain(value) if value._judge_state.has_base else value
    return value.view(numpy.ndarray) if type(value).__name__ == "Empty" else value


def _is_empty(value: object) -> bool:
    import numpy

    try:
        return numpy.asanyarray(value).size == 0
    except (ValueError, TypeError):  # a ragged list is not an array; the function itself reports it
        return False


def guarded_array(array: object) -> object:
    """Wraps an empty array of the program so that comparing it with, or subtracting, a non-empty one raises."""
    return array.view(_empty_class()) if array.size == 0 else array


@functools.cache
def _empty_class() -> type:
    import numpy

    class Empty(numpy.ndarray):
        def __array_ufunc__(self, ufunc: object, method: str, *inputs: object, **kwargs: object) -> object:
            bare = [one.view(numpy.ndarray) if isinstance(one, Empty) else one for one in inputs]
            if ufunc.__name__ in ("equal", "not_equal", "subtract") and not all(map(_is_empty, bare)):
                raise NothingCompared("an empty array is compared with a non-empty one")
            if ufunc.__name__ != "matmul" and any(numpy.size(one) > 1 for one in bare):
                raise NothingCompared("an empty array is compared with a non-empty one")
            if "out" in kwargs:
                kwargs["out"] = tuple(one.view(numpy.ndarray) for one in kwargs["out"])
            found = getattr(ufunc, method)(*bare, **kwargs)
            return guarded_array(found) if isinstance(found, numpy.ndarray) else found

        @property
        def flat(self) -> object:
            raise NothingCompared("an empty array has no items to compare")

    return Empty
