"""Saves each rank's generation batch in progress with a checkpoint, if a batch serves several optimizer steps.

With `num_iterations` or `steps_per_generation`, a checkpoint may fall between two steps on the same episodes. The
episodes, their old logprobs and the count of accumulation steps go into `generation-<rank>.pt`, so that a resumed
training trains on each batch as often as an uninterrupted one.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rl.microbatches import MicroBatch
from rl.samples import TrainingSample
from rollout.atomic import atomic
from rollout.errors import InputError
from sft.trainer_seam import reading

Slots = list[list[MicroBatch]]


def save_generation(folder: Path, rank: int, ranks: int, step: int, slots: Slots | None) -> None:
    """Writes this rank's part.

    Args:
        step: accumulation steps so far.
        slots: the batch in progress; None if the next step starts a new one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = None if slots is None else [[asdict(micro) for micro in slot] for slot in slots]
    with atomic(_path(folder, rank)) as path:
        torch.save({"step": step, "ranks": ranks, "slots": kept}, path)


def load_generation(
    folder: Path, rank: int, ranks: int, accumulation: int, every: int, device: Any
) -> tuple[int, Slots | None]:
    """Returns the accumulation steps so far, and the batch in progress (None: the next step starts a new one).

    Args:
        accumulation: accumulation steps per optimizer step.
        every: accumulation steps per generation batch.

    Raises:
        InputError: the checkpoint was saved in the middle of a batch by a different number of ranks.
    """
    path = _path(folder, rank)
    if path.exists():
        with reading(folder):
            state = torch.load(path, map_location=device, weights_only=True)
        if state["slots"] is None or state["ranks"] == ranks:
            return state["step"], None if state["slots"] is None else _slots(state["slots"])
        found = state["ranks"]
    else:
        state_file = folder / "trainer_state.json"
        step = json.loads(state_file.read_text())["global_step"] * accumulation if state_file.exists() else 0
        others = len(list(folder.glob("generation-*.pt")))
        if step % every == 0 or not others:
            if step % every:
                print(f"{folder} has no {path.name}: the generation batch in progress is rolled out again")
            return step, None
        found = others
    raise InputError(
        f"{folder} was saved by {found} ranks in the middle of a generation batch and can't resume with {ranks}: start "
        f"{found}, or resume from a checkpoint at the end of a batch"
    )


def _slots(kept: list[list[dict[str, Any]]]) -> Slots:
    return [
        [MicroBatch(**micro | {"samples": [TrainingSample(**row) for row in micro["samples"]]}) for micro in slot]
        for slot in kept
    ]


def _path(folder: Path, rank: int) -> Path:
    return folder / f"generation-{rank}.pt"
