"""Loads functions that a config names: `path.py:name`, `module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.errors import InputError


def is_function_spec(spec: str) -> bool:
    """True for `path.py:name` and `module:name`; a Windows drive or a URL is neither."""
    module, _, name = spec.rpartition(":")
    return bool(module) and name.isidentifier() and "//" not in spec


def load_function(spec: str) -> Callable[..., Any]:
    """Loads the function that `path.py:name` or `module:name` names. Paths are relative to the working directory.

    Raises:
        InputError: it can't be found, or its file fails to load; in one line.
    """
    if not is_function_spec(spec):
        raise InputError(f"{spec!r} does not name a function: write path/to/file.py:name or package.module:name")
    source, _, name = spec.rpartition(":")
    if os.getcwd() not in sys.path:  # last, so that a user's rewards.py does not shadow our package
        sys.path.append(os.getcwd())
    if source.endswith(".py"):
        path = Path(source).expanduser().resolve()
        if not path.exists():
            raise InputError(f"{spec!r}: there is no file {source} (paths start at {Path.cwd().name}/)")
        module_name = f"sawtooth_plugin_{path.stem}_{abs(hash(str(path)))}"
        with loading(spec, str(path)):
            module = sys.modules.get(module_name) or _load_file(module_name, path)
    else:
        with loading(spec):
            module = importlib.import_module(source)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{spec!r}: {source} has no function {name!r}")
    return function


@contextmanager
def loading(spec: str, file: str = "") -> Iterator[None]:
    """Wraps the import of user code: turns any error into one line with its place (in `file`, if given)."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{spec!r}: no module named {error.name!r}") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
        place = "" if isinstance(error, SyntaxError) else f" ({Path(last.filename).name}, line {last.lineno})"
        why = " ".join(f"{type(error).__name__}: {error}".split())  # a SyntaxError's text includes its place
        raise InputError(f"{spec!r} failed to load: {why}{place}") from error


def _load_file(module_name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # a dataclass in the file looks its module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
