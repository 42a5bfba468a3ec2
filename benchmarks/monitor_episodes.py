"""Writes a synthetic run with as many episodes as a long training stores, for the monitor. Nothing is trained.

    python benchmarks/monitor_episodes.py FOLDER [--episodes 1000000] [--per-step 1000] [--rounds 3] [--seed 0]

Writes config.yaml, metrics.jsonl and episodes/train_NNNNNN.parquet in the schema of `rollout/store.py`. Words are
synthetic, some of them rare. A million episodes of 3 rounds take a minute or two and 2.2 GB.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.store import TOKENS_A_ROW_GROUP, schema

RARE = "quollbeck"
"""A word that occurs in one episode of 20,000."""

_QUESTIONS = 4000
_GROUP = 8
_VOCABULARY = 5000  # number of synthetic token ids
_STOPS = ("answered", "max_rounds", "malformed", "truncated", "failed")


def write_run(
    folder: str | Path, episodes: int = 1_000_000, per_step: int = 1000, rounds: int = 3, seed: int = 0
) -> Path:
    """Writes the run and returns its folder.

    Args:
        episodes: total over all steps; the last step has the rest.
        rounds: mean per episode; some have one less or one more.
    """
    folder = Path(folder)
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    steps = math.ceil(episodes / per_step)
    (folder / "config.yaml").write_text(_CONFIG.format(name=folder.name, rounds=rounds + 1, steps=steps))
    _write_metrics(folder / "metrics.jsonl", steps, rounds, seed)
    words = _Words(seed)
    for step in range(steps):
        count = min(per_step, episodes - step * per_step)
        table = _step(step, steps, count, rounds, words, np.random.default_rng([seed, step]))
        path = folder / "episodes" / f"train_{step:06d}.parquet"
        tokens = sum(pc.sum(pc.list_value_length(table["rounds"].combine_chunks().values.field(name))).as_py()
                     for name in ("prompt_ids", "completion_ids"))  # fmt: skip
        rows_a_group = TOKENS_A_ROW_GROUP * count // tokens
        pq.write_table(table, path, compression="zstd", row_group_size=rows_a_group)
    return folder


class _Words:
    """The pool that all steps sample from: words, questions, and ids with their logprobs."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        parts = [first + second for first in "bdghklmnprstvz" for second in "aeiou"]
        spelled = rng.integers(len(parts), size=(3000, 3))
        spelled[rng.random(3000) < 0.4, 2] = -1
        self.words = pa.array(["".join(parts[i] for i in word if i >= 0) for word in spelled] + [RARE])
        weights = 1 / np.arange(5, 3005)  # a few words make up most of a text, as in any language
        self.cumulative = np.cumsum(weights / weights.sum())
        lengths = rng.integers(11, 16, _QUESTIONS)
        picked = self.draw(rng, int(lengths.sum()))
        texts = _joined(self.words.take(picked), lengths)
        numbers = pa.array([f"Question {n}: " for n in range(_QUESTIONS)])
        self.questions = pc.binary_join_element_wise(numbers, texts, "?", "")
        self.ids = rng.integers(_VOCABULARY, size=1 << 16).astype(np.int32)
        self.logprobs = -rng.exponential(0.3, size=1 << 16).astype(np.float32)

    def draw(self, rng: np.random.Generator, count: int) -> pa.Array:
        """Samples the indices of `count` words."""
        return pa.array(np.minimum(np.searchsorted(self.cumulative, rng.random(count)), 2999))

    def stretch(self, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns indices into `ids` and `logprobs` of stretches of these lengths, and the stretches' offsets."""
        offsets = _bounds(lengths)
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return places % len(self.ids), offsets


def _bounds(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])


def _lists(values: np.ndarray, bounds: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(values))


def _joined(words: pa.Array, lengths: np.ndarray) -> pa.Array:
    """Joins words into texts of these lengths, in words."""
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(_bounds(lengths).astype(np.int32)), words), " ")


