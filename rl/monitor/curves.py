"""Reads `metrics.jsonl` while it is being written: only appended, complete lines."""

from __future__ import annotations

import json
import math
import os
import threading
from array import array
from pathlib import Path

import numpy as np

from rl.app.run_files import MOST_LOG, open_file

_SUMMARY = "train_runtime"  # marks a stage's last line, which has totals instead of curve points
_HEAD = 256  # leading bytes that identify a file
_KEYS = ("stage", "step", "time")
_CHUNK = 1 << 20  # bytes read at once
_LONGEST = 1 << 22  # most bytes of a line


class Curves:
    """The curves of one run. `refresh` reads new lines; a rewritten file (a resumed run) is read from the start."""

    def __init__(self, path: Path):
        self.path = path
        self.fault: str | None = None  # why the file can't be read
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._offset, self._inode, self._rest, self._head = 0, None, b"", b""
        self.bad_lines, self.half_line = 0, False

    @property
    def version(self) -> str:
        """A string that changes whenever there is new data."""
        return f"{self._inode}-{self._offset}-{self.bad_lines}"

    def refresh(self) -> None:
        """Reads appended lines. If the file is gone, the curves read so far stay."""
        with self._lock:
            try:
                with open_file(self.path.parent, self.path.name, MOST_LOG) as file:
                    status = os.fstat(file.fileno())
                    head = file.read(len(self._head) or _HEAD)
                    if status.st_ino != self._inode or status.st_size < self._offset or head != self._head:
                        self._forget()  # another file: inode numbers of deleted files are reused
                        self._inode = status.st_ino
                        file.seek(0)
                        self._head = file.read(_HEAD)
                    file.seek(self._offset)
                    while data := file.read(_CHUNK):
                        self._offset += len(data)
                        self._take_lines(data)
            except FileNotFoundError:
                return
            except OSError as error:
                self.fault = error.strerror or str(error)
                return
            self.fault = None
            self.half_line = bool(self._rest)

    def _take_lines(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line)
        if len(self._rest) > _LONGEST:  # a hole in the file, or not a log: not kept in memory
            self._rest = self._rest[:1] + self._rest[-1:]

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            row = json.loads(line)
            stage, step, when = str(row["stage"]), float(int(row["step"])), float(row.get("time", 0.0))
            numbers = {k: v for k, v in row.items() if k not in _KEYS and isinstance(v, int | float | None)}
            values = {name: math.nan if value is None else float(value) for name, value in numbers.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self.bad_lines += 1
            return
        if _SUMMARY not in row:
            self._stages.setdefault(stage, _Stage()).add(step, when, values)

    def stages(self) -> list[str]:
        """Returns the stages that have logged, in order."""
        return list(self._stages)

    def stage(self) -> str | None:
        """Returns the stage that logged last."""
        return max(self._stages, key=lambda name: self._stages[name].last_time(), default=None)

    def names(self, stage: str | None) -> list[str]:
        """Returns the metrics that the stage has logged."""
        return list(self._stages[stage].values) if stage in self._stages else []

    def series(self, stage: str | None, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (steps, times in unix seconds, values) of the lines with `name`; nan if the value is not a number."""
        with self._lock:
            found = self._stages.get(stage)
            if found is None or name not in found.values:
                return np.empty(0), np.empty(0), np.empty(0)
            lines, values = (np.array(column) for column in found.values[name])
            return np.array(found.steps)[lines], np.array(found.times)[lines], values

    def lines(self, stage: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns (steps, times) of all lines of a stage."""
        with self._lock:
            found = self._stages.get(stage)
            return (np.array(found.steps), np.array(found.times)) if found else (np.empty(0), np.empty(0))

    def times(self) -> np.ndarray:
        """Returns the unix seconds of all log lines of all stages, sorted."""
        with self._lock:
            return np.sort(np.concatenate([[], *(np.array(stage.times) for stage in self._stages.values())]))

    def last_step(self, stage: str | None) -> int | None:
        found = self._stages.get(stage)
        return int(found.steps[-1]) if found else None

    def latest(self, stage: str | None) -> dict[str, float]:
        """Returns each metric's last finite value."""
        with self._lock:
            found = self._stages.get(stage)
            columns = {name: values for name, (_, values) in found.values.items()} if found else {}
            last = {name: next(filter(math.isfinite, reversed(values)), None) for name, values in columns.items()}
        return {name: value for name, value in last.items() if value is not None}


class _Stage:
    """One stage's lines as columns: each metric stores the indices of the lines that contain it."""

    def __init__(self):
        self.steps, self.times = array("d"), array("d")
        self.values: dict[str, tuple[array, array]] = {}  # name -> line indices, values

    def add(self, step: float, when: float, values: dict[str, float]) -> None:
        for name, value in values.items():
            lines, column = self.values.setdefault(name, (array("l"), array("d")))
            lines.append(len(self.steps))
            column.append(value)
        self.steps.append(step)
        self.times.append(when)

    def last_time(self) -> float:
        return self.times[-1]
