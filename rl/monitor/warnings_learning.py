"""Warnings about learning: what the policy's episodes look like, and whether they carry a training signal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rl.monitor.figures import number
from rl.monitor.warnings_view import LEVEL_LINES, TREND_LINES, WINDOW, RunWarning, View, noise

_NEARLY_ALL = 0.9  # share of episodes that counts as all: the rest is too little to learn from
_HALF = 0.5
_ENTROPY_LEFT = 0.1  # of the initial entropy; healthy demo runs keep a quarter to a half
_ENTROPY_LOW = 0.3  # nats: above it a policy still explores, whatever its initial entropy
_SOLVED = 0.95  # accuracy at which a low entropy is the desired result
_MALFORMED = 0.1  # share that is not chance if the start had half of it or less
_MALFORMED_SERIOUS = 0.3
_ACCURACY_FALL = 0.1  # from the best window
_REWARD_RISE = 0.1  # of the standard deviation of rewards within a batch: less is drift
_NOISES = 5.0  # standard errors of a window's median: the best of hundreds of windows is 3 to 4 above by chance
_NO_SIGNAL = 0.95  # share of groups with equal rewards; healthy demo runs end at 0.4 to 0.75


def entropy(view: View) -> Iterator[RunWarning]:
    start, end = view.ends("entropy")
    if end < min(_ENTROPY_LEFT * start, _ENTROPY_LOW) and not view.level("accuracy/mean") >= _SOLVED:
        yield view.warning(
            "entropy", "serious", "The entropy has collapsed",
            f"entropy {number(end)} at step {view.step}, {number(start)} at the start: samples of a question are alike",
            f"Raise {view.setting('rl.temperature')} or {view.setting('rl.epsilon_high')}, lower "
            f"{view.setting('rl.learning_rate')}, or reward entropy with {view.setting('rl.entropy_coef')}; resume "
            "from a checkpoint before the drop.",
            "entropy",
        )  # fmt: skip


def truncated(view: View) -> Iterator[RunWarning]:
    share = view.all_along("episode/stop/truncated")
    if share >= _HALF:
        all_of_them = share >= _NEARLY_ALL
        yield view.warning(
            "truncated", "serious" if all_of_them else "warning",
            f"{'Nearly all' if all_of_them else 'Most'} episodes are cut off",
            f"{share:.0%} at step {view.step} reached the token limit of a round: no conclusion, no answer reward",
            f"Raise {view.setting('rl.max_completion_length')}, which bounds a round (protocol.segment_tokens, "
            "protocol.summary_tokens and tags). If they ramble, train SFT for longer, "
            f"{view.setting('sft.max_steps')}, or exclude them from the update (rl.mask_truncated_completions).",
            "stops",
        )  # fmt: skip


def malformed(view: View) -> Iterator[RunWarning]:
    (start, end), share = view.ends("episode/stop/malformed"), view.all_along("episode/stop/malformed")
    rising = end >= _MALFORMED and end >= 2 * start
    if not rising and not share >= _HALF:
        return
    faults = {n: view.level(n) for n in view.names if n.startswith("episode/malformed/") and view.level(n) > 0}
    worst = max(faults, key=faults.get, default="")
    why = f"; most often: {worst.rpartition('/')[2].replace('_', ' ')}" if worst else ""
    before = f", {start:.0%} at the start" if rising else ""
    share = end if rising else share
    yield view.warning(
        "malformed", "serious" if share >= _MALFORMED_SERIOUS else "warning",
        "More and more episodes are malformed" if rising else "Most episodes are malformed",
        f"{share:.0%} at step {view.step}{before}{why}",
        f"Look at some of them (Episodes, stop reason malformed). Lower {view.setting('rl.learning_rate')} or "
        f"{view.setting('rl.temperature')}, keep the policy near its start with {view.setting('rl.beta')}, or train "
        f"SFT for longer, {view.setting('sft.max_steps')}.",
        "malformed" if worst else "stops",
    )  # fmt: skip


def pinned(view: View) -> Iterator[RunWarning]:
    phi = view.protocol.get("max_rounds")
    if not isinstance(phi, int) or phi < 2 or view.protocol.get("name") == "vanilla":
        return
    lines = view.points("episode/rounds/mean")[0][-LEVEL_LINES:]
    logged = dict(zip(*view.points(f"episode/rounds/{phi}"), strict=True))  # old logs omit a share of 0
    at_phi = np.median([logged.get(step, 0.0) for step in lines]) if len(lines) == LEVEL_LINES else math.nan
    unanswered = view.level("episode/stop/max_rounds")
    if at_phi >= _NEARLY_ALL or unanswered >= _NEARLY_ALL:
        yield view.warning(
            "rounds", "serious", f"Episodes use up all {phi} rounds",
            f"at step {view.step} {at_phi:.0%} take protocol.max_rounds={phi} rounds, {unanswered:.0%} give no answer",
            "If they are near an answer, raise protocol.max_rounds (a new run: SFT depends on it) or "
            f"{view.setting('protocol.segment_tokens')}. If they go in circles, check what their summaries carry over "
            "(Episodes, stop reason max_rounds) and reward fewer rounds (rewards: iteration_decay).",
            "rounds",
        )  # fmt: skip


def hacked(view: View) -> Iterator[RunWarning]:
    """Warns if accuracy is well below its best window while the reward is above that window's."""
    (steps, accuracy), (reward_steps, reward) = view.points("accuracy/mean"), view.points("reward/mean")
    steps, here, there = np.intersect1d(steps, reward_steps, return_indices=True)
    accuracy, reward = accuracy[here], reward[there]
    if len(steps) < TREND_LINES:
        return
    right, paid = (np.median(np.lib.stride_tricks.sliding_window_view(x, WINDOW), axis=1) for x in (accuracy, reward))
    best = int(np.argmax(right))
    fall, rise = right[best] - right[-1], paid[-1] - paid[best]
    spreads = view.points("reward/std")[1]
    spread = float(np.median(spreads)) if len(spreads) else float(np.std(reward))
    if fall < max(_ACCURACY_FALL, _NOISES * noise(accuracy)):
        return
    if rise <= max(_REWARD_RISE * spread, _NOISES * noise(reward)):
        return
    grown = {
        n: view.ends(n) for n in view.names if n.startswith("reward/") and n.endswith("/mean") and n != "reward/mean"
    }
    rises = {n.removeprefix("reward/").removesuffix("/mean"): end - start for n, (start, end) in grown.items()}
    first = max(rises, key=rises.get, default="")
    yield view.warning(
        "reward_hacking", "serious", "The reward goes up while the accuracy goes down",
        f"accuracy {number(right[best])} at step {steps[best + WINDOW - 1]:.0f}, {number(right[-1])} at step "
        f"{view.step}; reward {number(paid[best])} then, {number(paid[-1])} now"
        + (f"; {first} rose most" if first else ""),
        "Look at episodes with a high reward and a wrong answer, and at the guards. In `rewards`, lower the weight of "
        "rewards that pay without an answer, let them multiply the verifier (combine: multiply), or gate them.",
        "accuracy",
    )  # fmt: skip


def no_signal(view: View) -> Iterator[RunWarning]:
    share, accuracy = view.level("group/frac_zero_std"), view.level("accuracy/mean")
    if share >= _NO_SIGNAL:
        known = "" if math.isnan(accuracy) else f", accuracy {accuracy:.2f}"
        first = "harder ones" if accuracy >= _HALF else "easier ones, or train SFT for longer (sft.max_steps)"
        yield view.warning(
            "no_signal", "warning", "Nearly all groups have equal rewards",
            f"{share:.0%} of the groups at step {view.step}{known}: they carry no training signal",
            f"Change the questions (data.questions): {first}. Raise {view.setting('rl.num_generations')} or "
            f"{view.setting('rl.temperature')}, or replace such groups ({view.setting('rl.dynamic_sampling')}).",
            "zero_variance",
        )  # fmt: skip


LEARNING = (hacked, truncated, pinned, entropy, malformed, no_signal)
