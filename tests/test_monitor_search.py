"""Search in the texts of rounds: what it finds, in parts and in order, and what it does about files that change."""

from __future__ import annotations

import random

import pytest

from rl.monitor.episodes import episodes
from rl.monitor.index import EpisodeIndex
from rl.monitor.search import snippet
from rollout.store import read_episodes
from rollout.types import StopReason
from tests.stored import age, episode, run_of, write

WORDS = [
    "alpha",
    "Beta",
    "100%",
    "a_b",
    "Ärger",
    "ΣΊΓΜΑ",
    "日本",
    r"\frac{1}{2}",
    "<script>",
    "(",
    "[a-z]*",
    "'",
    "emoji 🙂",
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """(folder, run, rows): 5 files of 150 episodes in several row groups; some have no round, one file is of old."""
    folder, rng = tmp_path_factory.mktemp("run"), random.Random(3)
    for step in range(4):
        write(folder, f"episodes/train_{step:06d}", step, made_up(rng), [float(n % 2) for n in range(150)])
    write(folder, "eval/episodes/rl_held_out", 0, made_up(rng))
    age(folder / "episodes" / "train_000001.parquet")
    rows = [row | {"source": "eval/rl_held_out"} for row in read_episodes(folder / "eval" / "episodes")]
    rows += [row | {"source": "train"} for row in read_episodes(folder / "episodes")]
    return folder, run_of(folder), rows


def made_up(rng):
    def text(rounds_left):
        said = f"<think>\n{' '.join(rng.choices(WORDS, k=3))}\n</think>"
        return said + ("<summary>s</summary>" if rounds_left else "\\boxed{1}")

    stops = [StopReason.FAILED if rng.random() < 0.2 else StopReason.ANSWERED for _ in range(150)]
    counts = [0 if stop == "failed" else rng.randint(1, 3) for stop in stops]
    return [
        episode(f"q{place // 8}", place // 8, [text(left) for left in reversed(range(count))], stop)
        for place, (stop, count) in enumerate(zip(stops, counts, strict=True))
    ]


def ready(run, **settings):
    index = EpisodeIndex(**({"seconds": 60.0} | settings))
    index.load(run, 60, every=0)
    return index


def newest_first(row):
    return -row["step"], row["source"], row["episode"]


def all_pages(index, run, **asked):
    """Rows of all pages, and the answers."""
    answers = [episodes(index, run, **asked)]
    while answers[-1]["search"]["after"]:
        answers.append(episodes(index, run, after=answers[-1]["search"]["after"], **asked))
    return [row for answer in answers for row in answer["rows"]], answers


def places(rows):
    return [(row["source"], row["step"], row["episode"]) for row in rows]


@pytest.mark.parametrize(
    "text", [*WORDS, "ALPHA", "beta", "ärger", "σίγμα", "a", "\n</THINK>", "alphax", ".", "\\boxed{1}"]
)
def test_it_finds_what_plain_python_finds(filled, text):
    _, run, rows = filled
    expected = [row for row in rows if any(text.lower() in item["text"].lower() for item in row["rounds"])]
    with ready(run) as index:
        found, answers = all_pages(index, run, text=text, limit=40)
        assert places(found) == places(sorted(expected, key=newest_first))
        assert all(text.lower() in row["snippet"].lower() for row in found if "\n" not in text)
        assert [answer["total"] for answer in answers] == [None] * (len(answers) - 1) + [len(expected)]
        assert answers[-1]["search"] == {"searched": 750, "of": 750, "after": None}
        oldest, _ = all_pages(index, run, text=text, limit=1000, sort="step")
        assert places(oldest) == places(sorted(expected, key=lambda row: (row["step"], row["source"], row["episode"])))


def test_other_filters_come_first(filled):
    _, run, rows = filled
    with ready(run) as index:
        found, answers = all_pages(index, run, text="alpha", question="q3", correct="right", sort="-tokens")
        fit = [row for row in rows if row["question"] == "q3" and row.get("correct") == 1]
        assert answers[0]["search"]["of"] == len(fit) and answers[0]["sort"] == "-step"
        expected = [row for row in fit if any("alpha" in item["text"] for item in row["rounds"])]
        assert places(found) == places(sorted(expected, key=newest_first)) and expected
        assert episodes(index, run, text="alpha", question="no such")["total"] == 0


def test_without_time_it_still_gets_on_and_misses_nothing(filled):
    _, run, rows = filled
    with ready(run, seconds=0.0) as index:
        found, answers = all_pages(index, run, text="beta")
        expected = [row for row in rows if any("Beta" in item["text"] for item in row["rounds"])]
        assert places(found) == places(sorted(expected, key=newest_first))
        searched = [answer["search"]["searched"] for answer in answers]
        assert len(answers) > 2 and searched == sorted(set(searched)) and searched[-1] == 750


def test_a_token_outlives_the_process(filled):
    _, run, _ = filled
    with ready(run) as index:
        first = episodes(index, run, text="alpha", limit=30)
        rest = episodes(index, run, text="alpha", limit=1000, after=first["search"]["after"])
    with ready(run) as index:
        again = episodes(index, run, text="alpha", limit=1000, after=first["search"]["after"])
    assert places(again["rows"]) == places(rest["rows"]) and again["total"] == rest["total"]


def test_a_file_that_changed_or_went_since_it_was_indexed(tmp_path):
    for step in range(3):
        write(tmp_path, f"episodes/train_{step:06d}", step, [episode("q", texts=["<think>\nneedle\n</think>x"])] * 3)
    run = run_of(tmp_path)
    with ready(run) as index:
        index.load(run, every=0)  # it looks at the folder once a second: the next answer is of before
        write(tmp_path, "episodes/train_000001", 1, [episode("q", texts=["<think>\nother\n</think>x"])] * 9)
        (tmp_path / "episodes" / "train_000002.parquet").unlink()
        answer = episodes(index, run, text="needle")
        if answer["faults"]:
            reasons = {fault["file"][-9:]: fault["reason"] for fault in answer["faults"]}
            assert "has changed since" in reasons["1.parquet"] and reasons["2.parquet"] == "no longer exists"
        index.load(run, 60, every=0)
        answer = episodes(index, run, text="needle")
        assert answer["total"] == 3 and not answer["faults"] and answer["search"]["of"] == 12


def test_a_text_that_no_one_could_mean_is_refused_or_searched(filled):
    _, run, _ = filled
    with ready(run) as index:
        with pytest.raises(ValueError, match="at most 1000 characters"):
            episodes(index, run, text="x" * 1001)
        answer = episodes(index, run, text="Äs" * 500)
        assert answer["total"] == 0 and not answer["faults"]
        assert episodes(index, run, text="\x00")["total"] == 0


def test_a_snippet_is_one_line_around_the_hit():
    assert snippet("a\nb needle\n\nc", "NEEDLE") == "a b needle c"
    assert snippet("x" * 500 + "needle" + "y" * 500, "needle") == f"… {'x' * 80}needle{'y' * 80} …"
    assert snippet("no such text", "needle") == "no such text"
