"""Counts this machine's GPUs and the ranks to train on them, and detects launchers. One rank uses one GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings

from rl.settings.schema import ConfigError


class LauncherError(ConfigError):
    """A launcher's variables are only partly set, so no rank can tell whether it is rank 0, which prints for all."""


def launched_ranks() -> int | None:
    """Returns the number of ranks that a launcher (torchrun, accelerate, …) started; None: this process is not a rank.

    Raises:
        LauncherError: only some of the variables are set, or one is not a number. The trainers' libraries would each
            read a different part of them, and every rank would train alone.
    """
    given = {name: os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ}
    for name, value in given.items():
        if not value.isdecimal():
            raise LauncherError(f"{name} is {value!r}; launchers set it to an integer: unset it")
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
    """Returns the ranks of sft and rl for `--nproc`: a number, or auto (one per GPU of this machine, one without any).

    Args:
        here: the ranks start on this machine, so a number has to fit its GPUs.

    Raises:
        ConfigError: `nproc` is not valid, there are fewer GPUs, or their driver is too old for this torch.
    """
    if nproc != "auto" and (not nproc.isdecimal() or int(nproc) < 1):
        raise ConfigError(f"--nproc is {nproc}; it must be auto, or a whole number of at least 1")
    if nproc != "auto" and not here:
        return int(nproc)
    cards = visible_cards() if _may_have_cards() else 0
    if nproc == "auto":
        return max(1, cards)
    if 0 < cards < int(nproc):
        raise ConfigError(f"--nproc is {nproc}, but each rank needs its own GPU: {_number(cards)} here{_why()}")
    if not cards and int(nproc) > _cores():
        print(f"sawtooth: no GPU here: {nproc} ranks share {_cores()} CPU core(s)", file=sys.stderr)
    return int(nproc)


def _may_have_cards() -> bool:
    """Returns False without any sign of a GPU, which avoids importing torch (seconds)."""
    traces = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # CUDA, CUDA under WSL, ROCm
    return "torch" in sys.modules or any(map(os.path.exists, traces)) or shutil.which("nvidia-smi") is not None


def visible_cards() -> int:
    """Counts the GPUs that torch can use: those in CUDA_VISIBLE_DEVICES, if it is set. Starts nothing on them.

    Prints a line if the machine has GPUs that this torch was not built for.

    Raises:
        ConfigError: the driver is too old for this torch.
    """
    import torch

    count = torch.cuda.device_count()
    if torch.version.cuda and count < _named_cards():
        raise ConfigError(
            f"torch finds {_number(count)} of those listed{_why()}: list each once, and only GPUs that exist here "
            "(a process uses only one MIG device)"
        )
    if not count:
        listed = 0 if torch.version.cuda or torch.version.hip else _listed("GPU ")
        if listed and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
            print(
                f"sawtooth: nvidia-smi lists {_number(listed)}, which this build of torch ({torch.__version__}) can't "
                "use: running on the CPU (SAWTOOTH_DEVICE=gpu ./launch.sh setup installs the GPU build)",
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
        print(
            f"sawtooth: the {_number(count)} are partitioned (MIG); a process uses one partition: one rank",
            file=sys.stderr,
        )
        return 1  # torch counted the GPUs that are split
    return count


def _named_cards() -> int:
    """Counts the GPUs in CUDA_VISIBLE_DEVICES, by number or UUID, up to a -1. Other words hide all GPUs."""
    count = 0
    for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","):
        if name.strip().startswith("-"):
            break
        count += name.strip().startswith(("GPU-", "MIG-")) or name.strip()[:1].isdecimal()
    return count


def _listed(kind: str) -> int:
    """Counts the devices of a kind that nvidia-smi lists."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.strip().startswith(kind) for line in listed.splitlines())


def _number(cards: int) -> str:
    return f"{cards or 'no'} GPU{'s' * (cards > 1)}"


def _why() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"


def threads_of_a_rank(ranks: int) -> int:
    """Returns OMP_NUM_THREADS per rank: with torchrun's default of 1, DeepSpeed's AdamW on the CPU is very slow."""
    return max(1, _cores() // ranks)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
