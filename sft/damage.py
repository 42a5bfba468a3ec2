"""Finds damage in a checkpoint's files by sizes, tables, and checksums if there are any. Does not load them."""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SUMS = "sums.json"
"""Checksums of a checkpoint's weights. The other large files, torch's, contain their own."""
STATE = "trainer_state.json"
COUNTS = "counts.json"
_MOST_HEADER = 100 << 20  # bytes of a safetensors header; the format's own limit
_TORCH = (".pt", ".pth", ".bin")
_OF_RANK = re.compile(
    r"(rng_state_|generation-|(?:bf16_)?zero_pp_rank_)(\d+)(\.pth?|_mp_rank_00_(?:model|optim)_states\.pt)"
)
_NOT_LOADED = ("training_args.bin",)  # a resumed run creates its own
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.")
_OF_MODEL = ("config.json", "protocol.json", "tokenizer_config.json")
_SMALL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.json", *_INDEXES,
)  # fmt: skip
_AT_ONCE = 8  # files


def find_damage(checkpoint: Path) -> str | None:
    """Returns in a few words why a checkpoint can't be resumed from; None: its files show no damage.

    Knows the files of transformers' trainer (whole and sharded weights, an adapter, optimizer, scheduler, random
    state) and DeepSpeed's. Reads every byte of them once.
    """
    looks = (_damage_of_files, _state_damage, _missing)
    return _guarded(checkpoint, lambda: next((fault for look in looks if (fault := look(checkpoint))), None))


def model_damage(folder: Path) -> str | None:
    """Returns in a few words why a model folder saved by a stage can't be loaded, or None."""

    def look() -> str | None:
        if not folder.is_dir():
            return "is missing"
        names = {path.name for path in folder.iterdir() if path.is_file()}
        lost = [f"{name} is missing" for name in _OF_MODEL if name not in names]
        return _damage_of_files(folder) or _missing_weights(folder, names) or next(iter(lost), None)

    return _guarded(folder, look)


def damage_at_sight(folder: Path) -> str | None:
    """Checks the small files and the tables of any model folder, complete or not, from any source."""

    def look() -> str | None:
        named = [path for path in map(folder.joinpath, _SMALL) if path.exists()]
        paths = [*named, *sorted(folder.glob("*.safetensors"))]
        names = {path.name for path in folder.iterdir()}
        fault = _first_fault(folder, paths, _file_damage)
        return fault or (_missing_weights(folder, names) if names.intersection(_INDEXES) else None)

    return _guarded(folder, look)


def half_written(checkpoint: Path) -> str | None:
    """Returns the damage of the file that is written last; None if it can be read."""
    return _guarded(checkpoint, lambda: _json_damage(checkpoint / STATE))


def write_sums(checkpoint: Path) -> None:
    """Writes the checksums of a checkpoint's weights next to them, because safetensors has none."""
    sums = {path.name: _sum(path) for path in sorted(checkpoint.glob("*.safetensors"))}
    part = checkpoint / f"{SUMS}.part"
    part.write_text(json.dumps(sums))
    part.replace(checkpoint / SUMS)


def _guarded(folder: Path, look: Callable[[], str | None]) -> str | None:
    try:
        return look()
    except OSError as error:
        return f"{Path(error.filename or folder).name} can't be read: {error.strerror}"


def _damage_of_files(folder: Path) -> str | None:
    """Returns the first damaged file's name and its fault. Checks sizes and tables first, because bytes take time."""
    paths = [p for p in sorted(folder.rglob("*")) if p.name not in _NOT_LOADED and (p.is_symlink() or p.is_file())]
    if lost := [path for path in paths if not path.exists()]:
        return f"{lost[0].relative_to(folder)} is a broken link"
    if fault := _first_fault(folder, paths, _file_damage):
        return fault
    sums = json.loads((folder / SUMS).read_text()) if (folder / SUMS).exists() else {}
    return _first_fault(folder, paths, lambda path: _byte_damage(path, sums.get(path.name)))


def _first_fault(folder: Path, paths: list[Path], look: Callable[[Path], str | None]) -> str | None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # zlib and reading let other threads run
        faults = zip(paths, pool.map(look, paths), strict=True)
        return next((f"{path.relative_to(folder)} {fault}" for path, fault in faults if fault), None)


