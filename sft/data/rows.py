"""Builds the rows of a trace for each table of the finished data (`sft.data.parts.TABLES`)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from rollout.protocol import RoundProtocol, get_protocol
from rollout.store import store_question
from sft.data.partition import Cuts
from sft.data.select import Dropped, Trace
from sft.data.summarize import Summary
from sft.reconstruct import reconstruct_rounds

_VANILLA = get_protocol("vanilla")


@dataclass(frozen=True)
class Cut:
    """A trace with its partition."""

    trace: Trace
    eta: int
    cuts: Cuts

    def segments(self) -> list[tuple[str, int]]:
        """Returns (text, tokens) of each segment that is not blank."""
        ends = [0, *(end for end, _ in self.cuts)]
        pieces = [self.trace.reasoning[start:end] for start, end in itertools.pairwise(ends)]
        return [(piece, tokens) for piece, (_, tokens) in zip(pieces, self.cuts, strict=True) if piece.strip()]


def rows_of_trace(
    item: Cut, segments: list[tuple[str, int]], summaries: list[Summary], protocol: RoundProtocol, tokenizer: Any
) -> dict[str, list[dict[str, Any]]]:
    """Returns table -> rows: one per round, one of the whole trace for comparison runs, one about the trace.

    Prompts are text, rendered as in the rollouts; completions do not contain the end token, which TRL adds.
    """
    trace = item.trace
    stripped = [text.strip("\n") for text, _ in segments]
    rounds = reconstruct_rounds(trace.question, stripped, [s.text for s in summaries], trace.conclusion)
    shared = {
        "question": store_question(trace.question), "trace": trace.key, "row": trace.number, "answer": trace.answer,
        "budget": trace.budget,
    }  # fmt: skip
    start = protocol.question_text(tokenizer, trace.question)
    rows = []
    for place, (content, (_, tokens)) in enumerate(zip(rounds, segments, strict=True)):
        prompt = start if content.history is None else start + protocol.render_history(content.history)
        rows.append({
            **shared, "prompt": prompt, "completion": protocol.output_after(prompt, content.completion),
            "history": content.history, "round": place, "rounds": len(rounds), "segment_tokens": tokens,
            "summary_tokens": summaries[place].tokens if place < len(summaries) else None,
        })  # fmt: skip
    prompt = _VANILLA.replace(chat=protocol.chat).question_text(tokenizer, trace.question)
    whole = protocol.render_completion(trace.reasoning, conclusion=trace.conclusion)
    tokens = [tokens for _, tokens in item.cuts]
    twin = {
        **shared, "prompt": prompt, "completion": protocol.output_after(prompt, whole), "tokens": sum(tokens),
    }  # fmt: skip
    about = {
        "row": trace.number, "generation": trace.generation, "id": trace.id, "trace": trace.key, "eta": item.eta,
        "ends": [end for end, _ in item.cuts], "tokens": tokens, "summary_tokens": [s.tokens for s in summaries],
        "draws": [s.draws for s in summaries], "verified": trace.verified,
    }  # fmt: skip
    return {"rounds": rows, "vanilla": [twin], "traces": [about]}


def dropped_trace(trace: Trace, reason: str) -> Dropped:
    """Returns the record of a selected trace that turned out to be unusable."""
    return Dropped(trace.number, trace.generation, trace.id, reason, str(trace.question)[:300])


def dropped_row(item: Dropped, cut: Cut | None = None) -> dict[str, Any]:
    """Returns the row about an unused trace; `cut` is given if it reached the summaries."""
    row = {"row": item.number, "generation": item.generation, "id": item.id, "reason": item.reason}
    if cut is not None:
        row |= {"trace": cut.trace.key, "eta": cut.eta, "tokens": [tokens for _, tokens in cut.cuts]}
    return row | {"excerpt": item.excerpt.encode("utf-8", "replace").decode()}
