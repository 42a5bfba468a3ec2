"""What each stage's result depends on, and whether a run folder was made with other settings."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

from rl.app.data_config import DEPENDS as DATA_DEPENDS

DEPENDS = {
    "data": DATA_DEPENDS,
    "sft": ["sft", "seed", "model.*", "protocol.*"],
    "rl": ["rl", "rewards", "seed", "model.*", "protocol.*", "rollout.*", "data.questions", "data.budget"],
    "eval": [
        "eval.*", "seed", "model.dtype", "model.attn_implementation", "protocol.*", "rollout.*", "data.eval",
        "data.budget", "rl.max_completion_length",
    ],
    "export": [],  # cheap, so it is always done again
}  # fmt: skip
"""Beside that of the stages before it. `rollout.*`: every key of the section, those of later versions too."""

_FREE = (
    # Where servers, files and caches are, and how fast work is done.
    "rollout.urls", "rollout.weights_dir", "eval.cache",
    *(f"rollout.settings.{key}" for key in (
        "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens", "enforce_eager",
        "batch_size", "swap_space", "disable_log_stats", "*timeout", "tries", "patience", "concurrency",
    )),
    # What is logged, kept and shown, and what changes memory only.
    *(f"{stage}.{key}" for stage in ("sft", "rl") for key in (
        "logging_*", "log_*", "save_*", "report_to", "run_name", "project", "trackio_*", "hub_*", "disable_tqdm",
        "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
        "dataloader_persistent_workers", "dataset_num_proc", "ddp_timeout", "gradient_checkpointing*",
        "max_tokens_per_microbatch", "num_completions_to_print", "torch_empty_cache_steps", "skip_memory_metrics",
        "include_tokens_per_second", "include_num_input_tokens_seen",
    )),
)  # fmt: skip


def settings_of(stage: str, whole: dict[str, Any]) -> dict[str, Any]:
    """The part of a whole config that the stage's own work depends on, as JSON holds it."""
    picked = {}
    for path in DEPENDS[stage]:
        *parents, last = path.split(".")
        node: Any = whole
        for key in parents:
            node = (node or {}).get(key)
        keys = (node or {}).keys() if last == "*" else [last]
        for key in keys:
            picked[".".join([*parents, key])] = (node or {}).get(key)
    data = whole["data"]
    if stage == "data" and data["traces"] and "eval" in data["decontaminate"]:
        picked["data.eval"] = data["eval"]  # their questions are kept out
    if stage == "rl":
        picked["start"] = "model.path" if whole["sft"] is None else "sft"
    return json.loads(json.dumps(picked))


def first_change(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first setting that differs and matters, with both values; None: the results would be the same.

    A key that `before` lacks at its first level is one that an older version did not write down.
    """
    kept = [key for key in ("sft", "rl") if (now.get(key) or {}).get("load_best_model_at_end")]
    for key, value in now.items():
        if key in before and (changed := _difference(key, before[key], value, kept)):
            return changed
    return None


def _difference(path: str, before: Any, now: Any, kept: list[str]) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            found = _difference(f"{path}.{key}", before.get(key), now.get(key), kept)
            if found:
                return found
        return None
    if before == now or (any(fnmatchcase(path, free) for free in _FREE) and not _picks_best(path, kept)):
        return None
    return f"{path} ({before!r} then, {now!r} now)"


def _picks_best(path: str, kept: list[str]) -> bool:
    """Which checkpoints there are decides which is the best."""
    return any(path.startswith(f"{stage}.save_") for stage in kept)
