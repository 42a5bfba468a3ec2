"""Cards of this machine, how many ranks train on them, and whether this process is one. One rank uses one card."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

from rl.settings.schema import ConfigError


class LauncherError(ConfigError):
    """What launchers set is set by halves, so no rank is sure to be the first, which speaks for all."""


def launched_ranks() -> int | None:
    """Ranks that a launcher has started (torchrun, accelerate, …), this process among them; None: it is not a rank.

    Raises:
        LauncherError: only some of the variables are set, or to something else than numbers. The trainers' libraries
            would each read another half, and every rank would train by itself.
    """
    given = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ}
    for name, value in given.items():
        if not value.isdecimal():
            raise LauncherError(f"{name} is {value!r}, where a launcher puts a whole number: unset it")
    rank, size = int(given.get("RANK", 0)), int(given.get("WORLD_SIZE", 1))
    if rank == 0 and size == 1:
        return 1 if {"RANK", "LOCAL_RANK"} <= given.keys() else None
    missing = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", *_MEETING) if not os.environ.get(name)]
    if missing or rank >= size:
        stated = ", ".join(f"{name}={value}" for name, value in given.items())
        why = f"without {', '.join(missing)}" if missing else "and ranks count from 0"
        raise LauncherError(f"{stated} is set, {why}: start with torchrun, or unset {', '.join(given)}")
    return size


_MEETING = ("MASTER_ADDR", "MASTER_PORT")


def ranks_of(nproc: str, here: bool = True) -> int:
    """Ranks of sft and rl for what `--nproc` says: a number, or auto (one a card of this machine, one without any).

    Args:
        here: they are to start on this machine, and a number has to fit its cards.

    Raises:
        ConfigError: it is not such a number, there are fewer cards, or their driver is too old for this torch.
    """
    if nproc != "auto" and (not nproc.isdecimal() or int(nproc) < 1):
        raise ConfigError(f"--nproc is {nproc}; it must be auto, or a whole number of at least 1")
    if nproc != "auto" and not here:
        return int(nproc)
    cards = visible_cards() if _may_have_cards() else 0
    if nproc == "auto":
        return max(1, cards)
    if 0 < cards < int(nproc):
        raise ConfigError(f"--nproc is {nproc}, but a rank needs a card of its own: {_number(cards)} here{_why()}")
    if not cards and int(nproc) > _cores():
        print(f"sawtooth: no card here: {nproc} ranks on the CPU share {_cores()} core(s)", file=sys.stderr)
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
    if torch.version.cuda and count < _named_cards():
        raise ConfigError(
            f"torch finds {_number(count)} of those that are named{_why()}: name each once, and only what is here (of "
            "MIG devices a process uses one)"
        )
    if not count:
        listed = 0 if torch.version.cuda or torch.version.hip else _listed("GPU ")
        if listed and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
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
    if count > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ and _listed("MIG "):
        print(f"sawtooth: the {_number(count)} are split (MIG), and a process uses one part: one rank", file=sys.stderr)
        return 1  # torch has counted the cards that are split
    return count


def _named_cards() -> int:
    """Cards that CUDA_VISIBLE_DEVICES names: by number or UUID, up to a -1. Other words hide all."""
    count = 0
    for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if name.strip().startswith("-"):
            break
        count += name.strip().startswith(("GPU-", "MIG-")) or name.strip()[:1].isdecimal()
    return count


def _listed(kind: str) -> int:
    """Devices of a kind that nvidia-smi lists."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.strip().startswith(kind) for line in listed.splitlines())


def _number(cards: int) -> str:
    return f"{cards or 'no'} card{'s' * (cards > 1)}"


def _why() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"


def threads_of_a_rank(ranks: int) -> int:
    """OMP_NUM_THREADS of each of several ranks: torchrun's own is 1, on which DeepSpeed's AdamW on the CPU crawls."""
    return max(1, _cores() // ranks)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
