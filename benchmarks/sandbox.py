"""Programs per second that `run_python` judges, here and in another checkout, interleaved.

    git worktree add ../before COMMIT
    python benchmarks/sandbox.py --before ../before [--programs 40] [--repeats 5] [--threads 2]

The kinds: asserts of a plain function, a class, a hundred calls, and numpy in program and tests.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
KINDS = {
    "function": ("def f(x):\n    return x + 1", "assert f(1) == 2\nassert f(-1) == 0\nassert f(9) == 10"),
    "class": (
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n"
        "        self.items.append(x)\n    def pop(self):\n        return self.items.pop()",
        "s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2 and s.pop() == 1",
    ),
    "100 calls": ("def f(x):\n    return x * x", "for i in range(100):\n    assert f(i) == i * i"),
    "numpy": (
        "import numpy as np\ndef f(n):\n    return np.arange(n) * 2",
        "import numpy as np\nassert (f(3) == np.array([0, 2, 4])).all()",
    ),
}


def once(root: Path, kind: str, programs: int, threads: int) -> None:
    """Judges the programs and prints wall and CPU seconds per program, including child processes."""
    import os

    sys.path.insert(0, str(root))
    try:
        from rewards.sandbox.run import run_python
    except ModuleNotFoundError:  # a checkout of before it was a package
        from rewards.sandbox import run_python

    code, tests = KINDS[kind]
    statuses = {run_python(code, tests).status}  # warms the file caches
    started, used = time.perf_counter(), sum(os.times()[:4])
    with ThreadPoolExecutor(threads) as pool:
        statuses |= {result.status for result in pool.map(lambda _: run_python(code, tests), range(programs))}
    seconds, used = time.perf_counter() - started, sum(os.times()[:4]) - used
    print(json.dumps([seconds / programs, used / programs, sorted(statuses)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--programs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--once", nargs=2, metavar=("ROOT", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        return once(Path(options.once[0]), options.once[1], options.programs, options.threads)
    roots = {"here": HERE, **({"before": options.before.resolve()} if options.before else {})}
    for kind in KINDS:
        times: dict[str, list[list[float]]] = {name: [] for name in roots}
        for _ in range(options.repeats):
            for name, root in roots.items():
                command = [sys.executable, __file__, "--once", str(root), kind, "--programs", str(options.programs)]
                command += ["--threads", str(options.threads)]
                wall, used, statuses = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                times[name].append([wall, used])
        rate = {name: 1 / median(wall for wall, _ in values) for name, values in times.items()}
        cpu = {name: 1000 * median(used for _, used in values) for name, values in times.items()}
        line = ", ".join(f"{name} {rate[name]:.1f} programs/s ({cpu[name]:.0f} ms of CPU)" for name in roots)
        ratio = f"  here/before {rate['here'] / rate['before']:.2f}" if "before" in roots else ""
        print(f"{kind:10} {line}{ratio}  {', '.join(statuses)}", flush=True)


if __name__ == "__main__":
    main()
