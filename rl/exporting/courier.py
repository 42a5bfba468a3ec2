"""Sends a training's exports in the background, one at a time, and remembers in `steps.json` what has arrived."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout.atomic import atomic

_ROOT = Path(__file__).resolve().parents[2]
_RANK = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|LOCAL_WORLD_SIZE|MASTER_(ADDR|PORT)|TORCHELASTIC_.*")


class Courier:
    """A thread, and in each of its turns a process of its own: loading a model beside a training would disturb it.

    Of the steps that wait for their turn only the newest stays.

    Args:
        folder: `runs/<name>/export`. step-N.weights in it becomes step-N.
        job: (step, whether this run has exported it before) -> what `publish_job` takes.
        keep: most steps that stay in the folder, beside the one that is on its way.
        log: gets a line on what did not arrive.
    """

    def __init__(self, folder: Path, job: Callable[[int, bool], dict[str, Any]], keep: int, log: Callable[[str], Any]):
        self.folder, self.job, self.keep, self.log = folder, job, keep, log
        self.failures = 0
        self._record = folder / "steps.json"
        # step -> waiting, sent, failed, or replaced (by a newer one, before its turn)
        self.states: dict[int, str] = {}
        if self._record.exists():
            self.states = {int(step): state for step, state in json.loads(self._record.read_text()).items()}
        self._before = frozenset(self.states)
        self._waiting: int | None = None
        self._current: int | None = None
        self._process: subprocess.Popen | None = None
        self._closing = self._broken_off = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def take_up(self, step: int) -> None:
        """What an interrupted training left: the newest step up to `step` that has not arrived is sent."""
        left = [s for s in self._here() if s <= step and self.states.get(s) in ("waiting", "failed")]
        if left and left[-1] > max((s for s, state in self.states.items() if state == "sent"), default=0):
            self.send(left[-1])

    def send(self, step: int) -> None:
        """Puts a step's weights in the queue, in place of one that waits. Returns at once."""
        with self._changed:
            if self._waiting is not None:
                self._replace(self._waiting)
            self._waiting = step
            self._note(step, "waiting")
            self._prune()
            self._changed.notify_all()

    def finish(self, wait: bool) -> None:
        """Ends the thread.

        Args:
            wait: until all has been sent, what had failed once more; else what is on its way is broken off.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._waiting is None and self._current is None)
            self._closing, self._broken_off = True, not wait
            self._changed.notify_all()
            if self._process:
                self._process.terminate()
        self._thread.join()
        if wait:
            self._retry()

    def _retry(self) -> None:
        failed = [step for step in self._here() if self.states[step] == "failed"]
        sent = max((step for step, state in self.states.items() if state == "sent"), default=0)
        # An older step comes to lie on the main branch over a newer one: that one goes there again, without its bytes.
        for step in [*failed, *([sent] if failed and sent > failed[0] else [])]:
            self._try(step)
        lost = [step for step, state in self.states.items() if state == "failed"]
        if lost:
            steps = ", ".join(map(str, sorted(lost)))
            self.log(f"export: not on the Hub: step {steps}; what is left of them is in {self.folder}")

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closing)
                if self._closing:
                    return
                self._current, self._waiting = self._waiting, None
            self._try(self._current)
            with self._changed:
                self._current = None
                self._prune()
                self._changed.notify_all()

    def _try(self, step: int) -> None:
        """A disk that is full or a folder that is gone ends neither the training nor this thread."""
        try:
            self._run(step)
        except OSError as error:
            self.failures += 1
            self.states[step] = "failed"
            self.log(f"export: step {step} is not on the Hub: {error}")

    def _run(self, step: int) -> None:
        """Builds and uploads a step, and notes how it went."""
        log = self.folder / f"step-{step}.log"
        job = json.dumps({"folder": str(self.folder), **self.job(step, step in self._before)})
        with log.open("w") as file:
            command = [sys.executable, "-m", "rl.exporting.publish_job", job]
            with subprocess.Popen(command, env=_environment(), stdout=file, stderr=subprocess.STDOUT) as process:
                with self._changed:
                    self._process = process
                    if self._broken_off:
                        process.terminate()
                code = process.wait()
        with self._changed:
            self._process = None
            if self._broken_off:
                return  # it waits for the training to go on
            self._note(step, "failed" if code else "sent")
            if not code:
                log.unlink()
                return
            self.failures += 1
        reason = (log.read_text().strip().splitlines() or [f"exit code {code}"])[-1]
        self.log(f"export: step {step} is not on the Hub: {reason} (see {log})")

    def _replace(self, step: int) -> None:
        """A step whose turn will not come: its weights stay, as a model without a card."""
        self._note(step, "replaced")
        weights, folder = self._paths(step)
        if weights.exists():
            shutil.rmtree(folder, ignore_errors=True)
            weights.rename(folder)

    def _prune(self) -> None:
        for step in self._here()[: -self.keep]:
            if step not in (self._current, self._waiting):
                for path in self._paths(step):
                    shutil.rmtree(path, ignore_errors=True)

    def _here(self) -> list[int]:
        """Steps that are in the folder and in the record, in their order."""
        return [step for step in sorted(self.states) if any(path.exists() for path in self._paths(step))]

    def _paths(self, step: int) -> tuple[Path, Path]:
        return self.folder / f"step-{step}.weights", self.folder / f"step-{step}"

    def _note(self, step: int, state: str) -> None:
        self.states[step] = state
        with atomic(self._record) as path:
            path.write_text(json.dumps({str(s): self.states[s] for s in sorted(self.states)}, indent=2) + "\n")


def _environment() -> dict[str, str]:
    """Of a process that is no rank, takes no GPU and draws no bars."""
    kept = {name: value for name, value in os.environ.items() if not _RANK.fullmatch(name)}
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return kept | quiet | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
