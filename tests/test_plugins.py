"""Users' reward functions: where they come from, and every way in which one can fail."""

from __future__ import annotations

import asyncio
import math
import sys
import time

import pytest

from rewards.call import RewardError
from rewards.load import load_rewards
from rewards.score import FailureWatch, Reward, score_episodes
from rollout.protocol import get_protocol
from tests.test_composition import episode

EPISODES = [episode(group=0), episode(group=1), episode(group=1), episode(group=2)]


def failing(how):
    """A function that is well but for group 1."""

    def mine(episodes, **_):
        values = [1.0] * len(episodes)
        hit = [i for i, e in enumerate(episodes) if e.group_id == 1]
        if not hit:
            return values
        if how == "raises":
            raise KeyError("no such column")
        if how == "too few":
            return values[:-1]
        if how == "too many":
            return [*values, 1.0]
        if how in ("None", "text", "number"):
            return {"None": None, "text": "good", "number": 3.0}[how]
        for index in hit:
            values[index] = {"nan": math.nan, "infinite": math.inf, "a word": "good", "a list": [1.0]}[how]
        return values

    return mine


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "KeyError: 'no such column'"),
        ("too few", "returned 3 values for 4 episodes: return one per episode, in order"),
        ("too many", "returned 5 values for 4 episodes"),
        ("None", "returned NoneType, not a list"),
        ("text", "returned str, not a list"),
        ("number", "returned float, not a list"),
        ("nan", "returned nan: return None for an episode that can't be scored"),
        ("infinite", "returned an infinite value"),
        ("a word", "'good': a value must be a number or None"),
        ("a list", "[1.0]: a value must be a number or None"),
    ],
)
def test_a_failure_costs_its_own_group_and_is_counted(how, message):
    scores = score_episodes(EPISODES, [Reward(failing(how), "mine")])
    assert [math.isnan(t) for t in scores.total] == [False, True, True, False]
    assert scores["mine"] == [1.0, None, None, 1.0]
    assert scores.metrics()["reward/mine/errors"] == 2 and scores.metrics()["reward/unscored"] == 2
    assert message in scores.messages["mine"]


@pytest.mark.parametrize(
    "returned", [None, [], 3.0, "good", {1.0, 2.0, 3.0, 4.0}, ["a"] * 4, [math.nan] * 4, [10**400] * 4]
)
def test_a_contract_broken_on_every_episode_stops_at_once(returned):
    with pytest.raises(RewardError, match="reward 'mine' returned"):
        score_episodes(EPISODES, [Reward(lambda **_: returned, "mine")])


def test_raising_on_everything_stops_after_three_steps():
    def mine(**_):
        raise OSError("the judge is down")

    watch, scores = FailureWatch(), score_episodes(EPISODES, [mine])
    assert watch.check(scores, 4) == watch.check(scores, 4)
    with pytest.raises(RewardError, match="failed on every episode of 3 steps in a row: OSError: the judge is down"):
        watch.check(scores, 4)


def test_leaving_the_process_is_a_failure_too():
    scores = score_episodes(EPISODES, [Reward(lambda **_: sys.exit(0), "mine")])
    assert scores.errors == {"mine": 4} and "SystemExit" in scores.messages["mine"]


def test_none_is_no_error():
    scores = score_episodes(EPISODES, [lambda episodes, **_: [None] * len(episodes)])
    assert not scores.errors and scores.metrics()["reward/unscored"] == 4


@pytest.mark.parametrize("kind", ["sync", "async", "async that blocks"])
def test_a_time_limit(kind):
    def sync(episodes, **_):
        time.sleep(30)

    async def patient(episodes, **_):
        await asyncio.sleep(30)

    async def blocking(episodes, **_):
        time.sleep(30)

    function = {"sync": sync, "async": patient, "async that blocks": blocking}[kind]
    started = time.monotonic()
    scores = score_episodes(EPISODES, [Reward(function, "slow", time_limit=0.2), Reward(failing("nan"), "other")])
    assert time.monotonic() - started < 25
    assert scores.errors == {"slow": 4, "other": 2}
    assert "took longer than its time_limit of 0.2 s" in scores.messages["slow"]


def test_a_time_limit_that_is_kept_changes_nothing():
    scores = score_episodes(EPISODES, [Reward(failing("raises"), "mine", time_limit=30.0)])
    assert scores.errors == {"mine": 2} and "KeyError" in scores.messages["mine"]


def test_an_async_function_inside_a_running_loop_as_in_a_notebook():
    async def mine(episodes, **_):
        await asyncio.sleep(0)
        return [1.0] * len(episodes)

    async def cell():
        return score_episodes(EPISODES, [mine]).total

    assert asyncio.run(cell()) == [1.0] * 4


def test_an_installed_packages_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_rewards.py").write_text(
        "def brief(episodes, limit=5, **_):\n    return [float(e.num_tokens <= limit) for e in episodes]\n"
    )
    info = tmp_path / "their_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sawtooth.rewards]\nbrief = their_rewards:brief\n")
    monkeypatch.syspath_prepend(tmp_path)
    protocol = get_protocol("inftythink")
    rewards = load_rewards([{"fn": "brief", "limit": 10}], protocol)
    assert score_episodes([episode(tokens=10), episode(tokens=11)], rewards).total == [1.0, 0.0]
    with pytest.raises(ValueError, match="did you mean 'brief'"):
        load_rewards([{"fn": "breif"}], protocol)
    sys.modules.pop("their_rewards", None)
