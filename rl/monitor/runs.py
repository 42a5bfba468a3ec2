"""Read-only view of run folders; missing or half-written files are reported."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rl.app.run_files import is_done, read_json, read_yaml
from rl.monitor.curves import Curves
from rollout.protocol import PROTOCOL_FILE

PARTS = ("metrics.jsonl", "episodes", "eval/episodes", "config.yaml")
"""A folder with one of these is a run."""

_QUIET = 120.0  # seconds without a log line after which a run counts as stopped,
_GAPS = 10  # unless that is less than this many of its usual gaps between log lines


class NotThere(LookupError):
    """The requested item does not exist; the message names it in one line."""


class Run:
    """One run's folder and its curves."""

    def __init__(self, id: str, folder: Path):
        self.id, self.folder = id, folder
        self.curves = Curves(folder / "metrics.jsonl")
        self._config: tuple[Any, dict[str, Any] | None, str | None] = (None, None, None)

    @property
    def name(self) -> str:
        return self.folder.name

    def state(self) -> str:
        """Returns "running", "finished", "stopped", "waiting" (for a first log), "missing" or "foreign" (not a run)."""
        if not self.folder.is_dir():
            return "missing"
        if not is_run(self.folder):
            return "foreign"
        config = self.config() or {}
        last = next(stage for stage in ("rl", "sft", "eval") if config.get(stage, {}) is not None)
        if is_done(self.folder / last):
            return "finished"
        times = self.curves.times()
        if not len(times):
            return "waiting"
        if self.curves.stage() != "rl" and is_done(self.folder / str(self.curves.stage())):
            return "waiting"  # the next stage has not logged yet
        usual = float(np.median(np.diff(times[-50:]))) if len(times) > 1 else 0.0
        return "running" if time.time() - times[-1] < max(_QUIET, _GAPS * usual) else "stopped"

    @property
    def message(self) -> str | None:
        """The folder's faults, in one line; None if there are none."""
        state = self.state()
        if state == "missing":
            kept = "; data read earlier is still shown" if self.curves.stages() else ""
            return f"the folder {self.folder} does not exist (any more){kept}"
        if state == "foreign":
            return f"{self.folder} is not a run: it contains none of {', '.join(PARTS)}"
        notes = []
        if self.curves.fault:
            notes.append(f"metrics.jsonl can't be read: {self.curves.fault}")
        if self.curves.bad_lines:
            notes.append(f"metrics.jsonl: {self.curves.bad_lines} lines are not log lines and are ignored")
        if self.curves.half_line:
            notes.append("metrics.jsonl: the last line is incomplete (still being written)")
        fault = self._read_config()[1]
        if fault:
            notes.append(f"config.yaml can't be read: {fault}")
        return "; ".join(notes) or None

    def config(self) -> dict[str, Any] | None:
        """Returns the resolved config; None if it is missing or broken."""
        return self._read_config()[0]

    def _read_config(self) -> tuple[dict[str, Any] | None, str | None]:
        """Returns the config, or why it can't be read; (None, None) if there is none."""
        try:
            status = (self.folder / "config.yaml").stat()
            seen = (status.st_mtime_ns, status.st_size)
            if seen != self._config[0]:
                self._config = (seen, *self._load_config())
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, error.strerror
        return self._config[1:]

    def _load_config(self) -> tuple[dict[str, Any] | None, str | None]:
        try:
            loaded = read_yaml(self.folder)
        except OSError as error:
            return None, error.strerror
        except ValueError as error:  # also raised for an impossible date
            return None, str(error).removeprefix(f"{self.folder / 'config.yaml'} ")
        return (loaded, None) if isinstance(loaded, dict) else (None, "has no sections")

    def section(self, name: str) -> dict[str, Any]:
        """Returns a section of the config; empty if there is none."""
        found = (self.config() or {}).get(name)
        return found if isinstance(found, dict) else {}

    def protocol(self) -> dict[str, Any]:
        """Returns the protocol saved with a checkpoint, or else the config's; empty if neither exists."""
        for folder in ("rl/final", "sft/final"):
            found = self._json(f"{folder}/{PROTOCOL_FILE}")
            if isinstance(found, dict):
                return found | {k: v for k, v in self.section("protocol").items() if k == "max_rounds"}
        return self.section("protocol")

    def evaluations(self) -> list[dict[str, Any]]:
        """Returns the rows of `eval/summary.json`; empty if it is missing or broken."""
        rows = self._json("eval/summary.json")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def _json(self, name: str) -> Any:
        """Reads a JSON file; returns None if it is missing, broken or unreadable."""
        try:
            return read_json(self.folder, name)
        except (OSError, ValueError):
            return None

    def summary(self) -> dict[str, Any]:
        """Returns the values of a header line."""
        self.curves.refresh()
        stage, times = self.curves.stage(), self.curves.times()
        steps = self.section(stage or "rl").get("max_steps")
        return self.nothing() | {
            "state": self.state(),
            "message": self.message,
            "stage": stage,
            "stages": self.curves.stages(),
            "step": self.curves.last_step(stage),
            "max_steps": steps if isinstance(steps, int) and steps > 0 else None,
            "updated": float(times[-1]) if len(times) else None,
            "latest": self.curves.latest(stage),
            "protocol": self.protocol() or None,
            "evals": self.evaluations(),
        }

    def nothing(self) -> dict[str, Any]:
        """Returns the header line of a run about which nothing is known."""
        known = {"id": self.id, "name": self.name, "folder": str(self.folder), "state": "foreign"}
        empty = dict.fromkeys(("message", "stage", "step", "max_steps", "updated", "protocol"))
        return known | empty | {"stages": [], "latest": {}, "evals": []}


