"""Finds, from the source of the tests alone, what they check and whether they can be judged."""

from __future__ import annotations

import ast

# attributes that a handle of a program's object does not support
_HIDDEN = """
__code__ __defaults__ __kwdefaults__ __closure__ __globals__ __signature__ __cause__ __context__ __traceback__ __notes__
__mro__ __bases__ __subclasses__ __dataclass_fields__ __abstractmethods__ __self__ __func__ __eq__ __ne__ __lt__ __le__
__gt__ __ge__
"""
# modules that start processes, open connections or inspect objects
_MODULES = ("subprocess", "multiprocessing", "socket", "runpy", "inspect", "dis", "doctest", "ctypes", "gc")
_LOOKING = ("asdict", "astuple", "fields", "is_dataclass", "replace", "get_type_hints")
_THIRD_PARTY = {"torch", "tf", "pd", "pandas", "scipy", "sp", "sympy", "jax", "jnp", "nx", "sklearn"}
_CARRIED = ("input", "stdin", "stdout")  # patches of these reach the program
_PROGRAM = ("__main__", "program", "solution")
_VERBS = ("assert", "check", "expect", "verify", "fail", "raises", "test")


class Unclear(Exception):
    """The tests can't be judged for any program; the message is the reason."""


def checks_of(tree: ast.Module) -> dict[str, list[str]]:
    """Returns what to run after the tests' module code.

    Returns:
        `run`: test functions without parameters that the tests do not call themselves; `classes`: pytest classes.

    Raises:
        Unclear: the tests check nothing, define checks that are never run, or need something that can't be transferred.
    """
    for node in ast.walk(tree):
        why = _uncarried(node)
        if why:
            raise Unclear(f"they {why}")
    if tree.body and not any(map(_is_check, ast.walk(tree))):
        raise Unclear("they check nothing")
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in f.body}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    run, classes = [], []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in read:
            if node.name.startswith("test") and not ast.unparse(node.args):
                run.append(node.name)
            elif node.name.startswith("test") or _asserts(node):
                raise Unclear(f"they define {node.name}() and never call it")
        elif isinstance(node, ast.ClassDef) and node.name not in read and _asserts(node):
            if node.name.startswith("Test") and all(map(_can_run, node.body)):
                classes.append(node.name)
            elif not node.bases:
                raise Unclear(f"they define {node.name} and never use it")
    for node in inner:
        if isinstance(node, ast.FunctionDef) and node.name not in read and _asserts(node):
            raise Unclear(f"they define {node.name}() and never call it")
    return {"run": run, "classes": classes}


def _asserts(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Assert) for part in ast.walk(node))


def _can_run(node: ast.stmt) -> bool:
    """Whether a statement of a test class is not a test, or a test that takes only `self`."""
    is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    return not is_test or (ast.unparse(node.args) == "self" and not node.decorator_list)


def _is_check(node: ast.AST) -> bool:
    match node:
        case ast.Assert(test=ast.Tuple(elts=[_, *_]) | ast.Lambda()):  # always true
            return False
        case ast.Assert(test=ast.Constant(value=value)):
            return not value
        case ast.Assert() | ast.Raise():
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name.lstrip("_").lower().startswith(_VERBS) or name in ("exit", "_exit", "quit")
    return False


def _uncarried(node: ast.AST) -> str:
    match node:
        case ast.Attribute(attr=name) if name in _HIDDEN.split():
            return f"access {name}"
        case ast.AsyncFunctionDef(name=name) if name.startswith("test"):
            return f"define {name}() as async"
        case ast.Import(names=names) if found := [n.name for n in names if n.name.partition(".")[0] in _MODULES]:
            return f"import {found[0]}"
        case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in _MODULES:
            return f"import {module}"
        case ast.ImportFrom(module="dataclasses" | "typing", names=names) if found := [
            n.name for n in names if n.name in _LOOKING
        ]:
            return f"import {found[0]}"
        case ast.Attribute(value=ast.Name(id="dataclasses" | "typing"), attr=name) if name in _LOOKING:
            return f"use {name}()"
        case ast.Call(func=ast.Name(id="globals" | "locals")):
            return "look names up in globals() or locals()"
        case (
            ast.Attribute(value=ast.Name(id="sys"), attr="stderr", ctx=ast.Store())
            | ast.Call(func=ast.Name(id="redirect_stderr") | ast.Attribute(attr="redirect_stderr"))
        ):
            return "capture stderr"
        case ast.Call(
            func=ast.Name(id="patch") | ast.Attribute(value=ast.Name(id="mock"), attr="patch"),
            args=[ast.Constant(value=str(target)), *_],
        ) if target.rpartition(".")[2] not in _CARRIED and target.partition(".")[0] not in _PROGRAM:
            return f"patch {target}, which the program would not see"
    return ""


def third_party(free: set[str], bases: set[str]) -> None:
    """Raises Unclear if the tests would take a large library from the program, which could replace it with anything."""
    found = sorted(free & bases & _THIRD_PARTY)
    if found:
        raise Unclear(f"they use {found[0]} without importing it")
