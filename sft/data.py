"""Long traces as rounds on disk: split_reasoning -> summarise -> reconstruct_rounds -> rounds.jsonl."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rollout.protocol import RoundProtocol
from sft.reconstruct import Round, reconstruct_rounds
from sft.segment import split_reasoning
from sft.summarize import Summarizer, SummaryTooLong, summarize_segments

ROUNDS_FILE = "rounds.jsonl"


class DroppedTrace(ValueError):
    """A trace that can't be used; the message is its reason, to be counted."""


def split_trace(trace: str) -> tuple[str, str]:
    """(reasoning, conclusion) of `<think>…</think>` + conclusion; the opening tag may be missing.

    Raises:
        DroppedTrace: the thinking is empty or not closed, or nothing follows it.
    """
    body = trace.strip().removeprefix("<think>")
    reasoning, closed, conclusion = body.partition("</think>")
    if not closed:
        raise DroppedTrace("thinking not closed")
    if not reasoning.strip():
        raise DroppedTrace("empty thinking")
    if not conclusion.strip():
        raise DroppedTrace("no conclusion")
    return reasoning.strip("\n"), conclusion


def rounds_of_trace(
    row: dict[str, Any],
    protocol: RoundProtocol,
    summarizer: Summarizer | None,
    count_tokens: Callable[[str], int],
    segment_tokens: int,
    max_draws: int = 10,
) -> list[Round]:
    """Training rows of one trace. Only the inftythink protocol cuts it; the others keep it whole.

    Raises:
        DroppedTrace: with the reason.
    """
    reasoning, conclusion = split_trace(row["trace"])
    if protocol.name != "inftythink":
        return reconstruct_rounds(row["question"], [reasoning], [], conclusion)
    segments = [piece.strip("\n") for piece in split_reasoning(reasoning, count_tokens, segment_tokens)]
    segments = [piece for piece in segments if piece.strip()]
    if len(segments) > 1 and summarizer is None:
        raise ValueError("summarizer.fn is missing: traces of several segments need summaries")
    try:
        summaries = summarize_segments(
            row["question"], segments, summarizer, count_tokens, protocol.summary_tokens, max_draws
        )
    except SummaryTooLong as error:
        raise DroppedTrace("summary over its limit") from error
    return reconstruct_rounds(row["question"], segments, summaries, conclusion)


def write_rounds(
    rows: Sequence[dict[str, Any]],
    folder: Path,
    protocol: RoundProtocol,
    summarizer: Summarizer | None,
    count_tokens: Callable[[str], int],
    segment_tokens_choices: Sequence[int] | None = None,
    max_draws: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes `rounds.jsonl`, one row a round, and returns (and writes) a report with the counts of dropped traces.

    Args:
        segment_tokens_choices: eta of each trace is drawn from these; None: always protocol.segment_tokens.
    """
    from tqdm.auto import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (ROUNDS_FILE + ".tmp")
    dropped: Counter[str] = Counter()
    rounds_per_trace: Counter[int] = Counter()
    choices = segment_tokens_choices or [protocol.segment_tokens]
    rng = random.Random(seed)
    with partial.open("w", encoding="utf-8") as file:
        for index, row in enumerate(tqdm(rows, desc="data", unit="trace")):
            segment_tokens = rng.choice(choices)
            try:
                _require(row, index)
                rounds = rounds_of_trace(row, protocol, summarizer, count_tokens, segment_tokens, max_draws)
            except DroppedTrace as error:
                dropped[str(error)] += 1
                continue
            rounds_per_trace[len(rounds)] += 1
            for number, item in enumerate(rounds):
                file.write(json.dumps({"trace": index, "round": number, **asdict(item)}, ensure_ascii=False) + "\n")
    report = {
        "traces": len(rows),
        "kept": sum(rounds_per_trace.values()),
        "dropped": dict(dropped),
        "rounds": sum(n * count for n, count in rounds_per_trace.items()),
        "rounds_per_trace": {str(n): rounds_per_trace[n] for n in sorted(rounds_per_trace)},
    }
    if not report["kept"]:
        raise ValueError(f"no trace could be used; reasons: {dict(dropped)}")
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    os.replace(partial, folder / ROUNDS_FILE)
    return report


def _require(row: dict[str, Any], index: int) -> None:
    for key in ("question", "trace"):
        if key not in row:
            raise ValueError(f"data.traces, row {index} has no {key!r}; it has {', '.join(row)}")


def read_rounds(folder: Path) -> Iterable[Round]:
    with (folder / ROUNDS_FILE).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Round(row["question"], row["history"], row["completion"])
