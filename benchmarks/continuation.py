"""Episode throughput: each episode continues at once, against a barrier per round, against all requests at once.

    python benchmarks/continuation.py [--model runs/demo/sft/final] [--episodes 256] [--repeats 5]

One engine and the same greedy episodes for all three, interleaved; medians of wall times. "All at once" submits every
round's prompt at the start, which is impossible in a real rollout: it is the engine's own limit.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.chains.task import questions
from rollout.episodes import run_episodes
from rollout.protocol import RoundProtocol
from rollout.types import Episode, Sampling, Task
from rollout.vllm_engine import VLLMEngine


class BarrierEngine:
    """Holds back every completion until all waiting requests have finished."""

    def __init__(self, engine: VLLMEngine):
        self.engine, self.waiting = engine, 0

    def submit(self, request_id: int, prompt_ids: list[int], sampling: Sampling) -> None:
        self.engine.submit(request_id, prompt_ids, sampling)
        self.waiting += 1

    def poll(self) -> list:
        done = []
        while len(done) < self.waiting:
            done += self.engine.poll()
        self.waiting = 0
        return done


def all_at_once(engine: VLLMEngine, episodes: list[Episode], sampling: Sampling) -> None:
    prompts = [segment.prompt_ids for episode in episodes for segment in episode.segments]
    for index, prompt in enumerate(prompts):
        engine.submit(index, prompt, sampling)
    done = 0
    while done < len(prompts):
        done += len(engine.poll())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/demo/sft/final")
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    protocol = RoundProtocol.load(options.model).replace(max_rounds=8)
    engine = VLLMEngine(options.model, dtype="float32", max_model_len=256, kv_cache_memory_bytes=1 << 29,
                        enable_prefix_caching=False)  # fmt: skip
    sampling = Sampling(max_tokens=48, temperature=0.0)
    tasks = [Task(row["question"]) for row in questions(options.episodes, seed=9, steps=[6, 24], held_out=True)]
    episodes = run_episodes(tasks, engine, protocol, tokenizer, sampling)  # also warms up the engine
    tokens = sum(episode.num_tokens for episode in episodes)
    rounds = [episode.num_rounds for episode in episodes]
    print(f"{len(episodes)} episodes, {sum(rounds)} rounds (1 to {max(rounds)} per episode), {tokens} tokens")

    ways = {
        "continuation": lambda: run_episodes(tasks, engine, protocol, tokenizer, sampling),
        "barrier": lambda: run_episodes(tasks, BarrierEngine(engine), protocol, tokenizer, sampling),
        "all at once": lambda: all_at_once(engine, episodes, sampling),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        print(
            f"{name:13} {value:6.2f} s ({spread})  {len(tasks) / value:6.1f} episodes/s  {tokens / value:7.0f} tokens/s"
        )
    print(f"continuation / barrier:     {medians['barrier'] / medians['continuation']:.2f} x the throughput")
    print(f"continuation / all at once: {medians['all at once'] / medians['continuation']:.2f} x the throughput")


if __name__ == "__main__":
    main()
