"""A folder that plain transformers and plain vLLM load, with protocol and model card; and its way to the Hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rl.evaluate import format_table
from rollout.protocol import RoundProtocol

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [sawtooth, grpo, inftythink]
---
# {name}

A language model that reasons in rounds: each round thinks, writes a summary of it, and the next round sees the
question and that summary only. Trained with Sawtooth: SFT on reconstructed multi-round data, then GRPO over whole
episodes (InftyThink+, arXiv 2602.06960).

## Results
Measured by `sawtooth eval`: {samples} samples a question, temperature {temperature}, top-p {top_p}; at most
{max_rounds} rounds of {max_tokens} tokens.

{table}

{pictures}

## How to run the rounds
The settings are in `protocol.json`. One round is plain generation; the loop around it:

```python
import re
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{load}")
model = AutoModelForCausalLM.from_pretrained("{load}")
question = {question!r}

prompt = tokenizer.apply_chat_template(
    [{{"role": "user", "content": question}}], tokenize=False, add_generation_prompt=True
)
history = ""
for _ in range({max_rounds}):
    inputs = tokenizer(prompt + history, add_special_tokens=False, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens={max_tokens}, do_sample=False)
    text = tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=False)
    text = text.removesuffix(tokenizer.eos_token)
    summary = re.search(r"</think>\\s*<summary>(.*)</summary>\\s*$", text, re.DOTALL)
    if summary is None:
        break
    history = f"<history>\\n{{summary.group(1).strip()}}\\n</history>"
print(text.rpartition("</think>")[2])
```
"""


def export_model(
    model_folder: Path,
    folder: Path,
    *,
    name: str,
    summary: list[dict[str, Any]],
    eval_settings: dict[str, Any],
    question: str,
    pictures: list[Path] = (),
    repo_id: str | None = None,
) -> Path:
    """Copies the final model to `folder` with its tokenizer, protocol and a card that holds the measured numbers."""
    protocol = RoundProtocol.load(model_folder)
    partial = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model_folder, partial)
    for picture in pictures:
        shutil.copy(picture, partial / picture.name)
    (partial / "eval_summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    card = _CARD.format(
        name=name,
        load=repo_id or ".",
        table=format_table(summary) if summary else "Not evaluated.",
        pictures="\n".join(f"![{p.stem}]({p.name})" for p in pictures),
        question=question,
        **{"max_rounds": protocol.max_rounds, **eval_settings},
    )
    (partial / "README.md").write_text(card)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def push_model(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads the exported folder to the Hub and returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Export by Sawtooth")
    return str(url)
