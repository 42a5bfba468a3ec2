"""Write the model card: the Hub's metadata (`model-index`) and `templates/model_card.md.jinja`.

summary, run, protocol -> ModelCardData, the template's variables -> README.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.exporting.run_facts import base_model, hub_id, license_of, shown
from rollout.protocol import RoundProtocol
from rollout.types import Question

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"
_EXAMPLE = "What is 17 times 23?"
_REWARD_TEXTS = ("combine", "gate", "name")


def write_card(
    folder: Path,
    *,
    name: str,
    repo_id: str | None = None,
    summary: Sequence[dict[str, Any]] = (),
    eval_settings: dict[str, Any] | None = None,
    question: Question | None = None,
    pictures: Sequence[Path] = (),
    run: dict[str, Any] | None = None,
) -> Path:
    """Write `README.md` into a folder that contains the rest of an export. Returns its path.

    Args:
        name: of the model, as the card's title.
        repo_id: that the card's code loads the model from; None: the folder itself.
        summary: rows of `eval/summary.json`; empty: not evaluated.
        eval_settings: `eval/sampling.json`: samples, temperature, top_p, max_tokens, max_rounds.
        question: asked by the card's code.
        pictures: files in the folder; only their names are used.
        run: from `run_facts`; None: nothing is known about the training.
    """
    from huggingface_hub import ModelCard

    protocol, settings = RoundProtocol.load(folder), eval_settings or {}
    data = _metadata(name, protocol, summary, settings, run, repo_id)
    variables = _code_variables(folder, repo_id or ".", question or _EXAMPLE, protocol, run)
    variables |= _text_variables(summary, settings, protocol, run)
    card = ModelCard.from_template(
        data, template_str=TEMPLATE.read_text("utf-8"), name=name, protocol=protocol, pictures=pictures, run=run,
        license=data.license, shown=shown, repr=repr, **variables,
    )  # fmt: skip
    path = folder / "README.md"
    path.write_text(card.content.rstrip() + "\n", "utf-8")
    return path


def _text_variables(
    summary: Sequence[dict[str, Any]], settings: dict[str, Any], protocol: RoundProtocol, run: dict[str, Any] | None
) -> dict[str, Any]:
    from rl.evaluation.evaluate import format_table

    config = run["config"] if run else None
    return {
        "base": base_model(config) if config else None,
        "table": format_table(summary) if summary else "",
        "measured": {"max_rounds": protocol.max_rounds, **({"samples": summary[-1]["samples"]} if summary else {})}
        | settings,
        "own_rows": own_rows(summary, run),
        "rewards": [_reward(entry) for entry in config["rewards"]] if config else [],
        "trained": [config[stage] or {} for stage in run["steps"]] if run else [],
    }


def _code_variables(
    folder: Path, path: str, question: Question, protocol: RoundProtocol, run: dict[str, Any] | None
) -> dict[str, Any]:
    """Return variables of the card's code; `messages` is None if the model takes plain text."""

    def read(name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text()) if (folder / name).exists() else {}

    template = folder / "chat_template.jinja"
    plain = isinstance(question, str)
    messages = [{"role": "user", "content": question}] if plain else question
    request = json.dumps({"model": path, "messages": messages}, ensure_ascii=False)
    return {
        "path": path,
        "question": question,
        "messages": messages if protocol.chat or not plain else None,
        "request": request.replace("'", "'\\''"),  # for use within the shell's single quotes
        "max_tokens": read("generation_config.json").get("max_new_tokens"),
        "dtype": read("config.json").get("dtype"),  # float32 must be given: vLLM would compute in 16 bits
        "max_model_len": run["config"]["rollout"]["max_model_len"] if run else None,
        # If the template writes `<think>` itself, no history may follow it.
        "opens_thinking": template.exists() and "<think>" in template.read_text("utf-8"),
    }


def _reward(entry: dict[str, Any]) -> str:
    """Format a reward with its numbers and schedules. A plugin's other text may contain paths, URLs and keys."""
    settings = {
        key: value for key, value in entry.items()
        if key in _REWARD_TEXTS or isinstance(value, (int, float)) or (isinstance(value, dict) and "schedule" in value)
    }  # fmt: skip
    text = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"`{shown(entry['fn'])}`" + (f" ({text})" if text else "")


def own_rows(summary: Sequence[dict[str, Any]], run: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return rows of the exported model, the last stage's; the others are for comparison."""
    last = [stage for stage in ("sft", "rl") if stage in (run["steps"] if run else ())][-1:] or ["rl"]
    return [row for row in summary if row["stage"] == last[0]]


def _metadata(
    name: str,
    protocol: RoundProtocol,
    summary: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    run: dict[str, Any] | None,
    repo_id: str | None,
) -> ModelCardData:
    from huggingface_hub import ModelCardData

    config = run["config"] if run else None
    facts: dict[str, Any] = {}
    if config:
        sources = [config["data"][key] for key in ("traces", "questions", "prepared") if config["data"].get(key)]
        named = [*map(hub_id, sources), config["data"].get("repo_id")]
        facts = {
            "license": license_of(config),
            "base_model": base_model(config),
            "datasets": list(dict.fromkeys(filter(None, named))) or None,
            "language": config["export"].get("language"),
        }
    trained = ["grpo"] if run and run["steps"].get("rl") else []
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["sawtooth", protocol.name, *trained, "reasoning", "custom_generate"],
        model_name=name,
        eval_results=_eval_results(own_rows(summary, run), protocol, settings, config, repo_id) or None,
        **facts,
    )


def _eval_results(
    rows: list[dict[str, Any]],
    protocol: RoundProtocol,
    settings: dict[str, Any],
    config: dict[str, Any] | None,
    repo_id: str | None,
) -> list[EvalResult]:
    """Return accuracy, pass@k and maj@k in percent, each with its 95% interval in name and arguments.

    A data set is identified by its Hub id if it has one, else by its name in the run's config.
    """
    from huggingface_hub import EvalResult

    results = []
    source = f"https://huggingface.co/{repo_id}/blob/main/eval_summary.json" if repo_id else None
    for row in rows:
        dataset = (config["data"]["eval"] if config else {}).get(row["dataset"], row["dataset"])
        place = dataset if isinstance(dataset, dict) else {}
        label = row.get("label", row["protocol"])
        switched = label != protocol.name
        bounds = ("max_tokens", "max_rounds") if switched else ()  # a variant may have other bounds
        arguments = {"samples": row["samples"], **{k: v for k, v in settings.items() if k not in bounds}}
        for kind, metric, value, interval in _metrics(row):
            low, high = (round(100 * bound, 2) for bound in interval)
            results.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Text Generation",
                    dataset_type=hub_id(dataset) or row["dataset"],
                    dataset_name=row["dataset"],
                    dataset_config=place.get("name"),
                    dataset_split=place.get("split"),
                    metric_type=kind,
                    metric_value=round(100 * value, 2),
                    metric_name=f"{metric} (%, 95% interval {low} to {high}){f', {label}' if switched else ''}",
                    metric_args=arguments | {"ci95": [low, high]},
                    source_name="sawtooth eval" if source else None,
                    source_url=source,
                )
            )
    return results


def _metrics(row: dict[str, Any]) -> list[tuple[str, str, float, list[float]]]:
    """Return (kind, name, value, interval) for each metric of a row."""
    found = [("accuracy", f"avg@{row['samples']}", row["accuracy"], row["accuracy_ci95"])]
    for kind in ("pass", "maj"):
        for k, at in row.get(f"{kind}_at_k", {}).items():
            found.append((f"{kind}@{k}", f"{kind}@{k}", at["value"], at["ci95"]))
    return found
