"""The verifier on real cases, on answers made to break it, from everywhere it is called."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rewards.answer import Verdict, boxed_answers, verify, verify_many
from rewards.verifying.pool import MEMORY_BYTES

CASES = Path(__file__).parents[2] / "shared/data/verify_cases.jsonl"
MATRIX = "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"
MISSES = {2, 53, 89}  # explained in docs/verifier.md
BOMBS = [
    "\\boxed{9^{9^9}}",
    "\\boxed{1000000!}",
    "$10^{10^{10}}$",
    "\\boxed{2^{2^{2^{2^{2^{2}}}}}}",
    "$\\binom{10^9}{5\\cdot 10^8}$",
    "\\boxed{" + "7" * 1_000_000 + "}",
    "{" * 100_000 + "\\boxed{" * 20_000,
    "\\boxed{\x00\xff\udcff\x1b[2J}",
    "\\boxed{" + "\\sqrt{" * 500 + "2" + "}" * 501,
    "$\\sum_{k=1}^{10^{9}} \\frac{1}{k}$",
]


@pytest.mark.slow
@pytest.mark.skipif(not CASES.exists(), reason="the shared data is not beside this checkout")
def test_known_cases():
    rows = [json.loads(line) for line in CASES.open(encoding="utf-8")]
    verdicts = verify_many([(row["prediction"], row["gold"]) for row in rows], timeout=2.0)
    missed = {i for i, (r, v) in enumerate(zip(rows, verdicts, strict=True)) if (v == Verdict.CORRECT) != r["expected"]}
    assert missed <= MISSES and len(missed) <= 0.03 * len(rows)


@pytest.mark.slow
def test_bombs_leave_the_other_verdicts_alone():
    ordinary = [
        ("\\boxed{\\frac{2}{4}}", "0.5", Verdict.CORRECT),
        ("so $x=3$", "3", Verdict.CORRECT),
        ("\\boxed{(1,2]}", "(1,2]", Verdict.CORRECT),
        ("\\boxed{x+2}", "$2+x$", Verdict.CORRECT),
        ("\\boxed{17}", "18", Verdict.INCORRECT),
        ("\\boxed{\\sqrt{3}}", "\\sqrt{2}", Verdict.INCORRECT),
    ]
    pairs, expected = [], []
    for index in range(10_000):
        if index % 100 == 50:
            pairs.append((BOMBS[index // 100 % len(BOMBS)], "1"))
            expected.append(None)
        else:
            prediction, gold, verdict = ordinary[index % len(ordinary)]
            pairs.append((prediction, gold))
            expected.append(verdict)
    most, done = [0], threading.Event()

    def watch():
        while not done.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                try:
                    if "rewards.verifying.worker" in child.cmdline():
                        most[0] = max(most[0], child.memory_info().rss)
                except psutil.Error:
                    pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    verdicts = verify_many(pairs, timeout=1.0)
    done.set()
    watcher.join()
    wrong = [(p, v) for p, v, e in zip(pairs, verdicts, expected, strict=True) if e is not None and v != e]
    assert not wrong
    on_bombs = [v for v, e in zip(verdicts, expected, strict=True) if e is None]
    assert Verdict.CORRECT not in on_bombs and Verdict.TIMEOUT in on_bombs
    assert 0 < most[0] <= MEMORY_BYTES


def test_the_kernel_keeps_the_memory_limit_of_each_working_child():
    assert verify("\\boxed{2/4}", "0.5") == Verdict.CORRECT
    ours = [p for p in psutil.Process().children(recursive=True) if "rewards.verifying.compare:judge" in p.cmdline()]
    workers = [p for p in ours if p.parent() in ours]
    assert workers and all(p.rlimit(psutil.RLIMIT_AS) == (MEMORY_BYTES, MEMORY_BYTES) for p in workers)


def _marked(mark: str) -> list[psutil.Process]:
    """Verifier processes that come from the one which was started with this mark, and from no other test's."""
    everyone = psutil.process_iter(["cmdline", "environ"])
    workers = [p for p in everyone if "rewards.verifying.worker" in (p.info["cmdline"] or [])]
    return [p for p in workers if (p.info["environ"] or {}).get("STARTED_BY") == mark]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["return", "kill"])
def test_no_process_outlives_its_parent(ending):
    mark = uuid.uuid4().hex
    code = (
        "import os, signal, threading\nfrom rewards.answer import verify, verify_many\n"
        "print(verify('\\\\boxed{2/4}', '0.5'), flush=True)\n"
    )
    if ending == "kill":
        code += (
            "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()\nverify('$10^{10^{10}}$', '1', 2.0)\n"
        )
    environment = os.environ | {"STARTED_BY": mark}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.stdout == "correct\n", done.stderr
    deadline = time.monotonic() + 60
    while _marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _marked(mark)


def test_called_from_asyncio_and_from_many_threads():
    pairs = [("\\boxed{2/4}", "0.5"), ("\\boxed{x}", "y")] * 8
    expected = [Verdict.CORRECT, Verdict.INCORRECT] * 8

    async def both():
        assert verify_many(pairs) == expected  # on the loop's own thread: it blocks, and that is all
        return await asyncio.gather(*(asyncio.to_thread(verify_many, pairs) for _ in range(4)))

    assert asyncio.run(both()) == [expected] * 4


