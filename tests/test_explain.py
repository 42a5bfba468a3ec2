"""`sawtooth rewards`: what it prints for stored episodes, and what it says of good and bad functions."""

from __future__ import annotations

import pytest
import yaml

from rewards.load import load_rewards
from rewards.score import score_episodes
from rl.advantages import group_advantages
from rl.app.cli import main
from rollout.protocol import get_protocol
from rollout.store import EpisodeStore, read_episodes, to_episode
from rollout.types import Episode, Segment, StopReason

PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=3)
REWARDS = [{"fn": "answer"}, {"fn": "iteration_decay", "combine": "multiply"}]


def episode(right, rounds, group):
    texts = ["<think>\nx\n</think><summary>s</summary>"] * (rounds - 1)
    texts.append(f"<think>\nx\n</think>\\boxed{{{3 if right else 4}}}")
    segments = [Segment([1, 2], [3] * 9, [-0.5] * 9, t, "stop", PROTOCOL.parse(t), policy_steps=(4, 4)) for t in texts]
    return Episode(f"question {group}", "3", group, segments, StopReason.ANSWERED, {"budget": 20})


EPISODES = [episode(right, rounds, group) for group in (0, 1) for right, rounds in ((True, 1), (True, 3), (False, 2))]


@pytest.fixture
def run(tmp_path):
    config = {"name": "it", "model": {"path": "x"}, "protocol": {"max_rounds": 3}, "rewards": REWARDS}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    scores = score_episodes(EPISODES, load_rewards(REWARDS, PROTOCOL))
    advantages = group_advantages(scores.total, [e.group_id for e in EPISODES]).tolist()
    store = EpisodeStore(tmp_path / "episodes")
    for step in (4, 5):
        store.write(f"train_{step:06d}", step, EPISODES, scores, advantages)
    return tmp_path


def test_a_stored_episode_comes_back_whole(run):
    rows = read_episodes(run / "episodes", "train_000004.parquet")
    assert len(rows) == len(EPISODES)
    for row, made in zip(rows, EPISODES, strict=True):
        back = to_episode(row, PROTOCOL)
        assert back.segments == made.segments and back.columns == made.columns
        assert (back.question, back.answer, back.group_id) == (made.question, made.answer, str(made.group_id))


def test_explain_prints_what_the_run_computed(run, capsys):
    assert main(["rewards", "explain", str(run), "--step", "4"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    stored = read_episodes(run / "episodes", "train_000004.parquet")
    for row in stored:
        expected = [f"{row['reward']:.4f}", f"{row['advantage']:.4f}"]
        assert any(line[-2:] == expected and line[0] == str(row["num_rounds"]) for line in lines if line)
    assert "step 4, 6 episodes in 2 groups" in out and "differ from the run's" not in out


def test_what_another_reward_would_have_given(run, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"model": {"path": "x"}, "rewards": [{"fn": "l1_exact", "alpha": 0.1}]}))
    assert main(["rewards", "explain", str(run), "--with", str(other), "--groups", "1"]) == 0
    out = capsys.readouterr().out
    assert "step 5" in out and "l1_exact'" in out and "advantage'" in out
    assert "and 1 more groups with a smaller spread" in out and "change sign" in out
    right = next(line.split() for line in out.splitlines() if line.split()[:2] == ["1", "9"])
    assert right[right.index("answered") + 5] == f"{1 - 0.1 * 11:.4f}"  # after answer, decay, total, advantage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no run 'nowhere'"),
        (["RUN", "--step", "9"], "has no step 9: it has 4 to 5"),
        (["RUN", "--with", "no.yaml"], "there is no config no.yaml"),
        (["RUN", "--stp=9"], "takes no '--stp=9'"),
    ],
)
def test_mistakes_are_one_line(run, capsys, arguments, message):
    assert main(["rewards", "explain", *(str(run) if a == "RUN" else a for a in arguments)]) == 2
    assert message in capsys.readouterr().err


FUNCTIONS = """
import math, random
calls = []
def good(episodes, scale=1.0, **_):
    return [scale * ("boxed{42}" in e.final_text) - 0.001 * e.num_tokens for e in episodes]
def trl(completions, solution, **kwargs):
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [float(s in t) for t, s in zip(texts, solution)]
def raises(**_): raise OSError("judge down")
def short(episodes, **_): return [1.0] * (len(episodes) - 1)
def no_columns(episodes): return [float(e.num_tokens) for e in episodes]
def fixed(episodes, **_): return [0.5] * len(episodes)
def silent(episodes, **_): return [None] * len(episodes)
def upside_down(episodes, **_): return [float("boxed{42}" not in e.final_text) for e in episodes]
def by_place(episodes, **_): return [float(i) for i, _ in enumerate(episodes)]
def moody(episodes, **_): return [random.random() for _ in episodes]
def meddles(episodes, **_):
    for e in episodes: e.columns["seen"] = True
    return [float(e.num_tokens) for e in episodes]
def text_only(completions, **_): return [float(c.count("boxed")) for c in completions]
def not_a_number(episodes, **_):
    return [math.nan if e.stop_reason == "truncated" else 1.0 * e.num_rounds for e in episodes]
"""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("good", None),
        ("trl", None),
        ("raises", "OSError: judge down"),
        ("short", "returned 7 values for 8 episodes"),
        ("no_columns", "unexpected keyword argument"),
        ("fixed", "gives every example 0.5000"),
        ("silent", "scores none of the examples"),
        ("upside_down", "the wrong answer scores higher (1.0000) than the right one (0.0000)"),
        ("by_place", "values change with the order of the episodes"),
        ("moody", "from call to call"),
        ("meddles", "it modifies the episodes"),
        ("text_only", "values differ when the question is chat messages"),
        ("not_a_number", "fails on 1 of 8 episodes: reward 'not_a_number' returned nan"),
    ],
)
def test_a_function_is_tried_before_a_gpu_is_rented(tmp_path, capsys, name, problem):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    code = main(["rewards", "test", f"{tmp_path}/mine.py:{name}", *(["--scale=2.0"] if name == "good" else [])])
    out = capsys.readouterr().out
    if problem is None:
        assert code == 0 and "no problems found" in out and "right, four rounds" in out
    else:
        assert code == 1 and problem in out


def test_a_reward_to_multiply_by_and_one_that_needs_a_column(capsys):
    assert main(["rewards", "test", "iteration_decay", "--combine=multiply"]) == 0
    assert main(["rewards", "test", "l1_max"]) == 1
    assert "needs a column 'budget'" in capsys.readouterr().out
    assert main(["rewards", "test", "l1_max", "--column", "budget=100", "--alpha=0.001"]) == 0


def test_the_picture(tmp_path, capsys):
    assert main(["rewards", "draw", str(tmp_path / "rewards.png")]) == 0
    assert (tmp_path / "rewards.png").read_bytes()[:4] == b"\x89PNG"
