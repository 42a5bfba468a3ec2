"""Finds which settings a stage's result depends on, and whether a run folder was made with others.

All settings count, including those of later versions, except the few that are named here.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import Any

_SAME_RESULT = (
    "name", "export.*",  # the export is cheap, so it is always made again
    # Locations of servers, files and caches, and settings of speed.
    "data.workers", "summarizer.url", "summarizer.api_key_env", "summarizer.concurrency", "summarizer.timeout",
    "summarizer.patience", "rollout.urls", "rollout.weights_dir", "eval.cache",
    *(f"rollout.settings.{key}" for key in (
        "gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_seqs", "max_num_batched_tokens", "enforce_eager",
        "batch_size", "swap_space", "disable_log_stats", "*timeout", "tries", "patience", "concurrency",
    )),
    # Settings of logs, saved files, display and publication, and settings that only change memory.
    "data.repo_id", "data.private", "data.license", "summarizer.price",
    *(f"{stage}.{key}" for stage in ("sft", "rl") for key in (
        "logging_*", "log_*", "save_*", "report_to", "run_name", "project", "trackio_*", "hub_*", "disable_tqdm",
        "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory",
        "dataloader_persistent_workers", "dataset_num_proc", "ddp_timeout", "gradient_checkpointing*",
        "max_tokens_per_microbatch", "num_completions_to_print", "torch_empty_cache_steps", "skip_memory_metrics",
        "include_tokens_per_second", "include_num_input_tokens_seen",
    )),
)  # fmt: skip

_RL_AND_LATER = ("rl", "rewards", "rollout.*", "eval.*", "data.questions")
_NOT_READ = {
    "data": (
        *_RL_AND_LATER, "sft", "protocol.max_rounds", "model.dtype", "model.half_adamw", "model.attn_implementation",
        "model.lora",
    ),
    "sft": _RL_AND_LATER,
    "rl": ("eval.*",),
    "eval": (),
    "export": ("*",),
}  # fmt: skip
"""By stage: what neither it nor a stage before it reads."""


def settings_of(stage: str, whole: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a config that the stage and those before it depend on, in JSON's types."""
    data, not_read = whole["data"], _NOT_READ[stage]
    if stage != "eval" and not (data.get("traces") and "eval" in data.get("decontaminate", ())):
        not_read += ("data.eval",)  # otherwise the data stage removes their questions
    flat: dict[str, Any] = {}
    if stage == "rl":
        flat["start"] = "model.path" if whole["sft"] is None else "sft"
    for name, section in whole.items():
        if isinstance(section, dict) and name not in ("sft", "rl"):  # these contain only the given fields
            flat |= {f"{name}.{key}": value for key, value in section.items()}
        else:
            flat[name] = section
    return json.loads(json.dumps({k: v for k, v in flat.items() if not _is_one_of(k, not_read)}))


def first_change(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Returns the first setting that differs and matters, with both values; None: the results would be the same.

    A top-level key that is missing in `before` was not recorded by an older version, and is skipped.
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
    if before == now or (_is_one_of(path, _SAME_RESULT) and not _picks_best(path, kept)):
        return None
    return f"{path} ({before!r} then, {now!r} now)"


def _picks_best(path: str, kept: list[str]) -> bool:
    """Returns whether the setting decides which checkpoints exist, and thus which one is the best."""
    return any(path.startswith(f"{stage}.save_") for stage in kept)


def _is_one_of(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