def _step(step: int, steps: int, count: int, rounds: int, words: _Words, rng: np.random.Generator) -> pa.Table:
    """Returns the episodes of one step. Accuracy rises and outputs get shorter over the run."""
    progress = step / max(1, steps - 1)
    groups = np.arange(count) // _GROUP
    asked = (step * math.ceil(count / _GROUP) + groups) % _QUESTIONS
    hard = (asked * 7919 % _QUESTIONS) / _QUESTIONS
    stops = rng.choice(len(_STOPS), size=count, p=[0.86, 0.06, 0.04, 0.037, 0.003])
    taken = np.clip(rounds + rng.choice([-1, 0, 1], size=count, p=[0.15, 0.7, 0.15]), 1, None)
    taken = np.where(stops == 4, 0, taken)
    right = (rng.random(count) < np.clip(0.2 + 0.9 * progress - 0.5 * hard, 0.02, 0.98)) & (stops == 0)
    reward = np.where(right, 1 - 0.04 * (taken - 1), 0.0)
    scored = stops != 4
    segments = _rounds(asked, taken, stops, right, progress, words, rng)
    offsets = _bounds(taken).astype(np.int32)
    completion = pc.list_value_length(segments.field("completion_ids")).to_numpy()
    tokens = _bounds(completion)[offsets[1:]] - _bounds(completion)[offsets[:-1]]
    context = pc.list_value_length(segments.field("prompt_ids")).to_numpy() + completion
    names = np.array([f'{{"answer": {float(r)}, "iteration_decay": {0.96**t:.4f}}}' for r in (0, 1) for t in range(9)])
    columns = {
        "step": pa.array(np.full(count, step)),
        "episode": pa.array(np.arange(count)),
        "group": pa.array(groups).cast(pa.string()),
        "question": words.questions.take(pa.array(asked)),
        "answer": pa.array(asked % 100).cast(pa.string()),
        "stop_reason": pa.array(_STOPS).take(pa.array(stops)),
        "error": pa.array(["server closed the connection", None]).take(pa.array(scored.astype(np.int8))),
        "num_rounds": pa.array(taken),
        "num_tokens": pa.array(tokens),
        "peak_context": pa.array(_most(context, offsets)),
        "seconds": pa.array(np.round(tokens * 0.01 + rng.exponential(0.5, count), 3)),
        "policy_steps": _lists(np.full(2 * count, step), 2 * np.arange(count + 1)),
        "columns": pa.array(["{}"]).take(pa.array(np.zeros(count, np.int8))),
        "extra": pa.nulls(count, pa.string()),
        "correct": pa.array(right.astype(float), mask=~scored),
        "reward": pa.array(reward, mask=~scored),
        "rewards": pa.array(names).take(pa.array(right * 9 + np.minimum(taken, 8))),
        "advantage": pa.array(_advantages(reward, scored, groups)),
        "rounds": pa.ListArray.from_arrays(pa.array(offsets), segments),
    }
    prompts = np.append(0, np.cumsum(pc.list_value_length(segments.field("prompt_ids")).to_numpy()))
    columns["prompt_tokens"] = pa.array(np.diff(prompts[offsets]))
    wanted = schema()
    arrays = [columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


def _rounds(
    asked: np.ndarray,
    taken: np.ndarray,
    stops: np.ndarray,
    right: np.ndarray,
    progress: float,
    words: _Words,
    rng: np.random.Generator,
) -> pa.StructArray:
    """Returns all rounds of all episodes as one array. Prompts of a question start with the same ids."""
    episode = np.repeat(np.arange(len(taken)), taken)
    total, ends = len(episode), np.cumsum(taken) - 1
    last = np.zeros(total, bool)
    last[ends[taken > 0]] = True
    stop = np.where(last, stops[episode], -1)
    lengths = rng.integers(36 - int(8 * progress), 50 - int(8 * progress), total)
    picked = words.draw(rng, int(lengths.sum())).to_numpy().copy()
    rare = rng.random(total) < 1 / 60_000
    picked[np.cumsum(lengths)[rare] - 1] = len(words.words) - 1
    body = _joined(words.words.take(pa.array(picked)), lengths)
    noted = rng.integers(5, 9, total)
    summary = _joined(words.words.take(words.draw(rng, int(noted.sum()))), noted)
    answer = pa.array(np.where(right[episode], 7, 8)).cast(pa.string())
    concluded = pc.binary_join_element_wise("\n</think>\nThe answer is \\boxed{", answer, "}.", "")
    handed_on = pc.binary_join_element_wise("\n</think><summary>", summary, "</summary>", "")
    ending = pc.if_else(pa.array(stop == 0), concluded, handed_on)
    ending = pc.if_else(pa.array((stop == 2) | (stop == 3)), pa.scalar(""), ending)
    kinds = np.where(stop == 0, 1, np.where((stop == 2) | (stop == 3), 2, 0)).astype(np.int8)
    first = np.append(True, last[:-1])
    asked = asked[episode]
    pieces = np.column_stack([60 + asked % 20, np.where(first, 0, noted + 4)]).ravel()  # the question, the history
    starts = np.column_stack([asked * 13, rng.integers(len(words.ids), size=total)]).ravel()
    prompt, prompt_bounds = words.stretch(starts, pieces)
    written, bounds = words.stretch(rng.integers(len(words.ids), size=total), lengths + 30)
    parts = {
        "prompt_ids": _lists(words.ids[prompt], prompt_bounds[::2]),
        "completion_ids": _lists(words.ids[written], bounds),
        "logprobs": _lists(words.logprobs[written], bounds),
        "text": pc.binary_join_element_wise("<think>\n", body, ending, ""),
        "kind": pa.array(["summary", "conclusion", "malformed"]).take(pa.array(kinds)),
        "fault": pc.if_else(pa.array(kinds == 2), pa.scalar("open_thinking"), pa.scalar(None, pa.string())),
        "summary": pc.if_else(pa.array(kinds == 0), summary, pa.scalar(None, pa.string())),
        "finish_reason": pc.if_else(pa.array(stop == 3), pa.scalar("length"), pa.scalar("stop")),
        "policy_steps": pa.nulls(total, pa.list_(pa.int32())),
        "opening": pa.array(np.zeros(total, np.int32)),
    }
    struct = schema().field("rounds").type.value_type
    arrays = [parts[field.name].cast(field.type) for field in struct]
    return pa.StructArray.from_arrays(arrays, fields=list(struct))


def _most(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Returns the maximum of each segment of values; 0 if it is empty."""
    most = np.maximum.reduceat(np.append(values, 0), offsets[:-1])
    return np.where(np.diff(offsets) > 0, most, 0)


def _advantages(reward: np.ndarray, scored: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns (R - mean) / std over the scored episodes of a group; 0 if they are equal or not scored."""
    count = np.maximum(np.bincount(groups, scored), 1)
    off = np.where(scored, reward - (np.bincount(groups, reward * scored) / count)[groups], 0.0)
    std = np.sqrt(np.bincount(groups, off**2) / np.maximum(count - 1, 1))[groups]
    return np.where(std > 1e-9, off / np.maximum(std, 1e-9), 0.0)


def _write_metrics(path: Path, steps: int, rounds: int, seed: int) -> None:
    """Writes realistic curves for a run of this length: an SFT stage, then RL."""
    rng, now = np.random.default_rng(seed), time.time()
    sft = max(10, steps // 5)
    start = now - 60.0 * steps - 5.0 * sft
    with path.open("w", encoding="utf-8") as file:
        for step in range(1, sft + 1):
            loss = 0.4 + 2.2 * math.exp(-6 * step / sft) + 0.03 * rng.standard_normal()
            row = {"loss": loss, "grad_norm": 0.5 + 0.1 * rng.random(), "entropy": 0.9 * loss}
            row |= {"learning_rate": 1e-5 * (1 - step / sft), "mean_token_accuracy": 1 - 0.25 * loss}
            file.write(json.dumps({"stage": "sft", "step": step, "time": start + 5.0 * step, **row}) + "\n")
        start += 5.0 * sft
        for step in range(1, steps + 1):
            row = _rl_row(step / steps, rounds, rng)
            file.write(json.dumps({"stage": "rl", "step": step, "time": start + 60.0 * step, **row}) + "\n")


def _rl_row(progress: float, rounds: int, rng: np.random.Generator) -> dict[str, float]:
    noise = 0.02 * rng.standard_normal(12)
    accuracy = float(np.clip(0.15 + 0.7 * (1 - math.exp(-3 * progress)) + noise[0], 0, 1))
    lost = float(np.clip(0.13 - 0.08 * progress + 0.2 * noise[1], 0, 1))
    return {
        "reward/mean": 0.93 * accuracy, "reward/std": 0.4 + noise[2], "reward/unscored": 0.0,
        "reward/answer/mean": accuracy, "reward/iteration_decay/mean": 0.93 + 0.3 * noise[3],
        "accuracy/mean": accuracy, "episode/rounds/mean": rounds - 0.5 * progress + noise[4],
        "episode/rounds/max": rounds + 1.0, f"episode/rounds/{rounds - 1}": 0.15, f"episode/rounds/{rounds}": 0.7,
        f"episode/rounds/{rounds + 1}": 0.15, "episode/tokens/mean": 215 - 30 * progress + 100 * noise[5],
        "episode/tokens/max": 310.0, "episode/context/mean": 150 + 20 * noise[6],
        "episode/stop/answered": 1 - lost, "episode/stop/max_rounds": 0.4 * lost,
        "episode/stop/malformed": 0.3 * lost, "episode/stop/truncated": 0.3 * lost, "episode/stop/failed": 0.0,
        "summary/tokens/mean": 9 + noise[7], "group/frac_zero_std": 0.2 + 0.3 * progress + noise[8],
        "entropy": 0.2 + 0.6 * math.exp(-2 * progress) + noise[9], "loss": noise[10], "grad_norm": 0.2 + abs(noise[11]),
        "learning_rate": 1e-6 * (1 - progress), "mismatch/logprob_diff/mean": 0.002, "step_time": 58.0,
        "time/rollout": 35.0, "time/reward": 1.0, "time/update": 20.0, "time/sync": 2.0,
    }  # fmt: skip


_CONFIG = """\
name: {name}
seed: 0
model: {{path: made-up}}
protocol: {{name: inftythink, segment_tokens: 128, summary_tokens: 32, max_rounds: {rounds}}}
rl: {{max_steps: {steps}, num_generations: 8}}
rewards: [{{fn: answer}}, {{fn: iteration_decay, combine: multiply}}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--per-step", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.time()
    folder = write_run(options.folder, options.episodes, options.per_step, options.rounds, options.seed)
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    print(f"{folder}: {options.episodes} episodes, {size / 1e9:.2f} GB of parquet, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
