"""Which checkpoint a stage goes on from: the newest that is whole. Light: looks at sizes and tables, loads nothing."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rollout.errors import UserError

_NAME = re.compile(r"checkpoint-(\d+)\Z")
_MOST_HEADER = 100 << 20  # bytes, of a safetensors file; the format's own limit
_TORCH = (".pt", ".pth", ".bin")
_OF_RANK = re.compile(r"(rng_state_|(?:bf16_)?zero_pp_rank_)(\d+)(\.pth|_mp_rank_00_(?:model|optim)_states\.pt)")
_NOT_LOADED = ("training_args.bin",)  # a resume makes its own


class DamagedCheckpoint(UserError):
    """No checkpoint of a stage can be read, though there are some."""


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`; None where training has to begin.

    One that a kill left half-written is removed, a damaged one is set aside (`damaged-checkpoint-20`), each with a
    line. Other processes may do the same at the same time.

    Raises:
        DamagedCheckpoint: there are damaged ones only. They stay as they are.
    """
    found = sorted((int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := _NAME.match(p.name)) and p.is_dir())
    damaged: list[tuple[Path, str]] = []
    whole = None
    for _, path in reversed(found):
        state = path / "trainer_state.json"  # it is written last
        if not state.exists():
            shutil.rmtree(path, ignore_errors=True)
            print(f"removed {path}, which a stop while it was saved has left half-written")
        elif fault := _file_damage(state) or _state_damage(state):
            print(f"{path} is half-written ({state.name} {fault}): set aside as {_set_aside(path).name}")
        elif fault := find_damage(path):
            damaged.append((path, fault))
        else:
            whole = path
            break
    if damaged and whole is None:
        path, fault = damaged[0]
        raise DamagedCheckpoint(
            f"no checkpoint in {folder} can be read ({path.name}: {fault}): bring one back, or delete {folder} to "
            "begin this stage anew"
        )
    for path, fault in damaged:
        print(f"{path} is damaged ({fault}): set aside as {_set_aside(path).name}, going on from {whole.name}")
    return whole


def find_damage(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being gone on from, in a few words; None: nothing that sizes and tables show.

    Knows the files of transformers' trainer (whole and sharded weights, an adapter, optimizer, scheduler, random
    state) and DeepSpeed's.
    """
    try:
        for path in sorted(checkpoint.rglob("*")):
            if path.is_file() and path.name not in _NOT_LOADED and (fault := _file_damage(path)):
                return f"{path.relative_to(checkpoint)} {fault}"
        return _missing(checkpoint)
    except OSError as error:
        return f"{Path(error.filename or checkpoint).name} can't be read: {error.strerror}"


def _state_damage(path: Path) -> str | None:
    return None if isinstance(json.loads(path.read_text(encoding="utf-8")), dict) else "holds no keys"


def _file_damage(path: Path) -> str | None:
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return "is cut off or no JSON"
    elif path.suffix == ".safetensors":
        return _safetensors_damage(path)
    elif path.suffix in _TORCH:
        try:
            zipfile.ZipFile(path).close()  # its table stands at the end of the file
        except zipfile.BadZipFile:
            return f"is cut off or no file of torch ({path.stat().st_size:,} bytes)"
    return None


def _safetensors_damage(path: Path) -> str | None:
    """The header says where the last tensor ends: that is where the file has to end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 0 < length <= min(size - 8, _MOST_HEADER):
            return f"is cut off or no file of safetensors ({size:,} bytes)"
        try:
            header = json.loads(file.read(length))
            end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has no header that can be read"
    whole = 8 + length + end
    return None if size == whole else f"is cut off ({size:,} of {whole:,} bytes)"


def _missing(checkpoint: Path) -> str | None:
    names = {path.name for path in checkpoint.iterdir()}
    if names == {"trainer_state.json"}:
        return None  # nothing of it is cut off; the trainer itself says what it lacks
    for index in names & {"model.safetensors.index.json", "pytorch_model.bin.index.json"}:
        shards = set(json.loads((checkpoint / index).read_text()).get("weight_map", {}).values())
        if lost := sorted(shards - names):
            return f"{lost[0]} is missing"
    deepspeed = sorted(name for name in names if name.startswith("global_step"))
    weights = ("model.safetensors", "pytorch_model.bin", "adapter_model.")
    if not deepspeed and not any(name.startswith(weights) for name in names):
        return f"{'adapter_model' if 'adapter_config.json' in names else 'model'}.safetensors is missing"
    random = {name for name in names if name.startswith("rng_state")}
    if not deepspeed:
        if not random and not names & {"optimizer.pt", "scheduler.pt"}:
            return None  # saved with save_only_model
        for name in ("optimizer.pt", "scheduler.pt"):
            if name not in names:
                return f"{name} is missing"
        return _missing_rank(random) if random else "rng_state.pth is missing"
    latest = checkpoint / "latest"
    tag = latest.read_text().strip() if latest.exists() else "latest"
    if tag not in deepspeed:
        return f"{tag} is missing"
    states = {path.name for path in (checkpoint / tag).iterdir()}
    for kind in ("model", "optim"):
        if not any(name.endswith(f"{kind}_states.pt") for name in states):
            return f"{tag}/*_{kind}_states.pt is missing"
    return _missing_rank(random | states)


def _missing_rank(names: set[str]) -> str | None:
    """A file that one rank lacks and another has."""
    kinds: dict[str, set[int]] = {}
    for name in names:
        if match := _OF_RANK.fullmatch(name):
            kinds.setdefault(f"{match[1]}*{match[3]}", set()).add(int(match[2]))
    ranks = set(range(max((rank for of_kind in kinds.values() for rank in of_kind), default=-1) + 1))
    for kind, present in sorted(kinds.items()):
        if lost := sorted(ranks - present):
            return f"{kind.replace('*', str(lost[0]))} is missing"
    return None


def _set_aside(path: Path) -> Path:
    aside, number = path.with_name(f"damaged-{path.name}"), 2
    while aside.exists():
        aside, number = path.with_name(f"damaged-{path.name}-{number}"), number + 1
    with suppress(FileNotFoundError):  # another process was first
        path.rename(aside)
    return aside


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that stands at `folder` when the block has ended, and not before: all of it or nothing."""
    part, old = folder.with_name(f"{folder.name}.part"), folder.with_name(f"{folder.name}.old.part")
    for left in (part, old):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