def is_run(folder: Path) -> bool:
    """Returns whether the folder contains any part of a run."""
    try:
        return any((folder / part).exists() for part in PARTS)
    except OSError:  # no permission
        return False


def runs_of(path: Path) -> list[Path]:
    """Returns the path itself if it is a run, else the runs directly below it."""
    if is_run(path):
        return [path]
    try:
        return sorted(inner for inner in path.iterdir() if is_run(inner))
    except OSError:  # missing, not a folder, or not listable
        return []


class Runs:
    """All watched runs. New runs below a watched folder are added; a deleted run stays and is reported as missing."""

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [Path(path).resolve() for path in paths]
        self._runs: dict[Path, Run] = {}
        self._lock = threading.Lock()
        self._looked = -math.inf

    def refresh(self, every: float = 0.0) -> list[Run]:
        """Looks for new runs, unless the last look is less than `every` seconds ago, and returns all runs."""
        with self._lock:
            if time.monotonic() - self._looked < every:
                return list(self._runs.values())
            self._looked = time.monotonic()
            for path in self.paths:
                found = runs_of(path)
                if found and path not in found:
                    self._runs.pop(path, None)  # it contained no run at the first look
                if not found and not any(path in folder.parents for folder in self._runs):
                    found = [path]  # so that the missing run is reported
                for folder in found:
                    if folder not in self._runs:
                        self._runs[folder] = Run(self._new_id(folder), folder)
            return list(self._runs.values())

    def get(self, id: str) -> Run:
        """Returns the run with this id. Raises NotThere if there is none."""
        runs = {run.id: run for run in list(self._runs.values())}
        if id not in runs:
            runs = {run.id: run for run in self.refresh()}
        if id not in runs:
            raise NotThere(f"there is no run {id!r}; known: {', '.join(runs) or 'none'}")
        return runs[id]

    def _new_id(self, folder: Path) -> str:
        """Returns the folder's name, made safe for links, with a number if two runs share it."""
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in folder.name) or "run"
        taken = {run.id for run in self._runs.values()}
        return next(id for n in range(1, len(taken) + 2) if (id := name if n == 1 else f"{name}-{n}") not in taken)
