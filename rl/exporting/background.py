"""Export and upload the steps of a training in the background: `BackgroundUploader`, and the process that it starts.

step-N.weights -> process: export_model -> step-N -> upload; steps.json records what has arrived
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout.atomic import atomic
from rollout.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]
_RANK = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|LOCAL_WORLD_SIZE|MASTER_(ADDR|PORT)|TORCHELASTIC_.*")


class BackgroundUploader:
    """Uploads one step at a time, each in its own process; a newer step replaces one that waits.

    It needs no thread: `poll`, called after each training step, notes an upload that has ended and starts the next.
    A failed upload, a full disk or a missing folder is a line in the log and does not end the training.

    Args:
        folder: `runs/<name>/export`.
        keep: maximum steps kept in the folder, besides those that are uploading or waiting.
        log: receives a line on each failure.
    """

    def __init__(self, folder: Path, keep: int, log: Callable[[str], Any]):
        self.folder, self.keep, self.log = folder, keep, log
        self.failures = 0
        self._record = folder / "steps.json"
        # step -> waiting, sent, failed, or replaced (by a newer one, before its turn)
        self.states: dict[int, str] = {}
        if self._record.exists():
            self.states = {int(step): state for step, state in json.loads(self._record.read_text()).items()}
        self._before = frozenset(self.states)  # their tags may move: an interrupted training repeats steps
        self._waiting: int | None = None
        self._current: int | None = None
        self._process: subprocess.Popen | None = None

    def resume(self, step: int) -> None:
        """Submit the newest step up to `step` that an interrupted training left, if nothing newer has arrived."""
        left = [s for s in self._steps_here() if s <= step and self.states[s] in ("waiting", "failed")]
        if left and left[-1] > self._last_sent():
            self.submit(left[-1])

    def submit(self, step: int) -> None:
        """Queue a step's weights, replacing a waiting step. Returns at once."""
        if self._waiting is not None:  # its weights stay here, as a model without a card
            weights, folder = self._paths(self._waiting)
            if weights.exists():
                shutil.rmtree(folder, ignore_errors=True)
                weights.rename(folder)
            self._note(self._waiting, "replaced")
        self._waiting = step
        self._note(step, "waiting")
        self._prune()
        self.poll()

    def poll(self) -> None:
        """Record the result of an upload that has ended, and start the waiting one. Returns at once."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._ended(self._current, self._process.returncode)
            self._process = self._current = None
        if self._waiting is not None:
            self._current, self._waiting = self._waiting, None
            try:
                self._process = self._start(self._current)
            except OSError as error:
                self._failed(self._current, str(error))
                self._current = None
        self._prune()

    def finish(self, wait: bool) -> None:
        """Called once, after the last step.

        Args:
            wait: until everything is uploaded, with one retry of failed steps; else stop the upload, for `resume`.
        """
        if not wait:
            if self._process is not None:
                self._process.terminate()
                self._process.wait()
            return
        self._drain()
        failed, newest = [s for s in self._steps_here() if self.states[s] == "failed"], self._last_sent()
        # Retrying an old step moves `main` back, so push the newest step again (its files are on the Hub already).
        for step in [*failed, *([newest] if failed and newest > failed[0] else [])]:
            self._waiting = step
            self._drain()
        lost = [str(step) for step, state in sorted(self.states.items()) if state == "failed"]
        if lost:
            self.log(f"export: not on the Hub: step {', '.join(lost)}; their remaining files are in {self.folder}")

    def _drain(self) -> None:
        while self._process is not None or self._waiting is not None:
            if self._process is not None:
                self._process.wait()
            self.poll()

    def _prune(self) -> None:
        for step in self._steps_here()[: -self.keep]:
            if step not in (self._current, self._waiting):
                for path in self._paths(step):
                    shutil.rmtree(path, ignore_errors=True)

    def _start(self, step: int) -> subprocess.Popen:
        again = ["--again"] if step in self._before else []
        command = [sys.executable, "-m", "rl.exporting.background", str(self._paths(step)[1]), *again]
        with self._log_file(step).open("w") as file:
            return subprocess.Popen(command, env=_environment(), stdout=file, stderr=subprocess.STDOUT)

    def _ended(self, step: int, code: int) -> None:
        log = self._log_file(step)
        if code == 0:
            self._note(step, "sent")
            log.unlink(missing_ok=True)
            return
        lines = log.read_text().split("\n") if log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
        self._failed(step, f"{last.strip()} (see {log})")

    def _failed(self, step: int, reason: str) -> None:
        self.failures += 1
        self._note(step, "failed")
        self.log(f"export: step {step} is not on the Hub: {reason}")

    def _note(self, step: int, state: str) -> None:
        self.states[step] = state
        try:
            with atomic(self._record) as part:
                part.write_text(json.dumps({str(s): self.states[s] for s in sorted(self.states)}, indent=2) + "\n")
        except OSError as error:
            self.log(f"export: {self._record} can't be written: {error}")

    def _steps_here(self) -> list[int]:
        """Return the recorded steps that are in the folder, in their order."""
        return [step for step in sorted(self.states) if any(path.exists() for path in self._paths(step))]

    def _last_sent(self) -> int:
        return max((step for step, state in self.states.items() if state == "sent"), default=0)

    def _paths(self, step: int) -> tuple[Path, Path]:
        return self.folder / f"step-{step}.weights", self.folder / f"step-{step}"

    def _log_file(self, step: int) -> Path:
        return self.folder / f"step-{step}.log"


def _environment() -> dict[str, str]:
    """Return the environment of a process that is not a rank, takes no GPU and draws no progress bars."""
    kept = {name: value for name, value in os.environ.items() if not _RANK.fullmatch(name)}
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return kept | quiet | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def export_and_upload(folder: Path, again: bool) -> str:
    """Turn step-N.weights into step-N and upload it; a step that is already built is only uploaded.

    Args:
        folder: `runs/<name>/export/step-N`. The run's config sets what is sent and where.
        again: an earlier training may have put the step's tag on other weights.
    """
    from rl.exporting.run_folder import find_run
    from rl.exporting.upload import tag_name, upload

    run = find_run(folder)
    settings, name = run.config.export, run.config.name
    weights = folder.with_name(f"{folder.name}.weights")
    if weights.exists():
        from rl.exporting.export import export_model

        export_model(
            weights, folder, name=f"{name}, step {run.step}", summary=[], eval_settings=run.eval_settings,
            question=run.question, repo_id=settings.repo_id, run=run.facts,
        )  # fmt: skip
        shutil.rmtree(weights)
    return upload(
        folder, settings.repo_id, private=settings.private, tag=tag_name(name, run.step),
        move_tag=settings.move_tag or again, message=f"{name}: step {run.step} of RL",
    )  # fmt: skip


if __name__ == "__main__":
    try:
        print(export_and_upload(Path(sys.argv[1]), again="--again" in sys.argv))
    except UserError as error:
        sys.exit(str(error))
