"""Answers, composition, and reward functions that break their contract."""

from __future__ import annotations

import math

import pytest

from rewards.answer import Verdict, verify
from rewards.length import iteration_decay
from rewards.load import load_rewards
from rewards.score import Reward, score_episodes
from rewards.task import answer
from rollout.protocol import get_protocol
from rollout.types import Episode, Segment, StopReason, Turn


def episode(text="</think>\\boxed{3}", gold="3", group=0, rounds=1, stop=StopReason.ANSWERED, **columns):
    segment = Segment([1], [2, 3], [-0.1, -0.2], text, "stop", Turn("conclusion", conclusion=text))
    return Episode("q", gold, group, [segment] * rounds, stop, columns)


@pytest.mark.parametrize(
    ("prediction", "gold", "verdict"),
    [
        ("\\boxed{3}", "3", Verdict.CORRECT),
        ("<think>\\boxed{4}</think>\\boxed{3}", "3", Verdict.CORRECT),
        ("<think>\\boxed{3}</think>I don't know", "3", Verdict.INCORRECT),
        ("\\boxed{4}", "3", Verdict.INCORRECT),
        ("\\boxed{3} or \\boxed{4}", "3", Verdict.INCORRECT),
        ("\\boxed{3}, so \\boxed{3}", "3", Verdict.CORRECT),
        ("\\boxed{\\frac{1}{2}}", "0.5", Verdict.CORRECT),
        ("\\boxed{\\sqrt{8}}", "$2\\sqrt{2}$", Verdict.CORRECT),
        ("", "3", Verdict.INCORRECT),
        ("\\boxed{", "3", Verdict.INCORRECT),
        ("\\boxed{3}", "", Verdict.UNPARSABLE_GOLD),
    ],
)
def test_verdicts(prediction, gold, verdict):
    assert verify(prediction, gold) == verdict


def test_a_time_out_that_the_answer_caused_can_be_wrong():
    bomb = episode("</think>\\boxed{9^{9^9}}")
    assert answer([bomb], seconds=0.5) == [None]
    assert answer([bomb, episode()], seconds=0.5, timeout="wrong") == [0.0, 1.0]
    settings = {"fn": "answer", "seconds": 0.5, "timeout": "wrong"}
    assert score_episodes([bomb], load_rewards([settings], get_protocol("inftythink"))).total == [0.0]
    with pytest.raises(ValueError, match=r"answer: timeout is 'zero'; it must be unscored or wrong"):
        load_rewards([settings | {"timeout": "zero"}], get_protocol("inftythink"))


def test_only_a_concluded_episode_can_be_right():
    stops = [StopReason.ANSWERED, StopReason.TRUNCATED, StopReason.MAX_ROUNDS, StopReason.MALFORMED]
    assert answer([episode(stop=stop) for stop in stops]) == [1.0, 0.0, 0.0, 0.0]
    assert answer([episode(gold="")]) == [None]


def test_iteration_decay_refuses_nonsense():
    assert iteration_decay([], 5) == []
    with pytest.raises(ValueError, match="max_rounds"):
        iteration_decay([1], 0)
    with pytest.raises(ValueError, match="rounds"):
        iteration_decay([0], 5)


def test_sum_of_weighted_terms_times_the_multiplied():
    rewards = [
        Reward(lambda episodes, **_: [1.0, 0.0], "a", weight=2.0),
        Reward(lambda episodes, **_: [0.5, 0.5], "b"),
        Reward(lambda episodes, **_: [0.1, 0.5], "c", combine="multiply"),
    ]
    scores = score_episodes([episode(), episode()], rewards)
    assert scores.total == pytest.approx([0.25, 0.25])
    assert scores["a"] == [1.0, 0.0]


def test_none_is_left_to_the_other_functions():
    rewards = [Reward(lambda episodes, **_: [None, None], "a"), Reward(lambda episodes, **_: [1.0, None], "b")]
    total = score_episodes([episode(), episode()], rewards).total
    assert total[0] == 1.0 and math.isnan(total[1])


def test_a_function_written_for_trl_works_unchanged():
    def length(completions, solution, **kwargs):
        assert len(kwargs["prompts"]) == len(completions) == len(kwargs["completion_ids"])
        return [float(len(c)) if s == "yes" else None for c, s in zip(completions, solution, strict=True)]

    scores = score_episodes([episode("abc", solution="yes"), episode("abcd", solution="no")], [length])
    assert scores["length"] == [3.0, None]


def test_async_functions_and_chat_questions():
    async def judge(completions, **_):
        return [float(c[0]["content"] == "abc") for c in completions]

    chat = episode("abc")
    chat.question = [{"role": "user", "content": "q"}]
    assert score_episodes([chat], [judge]).total == [1.0]


def test_failed_episodes_are_not_scored():
    seen = []

    def count(episodes, **_):
        seen.extend(episodes)
        return [1.0] * len(episodes)

    scores = score_episodes([episode(), episode(stop=StopReason.FAILED)], [count])
    assert len(seen) == 1 and math.isnan(scores.total[1])


def test_rewards_from_a_config(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def brevity(completions, scale=1.0, **_):\n    return [-scale * len(c) for c in completions]\n"
    )
    entries = [
        {"fn": "answer"},
        {"fn": "iteration_decay", "combine": "multiply"},
        {"fn": f"{tmp_path}/mine.py:brevity", "weight": 0.5, "scale": 0.1},
    ]
    rewards = load_rewards(entries, get_protocol("inftythink", max_rounds=2))
    assert [r.name for r in rewards] == ["answer", "iteration_decay", "brevity"]
    text = "</think>\\boxed{3}"
    scores = score_episodes([episode(text, rounds=2)], rewards)
    assert scores.total == pytest.approx([(1.0 - 0.05 * len(text)) * 0.75])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"fn": "anwser"}, "no built-in 'anwser'"),
        ({"fn": "answer", "max_rounds": 3}, "no setting 'max_rounds'"),
        ({"fn": "nowhere.py:f"}, "no file nowhere.py"),
        ({"fn": "no_such_module:f"}, "no module named 'no_such_module'"),
        ({"fn": "math:no_such"}, "no function 'no_such'"),
        ({"fn": "answer", "combine": "times"}, "add or multiply"),
        ({"weight": 1.0}, "has no `fn`"),
    ],
)
def test_bad_entries(entry, message):
    with pytest.raises(ValueError, match=message):
        load_rewards([entry], get_protocol("inftythink"))
