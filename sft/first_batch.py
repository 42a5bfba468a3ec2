"""Shows the first SFT batch, decoded, with masked and trained tokens marked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from rollout.terminal import clip_middle

_ROWS, _CHARACTERS = 2, 600  # shown; the file has all


def show_first_batch(inputs: dict[str, torch.Tensor], tokenizer: Any, path: Path) -> None:
    """Prints the first rows of a batch and writes all of them to `path`."""
    rows = list(_rows(inputs))
    tokens = sum(len(ids) for ids, _ in rows)
    trained = sum(label != -100 for _, labels in rows for label in labels)
    head = f"sft: first batch: {len(rows)} rows, {tokens} tokens, {trained} of them trained on ({path})"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *(_text(i, row, tokenizer, None, False) for i, row in enumerate(rows))]) + "\n")
    color = sys.stdout.isatty()
    shown = [_text(i, row, tokenizer, _CHARACTERS, color) for i, row in enumerate(rows[:_ROWS])]
    tqdm.write("\n".join([head, *shown]))  # above the trainer's bar, not in it


def _rows(inputs: dict[str, torch.Tensor]) -> Iterator[tuple[list[int], list[int]]]:
    """Yields (ids, labels) of each row, without padding; packed rows are separated."""
    masks = inputs.get("attention_mask")
    positions = inputs.get("position_ids")
    for row, (ids, labels) in enumerate(zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True)):
        keep = masks[row].tolist() if masks is not None and masks.dim() == 2 else [1] * len(ids)
        starts = [0]
        if positions is not None:
            starts = [i for i, position in enumerate(positions[row].tolist()) if position == 0] or [0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            part = [i for i in range(start, end) if keep[i]]
            if len(part) > 1 or labels[start] != -100:  # a lone masked token is padding
                yield [ids[i] for i in part], [labels[i] for i in part]


def _text(number: int, row: tuple[list[int], list[int]], tokenizer: Any, most: int | None, color: bool) -> str:
    lines = [f"row {number + 1}"]
    for masked, group in groupby(zip(*row, strict=True), key=lambda pair: pair[1] == -100):
        text = tokenizer.decode([token for token, _ in group], skip_special_tokens=False)
        text = text if most is None else clip_middle(text, 2 * most)
        name = "masked " if masked else "trained"
        paint = ("\033[2m", "\033[0m") if masked else ("\033[32m", "\033[0m")
        for line in text.split("\n"):
            lines.append(f"  {name} | " + (f"{paint[0]}{line}{paint[1]}" if color else line))
    return "\n".join(lines)
