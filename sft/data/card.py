"""Writes the card of the finished dataset and uploads it to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CARD = """---
license: {license}
task_categories: [text-generation]
tags: [sawtooth, inftythink, reasoning, chain-of-thought]
configs:
- config_name: rounds
  default: true
  data_files: rounds/*.parquet
- config_name: vanilla
  data_files: vanilla/*.parquet
---
# {name}

Long chains of thought, cut into rounds that are joined by summaries (InftyThink, arXiv 2503.06692; InftyThink+, arXiv
2602.06960). {kept} traces, {rounds} rounds; made by `sawtooth data` from `{source}`.

| configuration | a row is | columns |
|---|---|---|
| `rounds` | one round | `prompt`, `completion` (TRL's names); `question`, `history`, `trace`, `row`, `round`, \
`rounds`, `segment_tokens`, `summary_tokens`, `answer`, `budget` |
| `vanilla` | the same trace in one piece, for comparison | `prompt`, `completion`; `question`, `trace`, `row`, \
`tokens`, `answer`, `budget` |

```python
from datasets import load_dataset

rounds = load_dataset("{load}", "rounds", split="train")
```

Prompts are rendered with the chat template of `{model}`, the history after the generation prompt; segments have at
most {eta} of its tokens, summaries at most {gamma}. Completions do not contain the end token, which TRL's
`SFTTrainer` adds. For another model, render `question` and `history` again.

## How it was made
| | |
|---|---|
| source | `{source}` |
| traces kept / not used | {kept} / {unused} |
| answers verified | {verified} |
| no question overlaps | {sets} |
| summarizer | {summarizer} |
| rounds of a trace | {rounds_per_trace} |
| tokens of a segment, median / max | {segments} |

| why traces were not used | number |
|---|---|
{reasons}
"""


def write_card(folder: Path, report: dict[str, Any], **facts: Any) -> None:
    """Writes `README.md` of the dataset.

    Args:
        folder: `data/dataset`.
        facts: name, source, model, eta, gamma, summarizer, license, load (the path or id to load it from).
    """
    segments = report["tokens"]["segment"]
    (folder / "README.md").write_text(
        _CARD.format(
            **facts,
            kept=report["kept"],
            rounds=report["rounds"],
            unused=report["traces"] - report["kept"],
            verified=f"{report['kept'] - report['not_verified']} of {report['kept']}",
            sets=", ".join(report["decontaminated"]) or "none",
            rounds_per_trace=", ".join(f"{n}: {count}" for n, count in report["rounds_per_trace"].items()),
            segments=f"{segments['median']} / {segments['max']}" if segments else "none",
            reasons="\n".join(f"| {reason} | {count} |" for reason, count in report["dropped"].items()) or "| | 0 |",
        )
    )


def push_data(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads the dataset to the Hub and returns its address. Repeated, it sends only the missing files."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, commit_message="Data by Sawtooth")
    return str(url)
