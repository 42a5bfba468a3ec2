"""The data stage on many synthetic traces: peak memory of a whole run, and its partition against InftyThink's.

python benchmarks/data.py                      traces/s of the partition, several repeats in one run
python benchmarks/data.py --stream 100000      the whole stage (summaries by a function), with its peak memory

The baseline reimplements the approach of InftyThink's published script: tokenize each paragraph, sum greedily, end a
segment with the paragraph that exceeds eta. It also has 2 cores: with tokenizer threads, as in the script, and with 2
processes. Ours has exact counts and no segment over eta, and keeps groups whole.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import statistics
import string
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

FOLDER = Path("runs/benchmark-data")
ETA = 1024


def words(count: int, rng: random.Random) -> list[str]:
    """Returns synthetic words; the frequent ones are short."""
    lengths = [2 + min(9, index.bit_length() // 2) for index in range(count)]
    return ["".join(rng.choices(string.ascii_lowercase, k=length)) for length in lengths]


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """Returns paragraphs of 30 to 90 words with formulas and numbers; words follow Zipf's law."""
    rng = random.Random(seed)
    vocabulary = words(20_000, rng)
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]
    made = []
    for _ in range(count):
        parts = rng.choices(vocabulary, weights, k=rng.randint(30, 90))
        for _ in range(rng.randint(1, 6)):
            a, b = rng.randint(2, 999), rng.randint(2, 999)
            formulae = [f"${a}x + {b} = y$", f"\\( \\frac{{{a}}}{{{b}}} \\)", f"{a}.{b}", f"{a} * {b} = {a * b}"]
            parts.insert(rng.randrange(len(parts)), rng.choice(formulae))
        for place in range(11, len(parts), 12):
            parts[place] += "."
        made.append(" ".join(parts).capitalize() + ".")
    return made


