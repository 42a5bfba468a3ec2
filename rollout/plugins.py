"""Functions named in a config: `path.py:name`, `module:name`."""

from __future__ import annotations

import importlib
import importlib.util
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
