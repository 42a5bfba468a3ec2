"""Cards of this machine, and how many ranks train on them. One rank uses one card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

from rl.settings.schema import ConfigError


def ranks_of(nproc: str) -> int:
    """Ranks of sft and rl on this machine for what `--nproc` says: a number, or auto (one a card, one without any).

    Raises:
        ConfigError: it is no such number, there are fewer cards, or their driver is too old for this torch.
    """
    if nproc != "auto" and (not nproc.isdecimal() or int(nproc) < 1):
        raise ConfigError(f"--nproc is {nproc}; it must be auto, or a whole number of at least 1")
    cards = visible_cards() if _may_have_cards() else 0
    if nproc == "auto":
        return max(1, cards)
    if 0 < cards < int(nproc):
        raise ConfigError(f"--nproc is {nproc}, but a rank needs a card of its own: {_number(cards)} here{_why()}")
    return int(nproc)


def _may_have_cards() -> bool:
    """False where there is no trace of a card: torch, whose import takes seconds, need not be asked."""
    traces = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA, CUDA under Windows' Linux, ROCm
    return "torch" in sys.modules or any(map(os.path.exists, traces)) or shutil.which("nvidia-smi") is not None


def visible_cards() -> int:
    """Cards that torch can use: those in CUDA_VISIBLE_DEVICES, where it is set. Starts nothing on them.

    Says so where the machine has cards that this torch was not built for.

    Raises:
        ConfigError: the driver is too old for this torch.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        listed = 0 if torch.version.cuda or torch.version.hip else _listed_cards()
        if listed:
            print(
                f"sawtooth: nvidia-smi lists {_number(listed)}, which this build of torch ({torch.__version__}) can't "
                "use: on the CPU (SAWTOOTH_DEVICE=gpu ./launch.sh setup installs the other one)",
                file=sys.stderr,
            )
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    if not usable:
        why = " ".join(str(caught[0].message).split()) if caught else "CUDA does not start"
        raise ConfigError(
            f"torch {torch.__version__} can't use the {_number(count)} of this machine: it needs a driver for CUDA "
            f"{torch.version.cuda} ({why}). CUDA_VISIBLE_DEVICES= trains on the CPU"
        )
    return count


def _listed_cards() -> int:
    """Cards that nvidia-smi lists, unless CUDA_VISIBLE_DEVICES hides them all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _number(cards: int) -> str:
    return f"{cards} card{'s' * (cards > 1)}"


def _why() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"


def threads_of_a_rank(ranks: int) -> int:
    """OMP_NUM_THREADS of each of several ranks: torchrun's own is 1, on which DeepSpeed's AdamW on the CPU crawls."""
    return max(1, len(os.sched_getaffinity(0)) // ranks)