def _in_fork(queue):
    queue.put(verify_many([("\\boxed{2/4}", "0.5"), ("\\boxed{x+1}", "$1+x$")]))


def test_a_forked_process_has_children_of_its_own():
    assert verify("\\boxed{2/4}", "0.5") == Verdict.CORRECT
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_in_fork, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == [Verdict.CORRECT] * 2
    process.join()
    assert verify("\\boxed{2/4}", "0.5") == Verdict.CORRECT


def test_a_loaded_machine_turns_no_right_answer_wrong():
    burn = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        pairs = [(f"\\boxed{{\\frac{{{n}}}{{{2 * n}}}x+{n}}}", f"${n}+0.5x$") for n in range(1, 60)]
        assert set(verify_many(pairs, timeout=1.0)) == {Verdict.CORRECT}
    finally:
        for process in burn:
            process.kill()
            process.wait()


def test_an_interrupt_leaves_no_stale_verdicts_behind():
    class Interrupt(Exception):
        pass

    def stop(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(Interrupt):
            verify("$10^{10^{10}}$", "1", timeout=3.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    for _ in range(4):
        assert verify("\\boxed{x+1}", "y") == Verdict.INCORRECT and verify("\\boxed{1/2}", "0.5") == Verdict.CORRECT


def test_many_callers_share_the_children():
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda n: verify(f"\\boxed{{{n}/{2 * n}}}", "0.5"), range(1, 25)))
    assert set(found) == {Verdict.CORRECT}
    ours = [p for p in psutil.Process().children() if "rewards.verifying.compare:judge" in p.cmdline()]
    assert len(ours) <= max(2, len(os.sched_getaffinity(0)))


@pytest.mark.slow
def test_under_xdist(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\nfrom rewards.answer import verify\n"
        "@pytest.mark.parametrize('n', range(1, 9))\n"
        "def test_it(n):\n    assert verify(f'\\\\boxed{{{n}/{2 * n}}}', '0.5') == 'correct'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300)
    assert "8 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("prediction", "gold", "verdict"),
    [
        ("\\boxed{3} or \\boxed{4}", "3", Verdict.INCORRECT),
        ("\\boxed{3} … no, wait: \\boxed{4}", "4", Verdict.INCORRECT),
        ("\\boxed{0.5}, that is \\boxed{\\frac12}", "1/2", Verdict.CORRECT),
        ("\\boxed{1} and \\boxed{2}", "$1, 2$", Verdict.CORRECT),
        ("\\boxed{\\boxed{3}}", "3", Verdict.CORRECT),
        ("1 1/4", "$\\frac54$", Verdict.CORRECT),
        ("-1 1/4", "$-\\frac54$", Verdict.CORRECT),
        ("\\boxed{101_2}", "101_3", Verdict.INCORRECT),
        ("\\boxed{101_2}", "$101_{2}$", Verdict.CORRECT),
        ("the answer is frac{1}{2}", "$\\frac12$", Verdict.CORRECT),
        ("\\boxed{\\$36}", "\\$36.00", Verdict.CORRECT),
        ("it costs \\$36", "36", Verdict.CORRECT),
        ("\\boxed{1 1/4}", "5/4", Verdict.CORRECT),
        ("\\boxed{12\\,000}", "12000", Verdict.CORRECT),
        ("\\boxed{2}", MATRIX, Verdict.INCORRECT),
        ("\\boxed{\\begin{pmatrix}2/2\\\\2\\end{pmatrix}}", MATRIX, Verdict.CORRECT),
        ("\\boxed{5 \\text{ (or 6)}}", "5", Verdict.INCORRECT),
        ("\\boxed{5 \\text{ cm}}", "5", Verdict.CORRECT),
        ("\\boxed{6 = 5}", "5", Verdict.INCORRECT),
        ("\\boxed{x = 5}", "5", Verdict.CORRECT),
        ("\\boxed{\\geq 5}", "5", Verdict.INCORRECT),
        ("\\boxed{x = 2 \\text{ or } x = 3}", "$2, 3$", Verdict.CORRECT),
        ("the answer is 5 or 6", "6", Verdict.INCORRECT),
        ("\\boxed{1/5} " + "so " * 12_000 + "\\boxed{1/6}", "1/6", Verdict.INCORRECT),
        ("\\boxed{1/5} " + "\n" * 20_000 + "so " * 9_000, "1/5", Verdict.CORRECT),
        ("the answer is 5" + " " * 20_000 + "x", "5", Verdict.INCORRECT),
        ("\\boxed{None}", None, Verdict.UNPARSABLE_GOLD),
        ("I think of \\frac{1}{2} and stop", "$\\frac12$", Verdict.INCORRECT),
        ("\\boxed{3}", "\text{3}", Verdict.UNPARSABLE_GOLD),
    ],
)
def test_mended_in_front_of_math_verify(prediction, gold, verdict):
    assert verify(prediction, gold) == verdict


def test_boxes():
    assert boxed_answers("\\boxed{a{b}} \\boxed {c} \\boxed{d") == ["a{b}", "c"]
    assert boxed_answers("\\boxed{\\{1, 2\\}}") == ["\\{1, 2\\}"]
    assert boxed_answers("\\boxed{\\left\\{1\\right.}") == ["\\left\\{1\\right."]
    started = time.monotonic()
    assert boxed_answers("\\boxed{" * 100_000) == []
    assert time.monotonic() - started < 60