def _file_damage(path: Path) -> str | None:
    if path.suffix == ".json":
        return _json_damage(path)
    if path.suffix == ".safetensors":
        return _safetensors_damage(path)
    if path.suffix in _TORCH:
        try:
            zipfile.ZipFile(path).close()  # its table is at the end of the file
        except zipfile.BadZipFile:
            return f"is truncated or not a torch file ({path.stat().st_size:,} bytes)"
    return None


def _byte_damage(path: Path, expected: int | None) -> str | None:
    if path.suffix in _TORCH:
        with zipfile.ZipFile(path) as file:
            try:
                wrong = file.testzip() is not None
            except (zipfile.BadZipFile, NotImplementedError, zlib.error):
                wrong = True
    else:
        wrong = expected is not None and _sum(path) != expected
    return "fails its checksum" if wrong else None


def _sum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return value


def _json_damage(path: Path) -> str | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return "is truncated or not JSON"
    return None if isinstance(found, dict) or path.name not in (STATE, SUMS) else "is not a JSON object"


def _safetensors_damage(path: Path) -> str | None:
    """Compares the file's size with the end of its last tensor, which the header gives."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 0 < length <= min(size - 8, _MOST_HEADER):
            return f"is truncated or not a safetensors file ({size:,} bytes)"
        try:
            header = json.loads(file.read(length))
            end = max((t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has an unreadable header"
    whole = 8 + length + end
    return None if size == whole else f"is truncated ({size:,} of {whole:,} bytes)"


def _state_damage(checkpoint: Path) -> str | None:
    """Compares the state's step with the folder's name: a renamed folder would resume at the wrong step."""
    step, number = json.loads((checkpoint / STATE).read_text()).get("global_step"), checkpoint.name.rpartition("-")[2]
    return None if str(step) == number else f"{STATE} is of step {step}"


def _missing(checkpoint: Path) -> str | None:
    names = {path.name for path in checkpoint.iterdir() if path.is_file()}
    deepspeed = sorted(path.name for path in checkpoint.glob("global_step*") if path.is_dir())
    random = {name for name in names if name.startswith("rng_state")}
    if not deepspeed:
        if lost := _missing_weights(checkpoint, names):
            return lost
        for name in ("optimizer.pt", "scheduler.pt", COUNTS):
            if name not in names:
                return f"{name} is missing"
        return _missing_rank(random) if random else "rng_state.pth is missing"
    latest = checkpoint / "latest"
    tag = latest.read_text().strip() if latest.is_file() else "latest"
    if tag not in deepspeed:
        return f"{tag} is missing"
    states = {path.name for path in (checkpoint / tag).iterdir() if path.is_file()}
    for kind in ("model", "optim"):
        if not any(name.endswith(f"{kind}_states.pt") for name in states):
            return f"{tag}/*_{kind}_states.pt is missing"
    return _missing_rank(random | states)


def _missing_weights(folder: Path, names: Iterable[str]) -> str | None:
    names = set(names)
    for index in names.intersection(_INDEXES):
        found: Any = json.loads((folder / index).read_text())
        shards = found.get("weight_map") if isinstance(found, dict) else None
        if not isinstance(shards, dict) or not shards:
            return f"{index} lists no weights"
        if lost := sorted(set(map(str, shards.values())) - names):
            return f"{lost[0]} is missing"
    if not any(name.startswith(_WEIGHTS) for name in names):
        return f"{'adapter_model' if 'adapter_config.json' in names else 'model'}.safetensors is missing"
    return None


def _missing_rank(names: set[str]) -> str | None:
    """Reports a per-rank file that some ranks have and another does not."""
    kinds: dict[str, set[int]] = {}
    for name in names:
        if match := _OF_RANK.fullmatch(name):
            kinds.setdefault(f"{match[1]}*{match[3]}", set()).add(int(match[2]))
    ranks = set(range(max((rank for of_kind in kinds.values() for rank in of_kind), default=-1) + 1))
    for kind, present in sorted(kinds.items()):
        if lost := sorted(ranks - present):
            return f"{kind.replace('*', str(lost[0]))} is missing"
    return None
