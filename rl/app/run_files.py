"""Reads files of a run's folder safely: the folder is untrusted, and must not harm the person who looks at it.

Only regular files inside the folder are read, up to a size limit. Links that lead outside are not followed, and pipes
and devices are not opened. YAML with aliases is refused, because they can expand to far more than their length.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from rollout.errors import InputError, UserError

RUNS = Path("runs")
MOST_CONFIG = 1 << 18
"""Bytes of a config.yaml."""
MOST_JSON = 1 << 26
MOST_LOG = 1 << 30
"""Bytes of a metrics.jsonl."""
_DEEPEST = 50  # levels of a YAML file
_LONGEST_NUMBER = 400  # characters: YAML reads `1:1:1:…` as one number, in quadratic time

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def find_run(run: str) -> Path:
    """Returns the folder of a run given as a path, or by its name in runs/. It need not exist."""
    places = [Path(run), RUNS / run]
    found = [path for path in places if (path / "config.yaml").exists()] + [path for path in places if path.is_dir()]
    return found[0] if found else Path(run)


class NotRead(UserError, OSError):
    """A file that exists but is not read; `strerror` is the reason, in a few words."""

    def __init__(self, why: str, path: Path):
        super().__init__(0, why, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def open_file(folder: Path, name: str, most: int) -> BinaryIO:
    """Opens `folder/name` for reading.

    Args:
        folder: may itself be a link.
        most: maximum size in bytes.

    Raises:
        FileNotFoundError: it does not exist.
        NotRead: it is not a regular file, is outside the folder, or is too large.
        OSError: it can't be opened.
    """
    path = folder / name
    try:
        real = path.resolve()
    except RuntimeError as error:  # Python 3.11 and 3.12; later ones leave it to os.open
        raise NotRead("is a link that leads back to itself", path) from error
    if not real.is_relative_to(folder.resolve()):
        raise NotRead("is a link that leads out of the run's folder", path)
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)  # a pipe would block
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRead("is not a regular file", path)
        if status.st_size > most:
            raise NotRead(f"has {status.st_size} bytes, more than the {most} that are read", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(folder: Path, name: str, most: int = MOST_JSON) -> str:
    """Returns the file's text, with bytes that are not UTF-8 replaced. Raises like `open_file`."""
    with open_file(folder, name, most) as file:
        return file.read(most).decode("utf-8", "replace")


def read_json(folder: Path, name: str, most: int = MOST_JSON) -> Any:
    """Returns the parsed file. Raises like `open_file`; InputError if the file is not JSON."""
    try:
        return json.loads(read_text(folder, name, most))
    except RecursionError:
        raise InputError(f"{folder / name} is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{folder / name} is not JSON: {error}") from None


def is_done(stage: Path) -> bool:
    """Returns whether this folder's stage is finished. A crash may leave an empty `done.json`, which does not count."""
    try:
        return isinstance(read_json(stage, "done.json", MOST_CONFIG), dict)
    except (OSError, ValueError):
        return False


def read_yaml(folder: Path, name: str = "config.yaml") -> Any:
    """Returns the parsed file. Raises like `open_file`; InputError for invalid YAML, an alias, or too deep nesting."""
    text, depth = read_text(folder, name, MOST_CONFIG), 0
    try:
        for event in yaml.parse(text, Loader=_Loader):  # before any object is built
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{folder / name} has an alias (*{event.anchor}), which a run's config never has")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise InputError(f"{folder / name} is nested more than {_DEEPEST} levels deep")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST_NUMBER and _is_number(event):
                raise InputError(f"{folder / name} has a number of {len(event.value)} characters")
    except yaml.YAMLError as error:
        raise InputError(f"{folder / name} is not YAML: {' '.join(str(error).split()):.200}") from None
    try:
        return yaml.load(text, Loader=_Loader)
    # all but the first: values that don't fit their tags, such as `!!int x`, `!!int ""`, `!!bool x`, `!!timestamp x`
    except (yaml.YAMLError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / name} is not YAML: {' '.join(str(error).split()):.200}") from None


def _is_number(event: yaml.ScalarEvent) -> bool:
    return event.value.lstrip("+-._")[:1].isdigit() or (event.tag or "").endswith((":int", ":float"))
