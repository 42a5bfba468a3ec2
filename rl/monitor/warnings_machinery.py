"""Warnings about the training system: numerics, engine, servers, reward functions, the process itself."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from rl.app.run_files import is_done
from rl.monitor.figures import duration, number
from rl.monitor.warnings_view import LEVEL_LINES, RECENT, WINDOW, RunWarning, View

_MISMATCH = 0.05  # nats: bfloat16 in two engines gives 0.005 to 0.02
_MISMATCH_SERIOUS = 0.2  # the importance ratio k of a typical token is then off by a fifth
_MISMATCH_RISE = 5.0  # times the initial value; the demo's (float32) changes by a factor below 1.5
_MISMATCH_FLOOR = 0.002  # nats: a rise below it is rounding error
_UNSCORED = 0.5  # mean episodes per log line: one now and then is a hard expression
_QUIET_GAPS = 5.0  # times the usual time between log lines
_QUIET_LEAST = 60.0  # seconds: a checkpoint may take that long
_QUIET_MOST = 86400.0  # seconds after which a stopped run is no longer reported


def not_finite(view: View) -> Iterator[RunWarning]:
    for stage in view.curves.stages():
        for name, title in (("loss", "loss"), ("grad_norm", "gradient norm")):
            steps, _, values = (column[-RECENT:] for column in view.curves.series(stage, name))
            bad = ~np.isfinite(values)
            if bad.any():
                rate, norm = view.setting(f"{stage}.learning_rate"), view.setting(f"{stage}.max_grad_norm")
                at = int(steps[bad][-1])
                yield RunWarning(
                    "not_finite", "serious", f"The {title} is not a number",
                    f"{values[bad][-1]} at step {at} of {stage}",
                    f"Lower {rate} or {norm}, and resume from a checkpoint before it; check its data.",
                    at, name, stage,
                )  # fmt: skip


def stalled(view: View) -> Iterator[RunWarning]:
    stage, times, state = view.curves.stage(), view.curves.times(), view.run.state()
    if stage is None or len(times) < LEVEL_LINES or state not in ("running", "stopped"):
        return
    if is_done(view.run.folder / stage):  # the next stage logs nothing at first, or nothing at all
        return
    usual, quiet = float(np.median(np.diff(times[-RECENT:]))), view.now - times[-1]
    if max(_QUIET_LEAST, _QUIET_GAPS * usual) < quiet < _QUIET_MOST:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(times[-1]))  # an elapsed time would be read out again
        step, most = view.curves.last_step(stage), view.number(f"{stage}.max_steps", 0)
        yield RunWarning(
            "stalled", "warning", "No new log line",
            f"since {since}; they came every {duration(usual)}; the last is step {step}"
            f"{f' of {most:g}' if most > 0 else ''} of {stage}",
            "Check the run's output, and its servers if it has any. If it has ended, the same command resumes from its "
            "last checkpoint.",
            step, "step_time" if stage == "rl" else "loss", stage,
        )  # fmt: skip


def mismatch(view: View) -> Iterator[RunWarning]:
    name = "mismatch/logprob_diff/mean"
    (start, end), level = view.ends(name), view.level(name)
    rising = end >= _MISMATCH_RISE * start and end >= _MISMATCH_FLOOR
    ahead = view.number("rollout.async_steps", 0)
    usual = _MISMATCH * (1 + ahead)  # async rollouts add the policy's own change
    if not rising and not level >= usual:
        return
    masked = view.level("mismatch/masked")
    less = f"lower {view.setting('rollout.async_steps')}; " if ahead else ""
    yield view.warning(
        "mismatch", "serious" if level >= _MISMATCH_SERIOUS * (1 + ahead) else "warning",
        "Trainer and engine drift apart" if rising else "Trainer and engine differ",
        f"mean difference of a token's logprob {number(end if rising else level)} at step {view.step}, "
        + (f"{number(start)} at the start" if rising else f"up to {usual:g} is usual")
        + (f"; {masked:.1%} of the tokens are masked" if masked > 0 else ""),
        "Check that the engine loads every step's weights (time/sync, rollout/staleness) in the trainer's "
        f"{view.setting('model.dtype')}; {less}try rl.cast_lm_head_to_fp32, and rollout.settings without quantization.",
        "mismatch",
    )  # fmt: skip


def failing_rewards(view: View) -> Iterator[RunWarning]:
    for name in view.names:
        if not name.startswith("reward/") or not name.endswith("/errors"):
            continue
        steps, counts = (column[-RECENT:] for column in view.points(name))
        if counts.any():
            yield view.warning(
                "reward_errors", "serious" if np.median(counts[-LEVEL_LINES:]) > 0 else "warning",
                f"The reward {name.removeprefix('reward/').removesuffix('/errors')} fails",
                f"{number(counts.sum())} episodes in the last {len(counts)} log lines, the last time at step "
                f"{steps[counts > 0][-1]:.0f}: they are excluded from the update",
                "The run's output has the message. `sawtooth rewards test` tries a function on examples; its "
                "`time_limit` bounds one call.",
                "errors",
            )  # fmt: skip


def unscored(view: View) -> Iterator[RunWarning]:
    counts = view.points("reward/unscored")[1][-WINDOW:]
    if len(counts) < LEVEL_LINES or counts.mean() < _UNSCORED or np.median(counts) == 0:
        return
    kinds = {"timeout": "timeout", "error": "error of the verifier", "unparsable_gold": "unparsable gold answer"}
    means = {kind: view.points(f"answer/{kind}")[1][-WINDOW:] for kind in kinds}
    reasons = [f"{kinds[kind]}: {number(values.mean())}" for kind, values in means.items() if values.any()]
    remedies = ["Check the errors of the rewards."]
    if means["unparsable_gold"].any():
        remedies = ["Fix or remove questions whose gold answer can't be parsed (data.questions)."]
    failed = view.level("episode/stop/failed")
    if failed > 0:
        reasons.append(f"{failed:.0%} of the episodes failed in the engine")
        remedies.append(
            "Episodes shows a failed episode's error; with servers, check rollout.urls and rollout.settings."
        )
    yield view.warning(
        "unscored", "warning", "Episodes can't be scored",
        f"{number(counts.mean())} per step over {len(counts)} log lines" + "".join(f"; {reason}" for reason in reasons),
        " ".join(remedies), "errors",
    )  # fmt: skip


def staleness(view: View) -> Iterator[RunWarning]:
    age, ahead = view.level("rollout/staleness/max"), view.number("rollout.async_steps", 0)
    accumulation = max(1, view.number("rl.gradient_accumulation_steps", 1))
    slots = view.number("rl.steps_per_generation", accumulation)
    batch = view.number("rl.generation_batch_size", 0)  # on one rank; on more, a batch serves fewer steps
    slots = max(slots, batch / max(1, view.number("rl.per_device_train_batch_size", 8)))
    asked = ahead * math.ceil(slots / accumulation) * view.number("rl.num_iterations", 1)
    if age > asked:
        yield view.warning(
            "staleness", "warning" if ahead else "serious", "Episodes are staler than async_steps allows",
            f"oldest weights of an episode at step {view.step}: {age:g} optimizer steps; rollout.async_steps={ahead:g} "
            f"allows {asked:g}",
            "The servers load new weights too late: check time/sync, the servers' output, that rollout.weights_dir is "
            "one folder for all machines, and that no other run uses them.",
            "staleness",
        )  # fmt: skip


MACHINERY = (not_finite, stalled, mismatch, failing_rewards, unscored, staleness)
