"""Functions and data named in a config: `path.py:name`, `module:name`, a local file, or a Hub dataset."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_function_spec(spec: str) -> bool:
    """True for `path.py:name` and `module:name`; a Windows drive or a URL is neither."""
    module, _, name = spec.rpartition(":")
    return bool(module) and name.isidentifier() and "//" not in spec


def load_function(spec: str) -> Callable[..., Any]:
    """The function that `path.py:name` or `module:name` names. Paths are relative to the working directory.

    Raises:
        ValueError: what can't be found, in one line.
    """
    if not is_function_spec(spec):
        raise ValueError(f"{spec!r} names no function: write path/to/file.py:name or package.module:name")
    source, _, name = spec.rpartition(":")
    if os.getcwd() not in sys.path:  # last, so that a user's rewards.py does not stand before our package
        sys.path.append(os.getcwd())
    if source.endswith(".py"):
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise ValueError(f"{spec!r}: there is no file {source} (paths start at {Path.cwd().name}/)")
        module_name = f"sawtooth_plugin_{path.stem}_{abs(hash(str(path)))}"
        module = sys.modules.get(module_name) or _load_file(module_name, path)
    else:
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(f"{spec!r}: no module named {error.name!r}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{spec!r}: {source} has no function {name!r}")
    return function


def _load_file(module_name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # a dataclass in the file looks its module up here
    try:
        spec.loader.exec_module(module)
    except Exception:
        del sys.modules[module_name]
        raise
    return module


def load_rows(spec: str, **kwargs: Any) -> list[dict[str, Any]]:
    """Rows of a data source: a function's return value, a .jsonl, .json, .parquet or .csv file, or a Hub dataset.

    Raises:
        ValueError: the source is missing, unreadable or empty.
    """
    if is_function_spec(spec):
        rows = list(load_function(spec)(**kwargs))
    elif kwargs:
        raise ValueError(f"data {spec!r} is no function, so it takes no settings: {', '.join(kwargs)}")
    elif Path(spec).suffix == ".jsonl":
        rows = _read_jsonl(Path(spec))
    else:
        rows = _load_dataset(spec)
    if not rows:
        raise ValueError(f"data {spec!r} is empty: there is nothing to train or evaluate on")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise ValueError(f"data file {path} does not exist")
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def _load_dataset(spec: str) -> list[dict[str, Any]]:
    from datasets import load_dataset

    path = Path(spec)
    loader = {".json": "json", ".parquet": "parquet", ".csv": "csv"}.get(path.suffix)
    try:
        dataset = load_dataset(loader, data_files=spec) if loader else load_dataset(spec)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise ValueError(f"data {spec!r} can't be loaded as a file or a Hub dataset: {error}") from error
    return dataset["train"].to_list()
