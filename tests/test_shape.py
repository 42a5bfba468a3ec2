"""The shape of the house: what may import what, and who may hold the trainer. Read from the source, nothing is run."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("rollout", "rewards", "sft", "rl")
PRODUCT = ("rl.app", "rl.evaluation", "rl.exporting", "rl.serving", "rl.monitor", "sft.data", "rollout.remote")
BY_NAME = {("rollout.engines", "rollout.remote.engine")}  # the factory imports an engine as it is asked for
MAY_HOLD_IT = ("rl.trainer", "rl.trl_seam", "sft.trainer_seam")
TREES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(module: str) -> set[str]:
    """Modules of ours that it imports, inside functions too."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & TREES.keys() - {module}


def test_the_core_imports_nothing_of_the_product():
    """The core: flat files of the four packages, with the checks of settings that they share."""
    core = [name for name in TREES if not name.startswith(PRODUCT)]
    pairs = {(name, used) for name in core for used in imports_of(name) if used.startswith(PRODUCT)}
    assert pairs == BY_NAME


def test_packages_import_one_way():
    places = {package: place for place, package in enumerate(PACKAGES)}
    pairs = [(name, used) for name in TREES for used in imports_of(name)]
    assert not [(a, b) for a, b in pairs if places[b.partition(".")[0]] > places[a.partition(".")[0]]]


def test_no_import_goes_in_a_circle():
    try:
        TopologicalSorter({name: imports_of(name) for name in TREES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_trainer_and_the_seams_hold_the_trainer():
    """No parameter, attribute or annotation elsewhere is a trainer of ours, TRL's or transformers'."""
    held = []
    for name in TREES.keys() - {*MAY_HOLD_IT}:
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.arg):
                of_type = {getattr(n, "id", getattr(n, "attr", "")) for n in ast.walk(node.annotation or node)}
                held += [f"{name}:{node.lineno}"] if node.arg == "trainer" or any(map(is_trainer, of_type)) else []
            elif isinstance(node, ast.Attribute) and node.attr.strip("_") == "trainer":
                held.append(f"{name}:{node.lineno}")
    assert not held


def is_trainer(name: str) -> bool:
    return name.endswith("Trainer")
