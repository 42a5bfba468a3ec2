"""Inputs of a stage in addition to its settings: files, and the number of ranks. A resumed stage requires that they
have not changed. A finished stage no longer needs them."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from rl.app.run_config import RunConfig
from rollout.plugins import is_function_spec

_MODEL = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
_WHOLE = 1 << 26  # bytes: larger files are only sampled, or a start would take minutes
_SAMPLES, _SAMPLE = 64, 1 << 16


def inputs_of(stage: str, config: RunConfig, start: str) -> dict[str, Any]:
    """Returns `ranks` and a digest of each file that `sft` or `rl` reads, by its path; {} for other stages.

    Args:
        start: the model that it starts from: a folder, or a Hub id, which is not checked.
    """
    if stage not in ("sft", "rl"):
        return {}
    files = {path: _digest(Path(path)) for path in _paths(stage, config, start)}
    return {"ranks": int(os.environ.get("WORLD_SIZE", "1")), "files": files}


def changed_input(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Returns the first input that has changed since a stage began; None: none, of the inputs that both contain."""
    ranks, theirs = now.get("ranks"), before.get("ranks")
    if theirs is not None and ranks != theirs:
        return f"number of ranks ({theirs} then, {ranks} now: --nproc)"
    known = before.get("files") or {}
    changed = [path for path, digest in now.get("files", {}).items() if known.get(path, digest) != digest]
    return f"{changed[0]} (it has changed since)" if changed else None


def _paths(stage: str, config: RunConfig, start: str) -> Iterator[str]:
    named = [start, str(config.folder / "data" / "dataset")]
    if stage == "rl":
        questions = config.data.questions
        named = [start, questions.get("source") if isinstance(questions, dict) else questions]
        named += [reward.get(key) for reward in config.rewards for key in ("fn", "model")]
    for spec in named:
        source = str(spec).rpartition(":")[0] if spec and is_function_spec(str(spec)) else str(spec or "")
        yield from [source] if source and Path(source).exists() else sorted(glob(source))


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for file in _files(path) if path.is_dir() else [path]:
        found.update(file.name.encode())
        for block in _blocks(file):
            found.update(block)
    return found.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    """Returns the files of a model or of a data set."""
    model = [path for path in folder.glob("*") if path.suffix in _MODEL and path.is_file()]
    return sorted([*model, *folder.glob("*/*.parquet")])


def _blocks(path: Path) -> Iterator[bytes]:
    if path.suffix == ".py":
        yield from _code(path, set())
        return
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        if size <= _WHOLE:
            yield file.read()
        for number in range(_SAMPLES if size > _WHOLE else 0):
            file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
            yield file.read(_SAMPLE)


def _code(path: Path, seen: set[Path]) -> Iterator[bytes]:
    """Yields a file's code without comments, docstrings and layout, then that of its imports in the working folder."""
    seen.add(path)
    text = path.read_bytes()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        yield text
        return
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [part for part in body if not _is_text(part)]
    yield ast.dump(tree).encode()
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    for name in sorted(set(names)):
        helper = Path(name.replace(".", "/")).with_suffix(".py")
        with suppress(OSError):
            if helper not in seen and helper.is_file():
                yield from _code(helper, seen)


def _is_text(node: ast.AST) -> bool:
    """Returns whether a statement is only a string, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
