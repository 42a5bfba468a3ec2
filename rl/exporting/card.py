"""The model card: front matter in the Hub's own form (`model-index`), and a text that says how it was made and is run.

summary, run, protocol -> ModelCardData -> README.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.exporting import card_text, snippets
from rl.exporting.run_facts import base_model, hub_id, licence
from rollout.protocol import RoundProtocol
from rollout.types import Question

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_EXAMPLE = "What is 17 times 23?"


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
    """Writes `README.md` into a folder that holds all the rest of an export. Returns its path.

    Args:
        name: of the model, as the card's title.
        repo_id: where the card's code loads it from; None: the folder itself.
        summary: rows of `eval/summary.json`; empty: not evaluated.
        eval_settings: `eval/sampling.json`: samples, temperature, top_p, max_tokens, max_rounds.
        question: what the card's code asks.
        pictures: files in the folder; only their names are used.
        run: of `run_facts`; None: nothing is known of the training.
    """
    protocol, settings = RoundProtocol.load(folder), eval_settings or {}
    data = _front_matter(name, protocol, summary, settings, run, repo_id)
    parts = [
        card_text.head(name, protocol, run),
        card_text.results(summary, settings, protocol, run),
        "\n".join(f"![{Path(picture).stem}]({Path(picture).name})" for picture in pictures),
        _how_to_run(folder, repo_id or ".", question or _EXAMPLE, protocol, run),
        card_text.training(protocol, run),
        card_text.data(run),
        card_text.licence_and_limits(protocol, summary, data.license, run),
        card_text.citation(protocol),
    ]
    path = folder / "README.md"
    path.write_text(f"---\n{data.to_yaml()}\n---\n" + "\n\n".join(part for part in parts if part) + "\n", "utf-8")
    return path


def _front_matter(
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
            "license": licence(config),
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


def own_rows(summary: Sequence[dict[str, Any]], run: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of the exported model, that of the last stage, wherever they stand. The others are there to compare with."""
    last = [stage for stage in ("sft", "rl") if stage in (run["steps"] if run else ())][-1:] or ["rl"]
    return [row for row in summary if row["stage"] == last[0]]


def _eval_results(
    rows: list[dict[str, Any]],
    protocol: RoundProtocol,
    settings: dict[str, Any],
    config: dict[str, Any] | None,
    repo_id: str | None,
) -> list[EvalResult]:
    """Accuracy, pass@k and maj@k in percent, each with its 95% interval in name and arguments.

    A data set is named by its Hub id where it has one, else by what the run calls it.
    """
    from huggingface_hub import EvalResult

    results = []
    source = f"https://huggingface.co/{repo_id}/blob/main/eval_summary.json" if repo_id else None
    for row in rows:
        named = (config["data"]["eval"] if config else {}).get(row["dataset"], row["dataset"])
        place = named if isinstance(named, dict) else {}
        for kind, metric, value, interval in _metrics(row):
            low, high = (round(100 * bound, 2) for bound in interval)
            label = row.get("label", row["protocol"])
            own = label == protocol.name
            bounds = () if own else ("max_tokens", "max_rounds")  # under a switch they may be others
            ran = "" if own else f", {label}"
            results.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Text Generation",
                    dataset_type=hub_id(named) or row["dataset"],
                    dataset_name=row["dataset"],
                    dataset_config=place.get("name"),
                    dataset_split=place.get("split"),
                    metric_type=kind,
                    metric_value=round(100 * value, 2),
                    metric_name=f"{metric} (%, 95% interval {low} to {high}){ran}",
                    metric_args={
                        "samples": row["samples"],
                        "ci95": [low, high],
                        **{k: v for k, v in settings.items() if k not in bounds},
                    },
                    source_name="sawtooth eval" if source else None,
                    source_url=source,
                )
            )
    return results


def _metrics(row: dict[str, Any]) -> list[tuple[str, str, float, list[float]]]:
    """(kind, name, value, interval) of each number of a row."""
    found = [("accuracy", f"avg@{row['samples']}", row["accuracy"], row["accuracy_ci95"])]
    for kind in ("pass", "maj"):
        for k, at in row.get(f"{kind}_at_k", {}).items():
            found.append((f"{kind}@{k}", f"{kind}@{k}", at["value"], at["ci95"]))
    return found


def _how_to_run(
    folder: Path, path: str, question: Question, protocol: RoundProtocol, run: dict[str, Any] | None
) -> str:
    def read(name: str) -> dict[str, Any]:
        return json.loads((folder / name).read_text()) if (folder / name).exists() else {}

    template = folder / "chat_template.jinja"
    vllm = snippets.with_vllm(
        path,
        question,
        protocol,
        max_tokens=read("generation_config.json").get("max_new_tokens"),
        dtype=read("config.json").get("dtype"),
        max_model_len=run["config"]["rollout"]["max_model_len"] if run else None,
        opens_thinking=template.exists() and "<think>" in template.read_text(encoding="utf-8"),
    )
    return card_text.how_to_run(
        snippets.with_transformers(path, question, protocol), vllm, snippets.with_server(path, question)
    )
