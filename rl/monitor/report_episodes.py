"""Template values for a report's episodes: each as a chain of rounds with its group, and the saw plot of one."""

from __future__ import annotations

from functools import partial
from typing import Any

from rl.evaluation.plots import context_over_time, plot_saw
from rl.monitor.figures import number
from rl.monitor.groups import json_object, protocol_of
from rl.monitor.report_facts import Picture
from rl.monitor.runs import Run
from rl.monitor.samples import Sample, Samples, is_right
from rl.monitor.texts import plain_question
from rollout.protocol import RoundProtocol

_MOST_TEXT = 4000  # characters of one text; a report shows the beginning and the end of a longer one
_RIGHT = {True: "right", False: "wrong", None: "not judged"}

Part = dict[str, Any]


def episodes_of(run: Run, samples: Samples) -> Part:
    """Returns the values of each sample, notes on missing data, and the saw plot of the longest episode."""
    missing = list(samples.faults)
    if not samples.files:
        missing.append("There are no episodes yet (episodes/train_*.parquet).")
    elif not samples.samples:
        missing.append("The files that were read contain no episode that can be shown.")
    longest = max((sample.episode for sample in samples.samples), key=lambda row: len(row["rounds"]), default=None)
    protocol = protocol_of(run)
    return {
        "missing": missing,
        "samples": [_sample(sample, protocol) for sample in samples.samples],
        "saw": [_saw(longest)] if longest and len(longest["rounds"]) > 1 else [],
    }


def _sample(sample: Sample, protocol: RoundProtocol) -> Part:
    row = sample.episode
    gold = "none" if row.get("answer") is None else row["answer"]
    verdict, stop = _RIGHT[is_right(row)], row.get("stop_reason") or "unknown"
    return {
        "title": f"{sample.why}: step {row['step']}",
        "question": _cut(plain_question(row["question"])),
        "line": f"Gold answer: {gold}. Shown: episode {row.get('episode')} of {sample.file}: {verdict}, stop reason "
        f"{stop}, reward {number(row.get('reward'))}, advantage {number(row.get('advantage'))}.",
        "error": row.get("error"),
        "rounds": [_round(item, place, row["rounds"], protocol) for place, item in enumerate(row["rounds"])],
        "group": _group(sample),
    }


def _round(item: Part, place: int, rounds: list[Part], protocol: RoundProtocol) -> Part:
    text = item.get("text") or ""
    turn = protocol.parse(text)
    kind, cut_off = item.get("kind") or turn.kind, item.get("finish_reason") == "length"
    ending = "cut off at its token limit" if cut_off else kind
    fault = item.get("fault") or (turn.fault if kind == "malformed" and not cut_off else None)
    thinking, parts = None, []
    if kind == "malformed" or cut_off:
        parts.append(("Raw output", _cut(text)))
    else:
        thinking = _cut(turn.think) if turn.think else None
        if item.get("summary") is not None:
            parts.append(("Summary", _cut(item["summary"])))
        if turn.conclusion is not None:
            parts.append(("Conclusion", _cut(turn.conclusion.strip())))
    tokens = [len(item.get(name) or []) for name in ("prompt_ids", "completion_ids")]
    return {
        "title": f"Round {place + 1} of {len(rounds)}: {ending}" + (f" ({fault.replace('_', ' ')})" if fault else ""),
        "tone": {"malformed": "bad", "conclusion": "good"}.get(kind, "plain"),
        "tokens": f"{tokens[0]} tokens in, {tokens[1]} out",
        "thinking": thinking,
        "thinking_title": f"Thinking, {len(turn.think or '')} characters",
        "parts": parts,
    }


def _group(sample: Sample) -> Part:
    values = [json_object(row.get("rewards")) for row in sample.group]
    names = list(dict.fromkeys(name for given in values for name in given))
    rows = [
        [
            str(row.get("episode")), _RIGHT[is_right(row)], row.get("stop_reason") or "unknown", str(row["num_rounds"]),
            str(row["num_tokens"]), *(_number(given.get(name)) for name in names), number(row.get("reward")),
            number(row.get("advantage")),
        ]
        for row, given in zip(sample.group, values, strict=True)
    ]  # fmt: skip
    where = f"group {sample.episode['group']} of step {sample.episode['step']}"
    return {
        "title": f"The group: {len(rows)} episodes of this question",
        "head": ["episode", "verdict", "stop reason", "rounds", "tokens", *names, "reward", "advantage"],
        "rows": rows,
        "caption": f"Episodes of {where}, with each reward's value",
    }


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else "-"


def _saw(row: Part) -> Picture:
    lengths = [{name: item.get(name) or [] for name in ("prompt_ids", "completion_ids")} for item in row["rounds"]]
    generated, saw, single = context_over_time(lengths)
    alt = (
        f"Context of an episode of {len(lengths)} rounds and {generated[-1]} generated tokens: at most {max(saw)} "
        f"tokens, against {single[-1]} in one context"
    )
    note = f"Episode {row.get('episode')} of step {row['step']}. Dashed, computed: the same tokens in one context."
    return Picture("saw", "Context against tokens generated", note, alt, partial(plot_saw, lengths))


def _cut(text: str) -> str:
    """Returns the beginning and end of a long text, and the number of omitted characters between them."""
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"
