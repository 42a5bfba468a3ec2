"""Length rewards by their names in a config, over episodes of several groups."""

from __future__ import annotations

import pytest

from rewards import length
from rewards.efficiency import EFFICIENCY
from rewards.load import load_rewards
from rewards.score import score_episodes
from rewards.state import load_reward_states, save_reward_states
from rollout.protocol import get_protocol
from rollout.types import Episode, Segment, StopReason, Turn

PROTOCOL = get_protocol("inftythink", segment_tokens=32, summary_tokens=8, max_rounds=4)
LENGTHS = {"a": [30, 10, 20, 40], "b": [5, 6, 7, 8]}
CORRECT = {"a": [True, False, True, True], "b": [False, False, True, False]}
NEEDED = {"dast": {"max_length": 100}, "thinkprune": {"limit": 25}, "laser": {"target": 25}}


def episode(group, tokens, right, gold="3"):
    """Two rounds of `tokens` tokens in all."""
    text = f"<think>\n</think>\\boxed{{{3 if right else 4}}}"
    segments = [Segment([1], [2] * n, None, text, "stop", Turn("conclusion")) for n in (1, tokens - 1)]
    columns = {"budget": 15, "ref_lengths": [10, 20], "ref_accuracy": 0.5}
    return Episode(f"question {group}", gold, group, segments, StopReason.ANSWERED, columns)


def mixed():
    """The groups' episodes, by turns: a group need not stand together."""
    return [episode(g, LENGTHS[g][i], CORRECT[g][i]) for i in range(4) for g in "ab"]


def load(name, **settings):
    return load_rewards([{"fn": "answer", "weight": 0.0}, {"fn": name} | NEEDED.get(name, {}) | settings], PROTOCOL)


@pytest.mark.parametrize("name", EFFICIENCY)
def test_each_is_its_formula_on_each_group(name):
    extra = {
        "l1_exact": {"budgets": [15] * 4}, "l1_max": {"budgets": [15] * 4}, "hapo": {"best_length": None},
        "o1_pruner": {"ref_lengths": [10, 20], "ref_accuracy": 0.5},
    }.get(name, {}) | NEEDED.get(name, {})  # fmt: skip
    expected = {g: getattr(length, name)(LENGTHS[g], CORRECT[g], **extra) for g in "ab"}
    scores = score_episodes(mixed(), load(name))
    assert not scores.errors, scores.messages
    assert scores[name] == pytest.approx([expected[g][i] for i in range(4) for g in "ab"])
    assert scores.total == pytest.approx(scores[name])


def test_what_cannot_be_judged_is_no_part_of_its_group():
    episodes = [episode("a", n, c) for n, c in zip(LENGTHS["a"], CORRECT["a"], strict=True)]
    values = score_episodes([*episodes, episode("a", 1000, True, gold="")], load("kimi"))["kimi"]
    assert values == [*length.kimi(LENGTHS["a"], CORRECT["a"]), None]


def test_hapo_remembers_the_shortest_right_answer_across_a_resume(tmp_path):
    rewards = load("hapo", weight=1.0)
    score_episodes(mixed(), rewards)
    save_reward_states(rewards, tmp_path)
    again = load("hapo")
    load_reward_states(again, tmp_path)
    for loaded in (rewards, again):
        values = score_episodes(mixed(), loaded)["hapo"]
        assert values[0::2] == pytest.approx(length.hapo(LENGTHS["a"], CORRECT["a"], best_length=20))
        assert values[1::2] == pytest.approx(length.hapo(LENGTHS["b"], CORRECT["b"], best_length=7))
    assert score_episodes(mixed(), load("hapo"))["hapo"][0] == 1.0  # another run has its own memory


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"fn": "dast"}, "dast needs the setting 'max_length'"),
        ({"fn": "kimi", "alpha": 1}, "kimi has no setting 'alpha'; it takes none"),
        ({"fn": "alp", "beta": float("nan")}, r"alp\.beta is nan"),
        ({"fn": "laser", "target": "long"}, r"laser\.target is 'long'; it must be a number"),
        ({"fn": "dast", "max_length": 0}, "dast: max_length contains 0"),
        ({"fn": "o1_pruner", "samples": 0}, "o1_pruner: samples is 0"),
        ({"fn": "hapo", "best_length": 3}, "hapo has no setting 'best_length'; it takes floor"),
        ({"fn": "l1_max", "budget": 3}, "l1_max has no setting 'budget'; it takes alpha, delta"),
        ({"fn": "kimmi"}, "no built-in 'kimmi'; did you mean 'kimi'"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_starts(entry, message):
    with pytest.raises(ValueError, match=message):
        load_rewards([entry], PROTOCOL)


def test_a_missing_column_is_counted_with_its_name():
    episodes = mixed()
    for e in episodes:
        del e.columns["budget"]
    scores = score_episodes(episodes, load("l1_max"))
    assert scores.errors == {"l1_max": 8} and "needs a column 'budget'" in scores.messages["l1_max"]
