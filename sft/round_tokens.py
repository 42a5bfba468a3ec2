"""Measures whether the model learns the round tokens: their probability during SFT, and RL's check of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rollout.errors import InputError
from rollout.trainable_rows import gathered

WRITTEN = {"<summary>": "summary", "</summary>": "end_summary"}
"""Round tokens that a model writes itself -> their names in metrics. `<history>` occurs only in prompts."""

LEARNED = 0.1  # SFT warns below this probability; a model that only knows how often rounds end in a summary exceeds it
WRITES = 0.01  # RL refuses below it: hardly any episode would have a second round
RECORD = "round_tokens.json"
_METRIC = "sft/round_tokens/"
_ALIKE = 1e-3  # rows are the same if their distance is below this share of the mean row norm


class RoundTokenMeter:
    """Mean probability of each round token at the places where the training rows have it, on all ranks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        known = tokenizer.get_vocab()
        self.ids = {name: known[token] for token, name in WRITTEN.items() if token in known}
        self._sums: torch.Tensor | None = None

    def add(self, inputs: dict[str, Any], log_probs: torch.Tensor) -> None:
        """Adds a batch. `log_probs` are those of its labels after the first, [B, T - 1]."""
        labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"][:, 1:]
        probabilities = log_probs.detach().double().exp()
        places = [(labels == token).to(probabilities.device) for token in self.ids.values()]
        sums = [torch.stack([(probabilities * here).sum(), here.sum().double()]) for here in places]
        if sums:
            self._sums = torch.stack(sums) + (0 if self._sums is None else self._sums)  # [tokens, 2]

    def totals(self, accelerator: Any) -> list[list[float]]:
        """Returns [tokens, 2]: probability sum and count since the last log, over all ranks. Every rank calls it."""
        if not self.ids:
            return []
        sums = self._sums
        if sums is None:
            sums = torch.zeros(len(self.ids), 2, dtype=torch.float64, device=accelerator.device)
        return accelerator.reduce(sums, reduction="sum").tolist()

    def take(self, totals: list[list[float]], accelerator: Any) -> None:
        """Resumes from a checkpoint's totals, which the main rank counts for all."""
        if totals and accelerator.is_main_process:
            self._sums = torch.tensor(totals, dtype=torch.float64, device=accelerator.device)

    def flush(self, accelerator: Any) -> dict[str, float]:
        """Returns the means since the last call, of tokens that occurred. Every rank calls it."""
        totals, self._sums = self.totals(accelerator), None
        return {_METRIC + name: p / n for name, (p, n) in zip(self.ids, totals, strict=True) if n}


def last_probabilities(history: list[dict[str, float]]) -> dict[str, float]:
    """Returns round token -> its last probability in a trainer's `log_history`."""
    last = {key: value for row in history for key, value in row.items()}
    return {token: last[_METRIC + name] for token, name in WRITTEN.items() if _METRIC + name in last}


def record_probabilities(found: dict[str, float], folder: Path) -> None:
    """Writes the probabilities into a checkpoint's folder, and warns of tokens that were not learned."""
    if found:
        (folder / RECORD).write_text(json.dumps(found, indent=2) + "\n")
    for token, probability in found.items():
        if probability < LEARNED:
            refused = ", and RL will refuse it" if probability < WRITES else ""
            print(
                f"sft: warning: the model has not learned to write {token}: at its positions in the data, its "
                f"probability is {probability:.2g}, below {LEARNED}{refused}; train longer or raise sft.learning_rate"
            )


def refuse_unlearned(folder: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that a checkpoint can write the tokens that end a round in a summary. Every rank calls it.

    Raises:
        InputError: a token is not in the vocabulary, its row was never trained, or SFT recorded it as not learned.
    """
    known = tokenizer.get_vocab()
    for token in WRITTEN:
        if token not in known:
            raise InputError(f"{folder} can't write {token}: it is not in its vocabulary; train with SFT first")
    path = Path(folder) / RECORD
    recorded = json.loads(path.read_text()) if path.exists() else {}
    for token, probability in recorded.items():
        if probability < WRITES:
            raise InputError(
                f"{folder} can't write {token}: its probability at the end of SFT was {probability:.2g}, below "
                f"{WRITES}; train SFT longer or with a higher sft.learning_rate"
            )
    if _are_alike(model, [known[token] for token in WRITTEN]):
        raise InputError(
            f"{folder} can't tell {' and '.join(WRITTEN)} apart: their rows in the output head are the same, so they "
            "were never trained; train it with SFT first"
        )


def _are_alike(model: PreTrainedModel, ids: list[int]) -> bool:
    head = model.get_output_embeddings()
    if head is None:
        return False
    with gathered([head.weight]):
        first, second = head.weight.detach()[ids].float()
        length = head.weight.detach()[:1000].float().norm(dim=1).mean()
    return float((first - second).norm()) <= _ALIKE * float(length)
