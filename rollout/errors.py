"""Errors that are the user's to mend: their text is one line that says what is wrong, where, and how to mend it.

The command prints that line alone. Every other exception is a bug of ours, and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something outside of this project's code is wrong: a setting, a file, a server, a plug-in."""


class InputError(UserError, ValueError):
    """A setting, an argument or a file that was given can't be used. A ValueError too, for callers from Python."""


class ConfigError(InputError):
    """A mistake in a config: one line that says what, where, and how to mend it."""


class NoServerError(UserError):
    """No rollout server could be used for longer than the run may wait."""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """A library's error as it loads a model or a tokenizer, whatever kind its files bring about, in one line."""
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
    """The error for a key that doesn't exist, with the nearest one that does."""
    return ConfigError(f"unknown key {f'{where}.{key}' if where else key!r}: {_nearest(key, known)}")


def refuse_unknown(what: str, settings: Iterable[str], known: Collection[str]) -> None:
    """Raises `ConfigError` for a setting that `what` does not have, with the nearest one that it has."""
    for key in settings:
        if key not in known:
            raise ConfigError(f"{what} has no setting {key!r}: {_nearest(key, known)}")


def _nearest(key: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
