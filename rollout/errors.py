"""Errors that the user can fix: their text is one line that names the problem, its place, and the fix.

The command prints only that line. Every other exception is a bug in this project and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something outside this project's code is wrong: a setting, a file, a server, a plug-in."""


class InputError(UserError, ValueError):
    """A given setting, argument or file can't be used. Also a ValueError, for Python callers."""


class ConfigError(InputError):
    """A mistake in a config."""


class NoServerError(UserError):
    """No rollout server was usable for longer than the run may wait."""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turns any error that a library raises while it loads a model or tokenizer into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{what} can't be loaded: {type(error).__name__}: {why}") from error


def unknown_key(where: str, key: str, known: Iterable[str]) -> ConfigError:
    """Returns the error for an unknown key, with the nearest known one."""
    return ConfigError(f"unknown key {f'{where}.{key}' if where else key!r}: {_nearest(key, known)}")


def refuse_unknown(what: str, settings: Iterable[str], known: Collection[str]) -> None:
    """Raises `ConfigError` for a setting that `what` does not have, with the nearest known one."""
    for key in settings:
        if key not in known:
            raise ConfigError(f"{what} has no setting {key!r}: {_nearest(key, known)}")


def _nearest(key: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
