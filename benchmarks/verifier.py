"""Answers per second: `verify_many` with one and two child processes against math-verify called in a loop.

    python benchmarks/verifier.py [--answers file.jsonl] [--count 2000] [--repeats 5]

`--answers`: rows with an `answer`, such as MATH-500; without it, integers, fractions, roots, polynomials and intervals
are generated. Half of the outputs are right, in a sentence with a box. All ways judge the same pairs, interleaved.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rewards.answer import verify_many


def made_up(count: int, rng: random.Random) -> list[str]:
    kinds = (
        lambda: str(rng.randint(-999, 9999)),
        lambda: f"\\frac{{{rng.randint(1, 40)}}}{{{rng.randint(2, 40)}}}",
        lambda: f"{rng.randint(2, 9)}\\sqrt{{{rng.choice([2, 3, 5, 7, 11])}}}",
        lambda: f"{rng.randint(2, 9)}x^2-{rng.randint(2, 9)}x+{rng.randint(1, 9)}",
        lambda: f"[{rng.randint(-9, 0)},{rng.randint(1, 9)})",
        lambda: f"({rng.randint(-9, 9)},{rng.randint(-9, 9)})",
    )
    return [rng.choice(kinds)() for _ in range(count)]


def loop(pairs: list[tuple[str, str]]) -> list[bool]:
    """Calls math-verify as its README does."""
    from math_verify import parse, verify

    return [verify(parse(f"${gold}$"), parse(prediction)) for prediction, gold in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng = random.Random(0)
    if options.answers:
        golds = [str(json.loads(line)["answer"]) for line in options.answers.open(encoding="utf-8")]
        golds = (golds * (options.count // len(golds) + 1))[: options.count]
    else:
        golds = made_up(options.count, rng)
    others = rng.sample(golds, len(golds))
    pairs = [
        (f"So we find that the answer is $\\boxed{{{gold if rng.random() < 0.5 else other}}}$.", gold)
        for gold, other in zip(golds, others, strict=True)
    ]
    ways = {
        "math-verify in a loop": lambda: loop(pairs),
        "verify_many, 1 worker": lambda: verify_many(pairs, workers=1),
        "verify_many, 2 workers": lambda: verify_many(pairs, workers=2),
    }
    verdicts = {name: [v in (True, "correct") for v in way()] for name, way in ways.items()}  # also warms them up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    first = next(iter(ways))
    for name, values in seconds.items():
        agree = sum(a == b for a, b in zip(verdicts[name], verdicts[first], strict=True))
        print(
            f"{name:24} {median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})  "
            f"{len(pairs) / median(values):6.0f} answers/s  {median(seconds[first]) / median(values):5.2f} x  "
            f"the same verdict on {agree} of {len(pairs)}"
        )


if __name__ == "__main__":
    main()
