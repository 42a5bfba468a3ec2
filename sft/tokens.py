"""Tokenizes rounds to disk: prompts use the same code as the rollouts, and the loss is on the outputs only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from rollout.endings import end_ids, turn_end
from rollout.errors import InputError
from rollout.plain_text import output_ids
from rollout.protocol import RoundProtocol
from rollout.store import read_question
from sft.reconstruct import Round

_FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})


def read_rounds(folder: Path, protocol: RoundProtocol) -> Iterator[Round]:
    """Yields rounds of a finished data stage; whole traces for protocols with one round or with chunks.

    Args:
        folder: `data/`.
    """
    import pyarrow.parquet as pq

    columns = ["question", "history", "completion"] if _table(protocol) == "rounds" else ["question", "completion"]
    for path in _files(folder, protocol):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                # The data stage's template may have opened the thinking; `encode_round` applies this model's.
                completion = "<think>\n" + row["completion"].removeprefix("<think>\n")
                yield Round(read_question(row["question"]), row.get("history"), completion)


def _table(protocol: RoundProtocol) -> str:
    return "rounds" if protocol.name == "inftythink" else "vanilla"


def _files(folder: Path, protocol: RoundProtocol) -> list[Path]:
    paths = sorted((folder / "dataset" / _table(protocol)).glob("*.parquet"))
    if not paths:
        raise InputError(f"{folder / 'dataset' / _table(protocol)} contains no data: run `sawtooth data` first")
    return paths


def encode_round(item: Round, protocol: RoundProtocol, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Returns `input_ids` and `labels` (-100 on the prompt) of one row, including the token that ends a turn."""
    prompt = protocol.render_prompt(tokenizer, item.question, item.history)
    completion = protocol.output_after(protocol.question_text(tokenizer, item.question), item.completion)
    output = [*output_ids(tokenizer, completion, end_ids(tokenizer)), turn_end(tokenizer, protocol.chat)]
    return {"input_ids": prompt + output, "labels": [-100] * len(prompt) + output}


def tokenize_rounds(
    rounds: Iterable[Round],
    protocol: RoundProtocol,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    cache: Path | None = None,
    fingerprint: str | None = None,
) -> tuple[Dataset, int]:
    """Returns rows of `input_ids` and `labels`, and the number of rows omitted because they exceed `max_length`.

    Args:
        cache: a folder for the rows; None: in memory.
        fingerprint: identifies the inputs of the rows, which are made once and later read from `cache`.

    Raises:
        InputError: no row is left.
    """

    def rows() -> Iterator[dict[str, list[int]]]:
        for item in rounds:
            yield encode_round(item, protocol, tokenizer)

    if cache is None:
        dataset = Dataset.from_list(list(rows()), features=_FEATURES)
    else:
        dataset = Dataset.from_generator(rows, features=_FEATURES, cache_dir=str(cache), fingerprint=fingerprint)
    total = len(dataset)
    if max_length is not None:
        dataset = dataset.filter(lambda ids: len(ids) <= max_length, input_columns="input_ids")
    if not len(dataset):
        raise InputError(f"all {total} rows are longer than sft.max_length={max_length}: raise it")
    return dataset, total - len(dataset)


def fingerprint_of(folder: Path, protocol: RoundProtocol, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hashes the data, the protocol and the tokenizer; the same on all ranks and after a restart."""
    files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _files(folder, protocol)]
    parts: list[Any] = [files, asdict(protocol), tokenizer.chat_template, tokenizer.eos_token_id, len(tokenizer)]
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    return hashlib.sha256(json.dumps([*parts, vocabulary]).encode()).hexdigest()[:16]
