"""Rewrites the syntax tree of the tests before it is compiled."""

from __future__ import annotations

import ast

# functions that read a whole value without changing it
_READING = {"sorted", "max", "min", "sum", "set", "frozenset", "reversed", "list", "tuple", "Counter", "dict"}
_METHODS = {"items", "keys", "values", "copy"}


class Rewriting(ast.NodeTransformer):
    """Makes two changes that do not affect an honest program.

    `type(x)` becomes `judge_type(x)`, which handles objects of the program. In `f(x) == sorted(x)` and
    `assertEqual(f(x), sorted(x))`, the right side is evaluated first: otherwise a program that empties `x` and returns
    it would be compared with an empty value.

    Args:
        subjects: names of the program.
    """

    def __init__(self, subjects: set[str]):
        self._subjects = subjects

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="type") as name, args=[_], keywords=[]):
                name.id = "judge_type"
            case ast.Call(func=ast.Attribute(attr="assertEqual"), args=[left, right, *rest]):
                if self._is_expected(left, right):
                    node.args = [right, left, *rest]
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        self.generic_visit(node)
        match node:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]) if self._is_expected(left, right):
                node.left, node.comparators = right, [left]
        return node

    def _is_expected(self, left: ast.expr, right: ast.expr) -> bool:
        """Whether the right side is computed, without the program, from arguments of the program on the left."""
        given = _names(left)
        expected = _names(right)
        if not (given & self._subjects and given & expected) or expected & self._subjects:
            return False
        calls = [n.func for n in ast.walk(right) if isinstance(n, ast.Call)]
        slices = any(isinstance(n, ast.Slice | ast.comprehension) for n in ast.walk(right))
        return (bool(calls) or slices) and all(map(_only_reads, calls))


def _only_reads(function: ast.expr) -> bool:
    match function:
        case ast.Name(id=name):
            return name in _READING
        case ast.Attribute(attr=name):
            return name in _METHODS
    return False


def _names(node: ast.expr) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
