"""The episodes of a report: each as a chain of rounds, with its group, and the saw of one."""

from __future__ import annotations

from functools import partial
from typing import Any

from rl.evaluation.plots import context_over_time
from rl.monitor.figures import number
from rl.monitor.groups import protocol_of
from rl.monitor.report_blocks import Block, Box, Code, Fold, Heading, Line, Missing, Picture, Table
from rl.monitor.report_pictures import draw_saw
from rl.monitor.runs import Run
from rl.monitor.samples import Sample, Samples, is_right
from rl.monitor.texts import plain_question
from rollout.protocol import RoundProtocol

_MOST_TEXT = 4000  # characters of one text; a report shows the beginning and the end of a longer one
_RIGHT = {True: "right", False: "wrong", None: "not judged"}


def episode_blocks(run: Run, samples: Samples) -> list[Block]:
    blocks: list[Block] = [Heading("Episodes"), *(Missing(fault) for fault in samples.faults)]
    if not samples.files:
        return [*blocks, Missing("There are no episodes yet (episodes/train_*.parquet).")]
    if not samples.samples:
        return [*blocks, Missing("The files that were read hold no episode that can be shown.")]
    protocol = protocol_of(run)
    for sample in samples.samples:
        blocks += [Heading(f"{sample.why}: step {sample.episode['step']}", 3), *_sample_blocks(sample, protocol)]
    longest = max((sample.episode for sample in samples.samples), key=lambda row: len(row["rounds"]))
    if len(longest["rounds"]) > 1:
        blocks += [Heading("The saw of an episode", 3), _saw(longest)]
    return blocks


def _sample_blocks(sample: Sample, protocol: RoundProtocol) -> list[Block]:
    row = sample.episode
    blocks: list[Block] = [
        Code(_cut(plain_question(row["question"])), "Question"),
        Line(
            f"Gold answer: {row.get('answer') if row.get('answer') is not None else 'none'}. The episode shown is "
            f"{row.get('episode')} of {sample.file}: {_RIGHT[is_right(row)]}, stopped as {row['stop_reason']}, "
            f"reward {number(row.get('reward'))}, advantage {number(row.get('advantage'))}."
        ),
    ]
    if row.get("error"):
        blocks.append(Line(f"Error: {row['error']}"))
    rounds = row["rounds"]
    blocks += [_round_box(item, index, rounds, protocol) for index, item in enumerate(rounds)]
    return [*blocks, Fold(f"The group: {len(sample.group)} episodes of this question", [_group_table(sample)])]


def _round_box(item: dict[str, Any], index: int, rounds: list[dict[str, Any]], protocol: RoundProtocol) -> Box:
    text = item["text"] or ""
    turn = protocol.parse(text)
    kind, cut_off = item["kind"], item["finish_reason"] == "length"
    ending = "cut off at its token limit" if cut_off else kind
    fault = item.get("fault") or (turn.fault if kind == "malformed" and not cut_off else None)
    title = f"Round {index + 1} of {len(rounds)}: {ending}" + (f" ({fault.replace('_', ' ')})" if fault else "")
    lines: list[Block] = [Line(f"{item['prompt_tokens']} tokens in, {item['completion_tokens']} out")]
    if kind == "malformed" or cut_off:
        lines.append(Code(_cut(text), "Output, as it is"))
    else:
        if turn.think:
            lines.append(Fold(f"Thinking, {len(turn.think)} characters", [Code(_cut(turn.think), "Thinking")]))
        if item["summary"] is not None:
            lines.append(Code(_cut(item["summary"]), "Summary"))
        if turn.conclusion is not None:
            lines.append(Code(_cut(turn.conclusion.strip()), "Conclusion"))
    return Box(title, lines, "bad" if kind == "malformed" else "good" if kind == "conclusion" else "plain")


def _group_table(sample: Sample) -> Table:
    names = list(dict.fromkeys(name for row in sample.group for name in row["values"]))
    rows = [
        [
            str(row.get("episode")), _RIGHT[is_right(row)], row["stop_reason"], str(row["num_rounds"]),
            str(row["num_tokens"]), *(number(row["values"].get(name)) for name in names), number(row.get("reward")),
            number(row.get("advantage")),
        ]
        for row in sample.group
    ]  # fmt: skip
    head = ["episode", "verdict", "stop reason", "rounds", "tokens", *names, "reward", "advantage"]
    where = f"group {sample.episode['group']} of step {sample.episode['step']}"
    return Table(head, rows, f"Episodes of {where}, with what each reward gave")


def _saw(row: dict[str, Any]) -> Picture:
    lengths = [
        {"prompt_ids": range(r["prompt_tokens"]), "completion_ids": range(r["completion_tokens"])}
        for r in row["rounds"]
    ]
    generated, saw, single = context_over_time(lengths)
    alt = (
        f"Context of an episode of {len(lengths)} rounds and {generated[-1]} generated tokens: at most {max(saw)} "
        f"tokens, against {single[-1]} in one context"
    )
    note = f"Episode {row.get('episode')} of step {row['step']}. Dashed, computed: the same tokens in one context."
    draw = partial(draw_saw, generated, saw, single, len(lengths))
    return Picture("saw", "Context against tokens generated", note, alt, draw=draw)


def _cut(text: str) -> str:
    """Beginning and end of a long text, and how much is left out between."""
    if len(text) <= _MOST_TEXT:
        return text
    half = _MOST_TEXT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"
