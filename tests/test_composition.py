"""Schedules, gates and weights: what each term adds to the total."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from rewards.load import load_rewards
from rewards.schedule import Gate, Schedule
from rewards.score import Reward, score_episodes
from rollout.protocol import get_protocol
from rollout.types import Episode, Segment, StopReason, Turn

PROTOCOL = get_protocol("inftythink", max_rounds=4)


def episode(right=True, group=0, tokens=10, **columns):
    text = f"</think>\\boxed{{{3 if right else 4}}}"
    segment = Segment([1], [2] * tokens, None, text, "stop", Turn("conclusion", conclusion=text))
    return Episode("q", "3", group, [segment], StopReason.ANSWERED, columns)


def at(step):
    return SimpleNamespace(global_step=step)


@pytest.mark.parametrize(("step", "linear", "steps"), [(0, 1.0, 1.0), (5, 1.0, 1.0), (10, 1.0, 1.0), (15, 2.0, 1.0),
                                                       (20, 3.0, 3.0), (99, 3.0, 3.0)])  # fmt: skip
def test_a_schedule_at_each_step(step, linear, steps):
    points = ((10, 1.0), (20, 3.0))
    assert Schedule(points, linear=True).at(step) == linear
    assert Schedule(points).at(step) == steps


def test_a_weight_and_a_setting_change_with_the_step():
    entries = [
        {"fn": "answer", "weight": {"schedule": "linear", "points": {0: 0.0, 100: 1.0}}},
        {"fn": "thinkprune", "limit": {"schedule": "steps", "points": {0: 20, 50: 5}}},
    ]
    rewards = load_rewards(entries, PROTOCOL)
    totals = [score_episodes([episode()], rewards, trainer_state=at(step)).total[0] for step in (0, 49, 50, 200)]
    assert totals == pytest.approx([0.0 + 1.0, 0.49 + 1.0, 0.5 + 0.0, 1.0 + 0.0])
    assert score_episodes([episode()], rewards).total == [1.0]  # no trainer: step 0


def test_a_scheduled_setting_of_a_users_function(tmp_path):
    (tmp_path / "mine.py").write_text("def cap(episodes, limit, **_):\n    return [float(limit)] * len(episodes)\n")
    limit = {"schedule": "linear", "points": {0: 10, 10: 20}}
    rewards = load_rewards([{"fn": f"{tmp_path}/mine.py:cap", "limit": limit}], PROTOCOL)
    assert score_episodes([episode(limit=7)], rewards, trainer_state=at(5)).total == [15.0]  # over a column `limit`


def test_the_weight_of_a_multiplied_term_blends_it_in():
    half = Reward(lambda episodes, **_: [0.5] * len(episodes), "half", weight=0.5, combine="multiply")
    one = Reward(lambda episodes, **_: [1.0] * len(episodes), "one")
    assert score_episodes([episode()], [one, half]).total == [0.75]


def test_a_gate_looks_at_the_accuracy_of_the_group():
    episodes = [episode(True, 0), episode(True, 0), episode(True, 1), episode(False, 1), episode(False, 2)]
    verdicts = [1.0, 1.0, 1.0, 0.0, 0.0]
    assert Gate(min_accuracy=0.6).opens(episodes, verdicts) == [True, True, False, False, False]
    assert Gate(max_accuracy=0.5).opens(episodes, verdicts) == [False, False, True, True, True]
    entries = [{"fn": "answer"}, {"fn": "soft_overlong", "max_len": 10, "cache": 5, "gate": {"min_accuracy": 0.6}}]
    half = Reward(lambda episodes, **_: [0.5] * len(episodes), "half", combine="multiply", gate=Gate(max_accuracy=0.5))
    scores = score_episodes(episodes, [*load_rewards(entries, PROTOCOL), half])
    assert scores.total == pytest.approx([0.0, 0.0, 0.5, 0.0, 0.0])
    assert scores["soft_overlong"] == [-1.0] * 5  # what it gave is kept, whether it counts or not
    assert scores.metrics()["reward/soft_overlong/open"] == pytest.approx(0.4)


def test_trls_rewards_see_the_tokens_of_all_rounds():
    two = episode(tokens=10)
    two.segments = two.segments * 2
    entries = [{"fn": "soft_overlong", "max_len": 20, "cache": 10}, {"fn": "cosine", "max_len": 20},
               {"fn": "repetition", "ngram_size": 2}]  # fmt: skip
    wrong, unread = episode(False, tokens=10), episode()
    unread.answer = ""
    scores = score_episodes([episode(tokens=10), two, wrong, unread], load_rewards(entries, PROTOCOL))
    assert scores["soft_overlong"] == [0.0, -1.0, 0.0, 0.0]
    assert scores["cosine"] == pytest.approx([0.75, 0.5, -0.75, None])
    assert scores["repetition"] == pytest.approx([-8 / 9, -18 / 19, -8 / 9, -8 / 9])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"fn": "answer", "weight": "heavy"}, "answer.weight is 'heavy'; it must be a number"),
        ({"fn": "answer", "weight": {"schedule": "cosine", "points": {0: 1}}}, "steps or linear"),
        ({"fn": "answer", "weight": {"schedule": "steps", "points": {}}}, "points must be"),
        ({"fn": "answer", "weight": {"schedule": "steps", "points": {-1: 2}}}, "-1 is not an optimizer step"),
        ({"fn": "answer", "weight": {"schedule": "steps", "points": {0: "x"}}}, "the value at step 0 is 'x'"),
        (
            {"fn": "thinkprune", "limit": {"schedule": "steps", "points": {0: 10, 5: math.nan}}},
            "thinkprune: limit is nan",
        ),
        ({"fn": "answer", "gate": {"accuracy": 1}}, "gate is .* it takes min_accuracy and/or max_accuracy"),
        ({"fn": "answer", "gate": {"min_accuracy": 2}}, "gate.min_accuracy is 2"),
        ({"fn": "answer", "gate": {"min_accuracy": 0.5, "max_accuracy": 0.1}}, "above max_accuracy"),
        ({"fn": "answer", "time_limit": 0}, "time_limit is 0"),
        ({"fn": "answer", "verifier": "yes"}, "verifier is 'yes'; it must be true or false"),
        ({"fn": "cosine"}, "needs the setting 'max_len'"),
        ({"fn": "cosine", "max_len": "abc"}, "cosine.max_len is 'abc'; it must be a number"),
        ({"fn": "answer", "weight": math.nan}, "answer.weight is nan"),
        (
            {"fn": "repeated_thinking", "threshold": {"schedule": "steps", "points": {0: 0.5, 9: 1.0}}},
            "threshold is 1.0",
        ),
        ({"fn": "iteration_decay", "max_rounds": "many"}, "max_rounds is 'many'"),
        ({"fn": "repeated_thinking", "n": 0}, "n is 0"),
        (
            {"fn": "iteration_decay", "max_rounds": 3},
            "max_rounds is 3; it must be a whole number of at least the protocol's 4",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(entry, message):
    with pytest.raises(ValueError, match=message):
        load_rewards([entry], PROTOCOL)


def test_the_first_verifier_says_what_is_right(tmp_path):
    (tmp_path / "mine.py").write_text(
        "seen = []\n"
        "def check(episodes, **_):\n    return [float(e.num_tokens < 15) for e in episodes]\n"
        "def cheap(episodes, correct, **_):\n    seen.extend(correct)\n    return [0.0] * len(episodes)\n"
    )
    episodes = [episode(False, tokens=10), episode(True, tokens=20)]  # for the check, the other way round
    checked = [{"fn": f"{tmp_path}/mine.py:check", "verifier": True, "weight": 0.0}]
    kimi = {"fn": "kimi", "gate": {"min_accuracy": 0.5}}
    rewards = load_rewards(
        [kimi, {"fn": f"{tmp_path}/mine.py:cheap"}, *checked, {"fn": "answer", "weight": 0.0}], PROTOCOL
    )
    scores = score_episodes(episodes, rewards)
    assert scores.correct == [1.0, 0.0] and scores["answer"] == [0.0, 1.0]
    assert scores["kimi"] == [0.5, -0.5] and scores.gated["kimi"] == [True, True]
    assert rewards[1].fn.__globals__["seen"] == [1.0, 0.0]
    assert score_episodes(episodes, rewards[:1]).correct == [0.0, 1.0]  # without one: `answer`
    named = load_rewards([{"fn": f"{tmp_path}/mine.py:check", "name": "answer"}], PROTOCOL)
    assert score_episodes(episodes, named).correct is None  # a name says nothing
    assert score_episodes(episodes, [lambda episodes, **_: [1.0, 1.0]]).correct is None  # nobody asks


def test_a_verifier_other_than_math_with_a_length_reward():
    first, second = episode(tokens=10), episode(tokens=20)
    for e, letter in ((first, "B"), (second, "C")):
        e.answer, e.segments[0] = "B", Segment([1], e.segments[0].completion_ids, None, f"</think>({letter})", "stop",
                                               Turn("conclusion", conclusion=f"({letter})"))  # fmt: skip
    scores = score_episodes([first, second], load_rewards([{"fn": "choice"}, {"fn": "kimi"}], PROTOCOL))
    assert scores.correct == [1.0, 0.0] and scores.total == [1.5, -0.5]


def test_what_the_verifier_cannot_judge_is_unscored_whatever_other_terms_say():
    unread, ungraded = episode(group=0), episode(group=1)
    unread.answer, ungraded.answer = "\t", None  # a row without a gold answer is for other rewards
    entries = [
        {"fn": "answer"},
        {"fn": "copied_summary", "weight": -0.5},
        {"fn": "kimi", "gate": {"min_accuracy": 1.0}},
    ]
    scores = score_episodes([unread, ungraded], load_rewards(entries, PROTOCOL))
    assert scores.correct == [None, None]
    assert math.isnan(scores.total[0]) and scores.total[1] == 0.0


def test_a_column_with_the_name_of_a_built_in_setting_is_not_meant_for_it():
    scores = score_episodes(
        [episode(n="x", timeout="y")], load_rewards([{"fn": "answer"}, {"fn": "repeated_thinking"}], PROTOCOL)
    )
    assert scores.total == [1.0] and not scores.errors
