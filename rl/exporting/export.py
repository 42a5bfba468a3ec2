"""Export a folder that plain transformers and plain vLLM load: weights, protocol, rounds behind `generate`, card.

checkpoint -> whole model -> generation config -> safetensors, tokenizer, custom_generate -> card
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rollout import plain_text
from rollout.errors import InputError
from rollout.protocol import RoundProtocol
from sft.checkpoints import whole_folder

_CUSTOM_GENERATE = Path(__file__).parent / "custom_generate"
_PLAIN_TEXT = Path(plain_text.__file__)  # generate.py encodes summaries with it, as the rollouts do
SHARD_SIZE = "5GB"


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
    run: dict[str, Any] | None = None,
    protocol: RoundProtocol | None = None,
    base: str | None = None,
    dtype: str = "auto",
    shard_size: str = SHARD_SIZE,
) -> Path:
    """Write a checkpoint's model to `folder`, which appears whole or not at all and replaces what was there.

    Args:
        model_folder: a plain model, a LoRA adapter, or a trainer's checkpoint (`rl.exporting.checkpoint`).
        summary: rows of `eval/summary.json`; empty: not evaluated.
        eval_settings: the known content of `eval/sampling.json`; it becomes the generation config.
        question: an example for the card.
        run: the run's resolved config, for the card.
        protocol: None: the checkpoint's own.
        base: base model of an adapter; None: the one that it names.
        dtype: of the exported weights; "auto" keeps the checkpoint's.
        shard_size: maximum size of one weights file, such as 5GB.

    Raises:
        InputError: it is not a checkpoint, or has no protocol.
    """
    from rl.exporting.card import write_card
    from rl.exporting.checkpoint import load_checkpoint
    from rl.exporting.generation import set_generation

    protocol = protocol or load_protocol(model_folder)
    model, tokenizer = load_checkpoint(model_folder, base, dtype)
    set_generation(model, tokenizer, protocol, eval_settings)
    with whole_folder(folder) as part:
        model.save_pretrained(part, max_shard_size=shard_size)
        tokenizer.save_pretrained(part)
        protocol.save(part)
        shutil.copytree(_CUSTOM_GENERATE, part / "custom_generate", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(_PLAIN_TEXT, part / "custom_generate" / _PLAIN_TEXT.name)
        for picture in pictures:
            shutil.copy(picture, part / picture.name)
        if summary:
            (part / "eval_summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        write_card(
            part, name=name, repo_id=repo_id, summary=summary, eval_settings=eval_settings, question=question,
            pictures=list(pictures), run=run,
        )  # fmt: skip
    return folder


def load_protocol(folder: Path) -> RoundProtocol:
    """Load the protocol of a checkpoint's folder.

    Raises:
        InputError: there is none; the message says how to give one.
    """
    if folder.is_dir() and not (folder / "protocol.json").exists():
        raise InputError(
            f"{folder} has no protocol.json: give the protocol of its rounds, as --protocol inftythink "
            "segment_tokens=6000 summary_tokens=1000 max_rounds=5, or --protocol vanilla"
        )
    return RoundProtocol.load(folder)