def traces(count: int, paragraphs_each: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yields rows as `data.traces` does, generated lazily."""
    pool = paragraphs(4000)
    rng = random.Random(seed)
    for number in range(count):
        text = "\n\n".join(rng.choices(pool, k=paragraphs_each))
        question = f"Number {number}: " + " ".join(rng.choices(pool, k=1)[0].split()[:25])
        yield {
            "question": question, "answer": str(number), "trace": f"<think>\n{text}\n</think>\n\n\\boxed{{{number}}}",
        }  # fmt: skip


def summarize(question: str, previous: str | None, segment: str) -> str:
    """Replaces a summarizer, whose speed is not measured here."""
    return "State: " + " ".join(segment.split()[3:12])


def tokenizer(vocabulary: int) -> Any:
    """Trains a BPE tokenizer on such text."""
    from tests.bpe_model import build_tokenizer

    FOLDER.mkdir(parents=True, exist_ok=True)
    return build_tokenizer(FOLDER / "tokenizer", paragraphs(4000), vocabulary)


def published(text: str, encode: Any, eta: int) -> list[str]:
    """Returns segments as InftyThink's script cuts them; one may exceed eta by a paragraph."""
    steps = [step for step in text.split("\n\n") if step.strip()]
    lengths = [len(ids) for ids in encode(steps).input_ids]
    segments, start, total = [], 0, 0
    for end, length in enumerate(lengths, start=1):
        total += length
        if total > eta:
            segments.append("\n\n".join(steps[start:end]))
            start, total = end, 0
    return segments + (["\n\n".join(steps[start:])] if start < len(steps) else [])


_encode: Any = None


def _start(path: str) -> None:
    global _encode
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from transformers import AutoTokenizer

    _encode = AutoTokenizer.from_pretrained(path)


def _published(text: str) -> int:
    return len(published(text, _encode, ETA))


def compare(count: int, repeats: int, vocabulary: int) -> None:
    """Times the three partitions, interleaved."""
    from sft.counting import TokenCounter
    from sft.data.partition import Partitioner
    from sft.data.thinking import split_thinking
    from sft.reconstruct import reconstruct_rounds

    fast = tokenizer(vocabulary)
    counter = TokenCounter(fast)
    each = round(4000 / statistics.fmean(counter(p) + 1 for p in paragraphs(200)))
    texts = [split_thinking(row["trace"])[0] for row in traces(count, each, seed=1)]
    tokens = statistics.fmean(map(counter, texts))
    print(f"{count} traces of {tokens:.0f} tokens, eta {ETA}, {repeats} repeats, 2 cores")
    partitioner = Partitioner(TokenCounter(fast), None, "greedy", 2)
    pool = multiprocessing.get_context("spawn").Pool(2, _start, (str(FOLDER / "tokenizer"),))

    def ours() -> int:
        rounds = 0
        for text, cuts in zip(texts, partitioner.cut(texts, [ETA] * count), strict=True):
            ends = [0, *(end for end, _ in cuts)]
            pieces = [text[a:b].strip("\n") for a, b in itertools.pairwise(ends)]
            rounds += len(reconstruct_rounds("q", pieces, ["s"] * (len(pieces) - 1), "c"))
        return rounds

    sides = {
        "published, one process": lambda: sum(len(published(text, fast, ETA)) for text in texts),
        "published, 2 processes": lambda: sum(pool.imap(_published, texts, chunksize=16)),
        "ours, 2 processes": ours,
    }
    for side in sides.values():
        side()  # warm-up: starts processes and fills the count caches
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    mine = statistics.median(seconds["ours, 2 processes"])
    for name, values in seconds.items():
        middle = statistics.median(values)
        spread = f"{count / max(values):.0f} to {count / min(values):.0f}"
        print(f"{name:24} {count / middle:6.0f} traces/s ({spread}); ours is {middle / mine:.2f} x")
    over = sum(counter(piece) > ETA for text in texts[:200] for piece in published(text, fast, ETA))
    print(f"published: {over} segments over eta in 200 traces; ours: 0 by construction and test")
    partitioner.close()
    pool.terminate()


def stream(count: int, vocabulary: int) -> None:
    """Runs the whole stage and measures the total memory of its processes."""
    from rollout.protocol import get_protocol
    from sft.counting import TokenCounter
    from sft.data.prepare import DataStage
    from sft.data.report import make_report
    from sft.data.settings import DataSettings, SummarizerSettings
    from sft.data.sources import Source
    from sft.data.writers import FunctionWriter

    shutil.rmtree(FOLDER / "data", ignore_errors=True)
    fast = tokenizer(vocabulary)
    counter = TokenCounter(fast)
    each = round(4000 / statistics.fmean(counter(p) + 1 for p in paragraphs(200)))
    source = Source("synthetic", lambda start: traces(count, each), count)
    protocol = get_protocol("inftythink", segment_tokens=ETA, summary_tokens=128, max_rounds=8)
    settings = SummarizerSettings(fn="benchmarks/data.py:summarize")
    stage = DataStage(
        source, FOLDER / "data", protocol, fast, DataSettings(), settings,
        lambda say: FunctionWriter(summarize, settings.fn, 1), None, 1, seed=0,
    )  # fmt: skip
    peak, done = [0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(peak, done))
    watcher.start()
    started = time.perf_counter()
    stage.run()
    worked = time.perf_counter() - started
    stage.join()
    report = make_report(FOLDER / "data", 8, None)
    done.set()
    watcher.join()
    tokens = report["tokens"]["trace"]
    print(f"{report['kept']} of {count} traces of {tokens['mean']:.0f} tokens, {report['rounds']} rounds")
    print(f"longest segment {report['tokens']['segment']['max']} tokens (eta {ETA}); not used: {report['dropped']}")
    print(
        f"{worked:.0f} s, {count / worked:.0f} traces/s; with joining and report {time.perf_counter() - started:.0f} s"
    )
    print(f"peak memory of all processes together: {peak[0] / 2**30:.2f} GiB")


def _watch(peak: list[int], done: threading.Event) -> None:
    """Records peak resident memory of this process and its children; shared pages count several times."""
    me = psutil.Process()
    while not done.wait(0.5):
        total = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", type=int, metavar="TRACES", help="run the whole stage on this many traces")
    parser.add_argument("--traces", type=int, default=1500, help="number of traces in the comparison")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=16_000)
    options = parser.parse_args()
    if options.stream:
        stream(options.stream, options.vocabulary)
    else:
        compare(options.traces, options.repeats, options.vocabulary)
