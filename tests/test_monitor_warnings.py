"""Warnings: each fires on a curve that is bad in its way, and none on noisy curves of a healthy run."""

from __future__ import annotations

import json
import math
import re
import time

import numpy as np
import pytest
import yaml

from rl.monitor.charts import layout
from rl.monitor.runs import Run
from rl.monitor.warnings_find import find_warnings
from rl.settings.schema import library_fields

CONFIG = {
    "name": "it",
    "protocol": {"name": "inftythink", "segment_tokens": 32, "summary_tokens": 8, "max_rounds": 5},
    "rl": {"max_steps": 400, "learning_rate": 1e-6, "temperature": 1.0, "max_completion_length": 48},
    "rollout": {"async_steps": 0},
}
LINES = 120


def ramp(start, end, lines=LINES):
    return np.linspace(start, end, lines)


def healthy(lines=LINES, seed=0):
    """Curves of a run that learns: noisy, its entropy falls to a third, its groups get more and more alike."""
    rng = np.random.default_rng(seed)

    def noisy(values, size):
        return values + rng.normal(0, size, lines)

    accuracy = np.clip(noisy(ramp(0.3, 0.85, lines), 0.08), 0, 1)
    answered = np.clip(noisy(ramp(0.6, 0.95, lines), 0.03), 0, 1)
    return {
        "loss": noisy(ramp(0, 0, lines), 0.02),
        "grad_norm": np.abs(noisy(ramp(0.1, 0.05, lines), 0.05)),
        "reward/mean": accuracy * noisy(ramp(0.8, 0.95, lines), 0.02),
        "reward/std": noisy(ramp(0.4, 0.3, lines), 0.03),
        "reward/answer/mean": accuracy,
        "reward/answer/errors": ramp(0, 0, lines),
        "reward/unscored": (rng.random(lines) < 0.1).astype(float),
        "accuracy/mean": accuracy,
        "episode/rounds/mean": noisy(ramp(4.2, 2.1, lines), 0.1),
        "episode/rounds/5": np.clip(noisy(ramp(0.6, 0, lines), 0.05), 0, 1),
        "episode/stop/answered": answered,
        "episode/stop/max_rounds": np.clip(0.9 - answered, 0, 1),
        "episode/stop/malformed": np.abs(noisy(ramp(0.02, 0.02, lines), 0.02)),
        "episode/stop/truncated": np.abs(noisy(ramp(0.03, 0.06, lines), 0.03)),
        "group/frac_zero_std": np.clip(noisy(ramp(0.1, 0.7, lines), 0.1), 0, 1),
        "mismatch/logprob_diff/mean": np.abs(noisy(ramp(0.012, 0.015, lines), 0.004)),
        "rollout/staleness/max": ramp(0, 0, lines),
        "entropy": np.abs(noisy(ramp(0.9, 0.3, lines), 0.08)),
    }


@pytest.fixture
def look(tmp_path):
    """Writes curves as a run's log and gives its warnings."""

    def write(curves, config=None, stage="rl", now=None, every=10.0, ended=None):
        lines = len(next(iter(curves.values())))
        first = (ended or time.time()) - every * (lines - 1)
        with (tmp_path / "metrics.jsonl").open("w") as file:
            for index in range(lines):
                row = {"stage": stage, "step": index + 1, "time": first + every * index}
                row |= {name: float(values[index]) for name, values in curves.items() if values[index] is not None}
                file.write(json.dumps(row) + "\n")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG | (config or {})))
        run = Run("it", tmp_path)
        run.curves.refresh()
        return find_warnings(run, run.curves, now)

    return write


BAD = {
    "entropy": ({"entropy": ramp(1.3, -0.6).clip(0.02)}, "entropy 0.02 at step 120, 1.2", "serious", "entropy"),
    "truncated": ({"episode/stop/truncated": ramp(0.1, 1.0) ** 0.1}, "reached the token limit", "serious", "stops"),
    "malformed": ({"episode/stop/malformed": ramp(0, 0.25)}, "24% at step 120, 1% at the start", "warning", "stops"),
    "mismatch": ({"mismatch/logprob_diff/mean": ramp(0.002, 0.04)}, "0.00344 at the start", "warning", "mismatch"),
    "rounds": ({"episode/rounds/5": ramp(0.2, 1.0)}, "protocol.max_rounds=5", "serious", "rounds"),
    "reward_errors": ({"reward/answer/errors": ramp(0, 3)}, "episodes in the last 20 log lines", "serious", "errors"),
    "unscored": ({"reward/unscored": ramp(3, 3)}, "3 per step over 10 log lines", "warning", "errors"),
    "staleness": ({"rollout/staleness/max": ramp(2, 2)}, "rollout.async_steps=0 allows 0", "serious", "staleness"),
    "no_signal": ({"group/frac_zero_std": ramp(0.98, 1)}, "they carry no training signal", "warning", "zero_variance"),
    "not_finite": ({"grad_norm": np.append(ramp(1, 1)[1:], math.nan)}, "nan at step 120 of rl", "serious", "grad_norm"),
    "reward_hacking": (
        {"accuracy/mean": ramp(0.8, 0.3), "reward/mean": ramp(0.5, 1.0)},
        "accuracy 0.781 at step 10, 0.319 at step 120",
        "serious",
        "accuracy",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_fires_on_a_bad_curve(look, kind):
    curves, detail, level, chart = BAD[kind]
    found = [warning for warning in look(healthy() | curves) if warning.kind == kind]
    assert len(found) == 1, found
    assert detail in found[0].detail and (found[0].level, found[0].chart, found[0].step) == (level, chart, 120)


@pytest.mark.parametrize("kind", BAD)
def test_noise_does_not_hide_it(look, kind):
    rng = np.random.default_rng(3)
    curves = {
        n: v * rng.uniform(0.9, 1.1, LINES).clip(0.9, 1 if kind == "rounds" else 2) for n, v in BAD[kind][0].items()
    }
    assert kind in {warning.kind for warning in look(healthy() | curves)}


def test_nothing_on_noisy_healthy_runs_of_any_length(look):
    for seed in range(25):
        for lines in (1, 5, 19, 20, 60, 400):
            assert look(healthy(lines, seed)) == [], (seed, lines)


@pytest.mark.parametrize("kind", ["entropy", "malformed", "mismatch", "reward_hacking"])
def test_trends_are_silent_on_short_runs(look, kind):
    curves = healthy() | BAD[kind][0]
    pick = np.linspace(0, LINES - 1, 19).astype(int)
    assert look({name: values[pick] for name, values in curves.items()}) == []


def test_levels_need_a_few_lines(look):
    short = {n: v[-4:] for n, v in (healthy() | BAD["no_signal"][0] | BAD["rounds"][0]).items()}
    assert look(short) == []


@pytest.mark.parametrize("kind", ["truncated", "malformed"])
def test_what_all_episodes_are_from_the_first_line_on_is_told_at_once(look, kind):
    def curves(shares):
        return {n: v[: len(shares)] for n, v in healthy().items()} | {f"episode/stop/{kind}": np.array(shares)}

    for lines in (1, 3):
        (warning,) = look(curves([1.0] * lines))
        assert (warning.kind, warning.level) == (kind, "serious") and "100%" in warning.detail
    assert look(curves([1.0, 0.2, 1.0])) == []


def test_one_odd_line_is_not_news(look):
    curves = healthy()
    for name, value in {"episode/stop/truncated": 1.0, "entropy": 0.0, "mismatch/logprob_diff/mean": 9.0}.items():
        curves[name][-1] = value
    assert look(curves) == []


def test_gaps_and_nan_are_passed_over(look):
    curves = healthy() | {"entropy": ramp(1.3, -0.6).clip(0.02)}
    holes = {name: values.astype(object) for name, values in curves.items() if name not in ("loss", "grad_norm")}
    for values in holes.values():
        values[::3], values[1::7] = None, math.nan
    assert {warning.kind for warning in look(curves | holes)} == {"entropy"}
    assert look({"loss": ramp(1, 0.5)}) == [] and look({"accuracy/mean": np.full(50, math.nan)}) == []


def test_the_demo_is_healthy(look):
    """The figures of `runs/demo`: entropy to a quarter, accuracy 35 to 89 %, rounds 4.2 to 2.1, all in 30 steps."""
    share = 0.1 + 0.9 * np.exp(-np.arange(30) / 4)
    curves = {
        "accuracy/mean": 0.89 - 0.55 * np.exp(-np.arange(30) / 3),
        "reward/mean": 0.85 - 0.57 * np.exp(-np.arange(30) / 3),
        "reward/std": np.full(30, 0.3),
        "entropy": 0.01 + 0.029 * np.exp(-np.arange(30) / 7),
        "episode/rounds/mean": 2 + 2.2 * share,
        "episode/rounds/5": 0.68 * np.exp(-np.arange(30) / 3),
        "episode/stop/max_rounds": 0.62 * np.exp(-np.arange(30) / 3),
        "episode/stop/truncated": ramp(0, 0.035, 30),
        "group/frac_zero_std": ramp(0.1, 0.75, 30),
        "mismatch/logprob_diff/mean": np.full(30, 4e-7),
    }
    assert look(curves) == []


def test_a_sure_policy_that_is_right_has_not_collapsed(look):
    assert look(healthy() | {"entropy": ramp(1.3, 0.01), "accuracy/mean": ramp(0.5, 0.99)}) == []


def test_reward_up_with_accuracy_names_what_rose(look):
    curves, *_ = BAD["reward_hacking"]
    found = look(healthy() | curves | {"reward/answer/mean": curves["accuracy/mean"], "reward/short/mean": ramp(0, 1)})
    assert [warning.kind for warning in found] == ["reward_hacking"] and "; short rose most" in found[0].detail


def test_both_down_is_no_hacking(look):
    assert look(healthy() | {"accuracy/mean": ramp(0.8, 0.3), "reward/mean": ramp(0.8, 0.3)}) == []


def test_the_worst_fault_is_named(look):
    faults = {"episode/malformed/open_thinking": ramp(0, 0.2), "episode/malformed/no_answer": ramp(0, 0.05)}
    (found,) = look(healthy() | {"episode/stop/malformed": ramp(0, 0.25)} | faults)
    assert "most often: open thinking" in found.detail and found.chart == "malformed"


def test_vanilla_has_one_round_and_that_is_right(look):
    one = {"episode/rounds/mean": ramp(1, 1), "episode/rounds/1": ramp(1, 1), "episode/rounds/5": ramp(0, 0)}
    assert look(healthy() | one, {"protocol": {"name": "vanilla", "max_rounds": 1}}) == []


def test_rounds_that_old_logs_leave_out_count_as_none(look):
    curves = healthy() | {"episode/rounds/5": np.array([1.0] * 20 + [None] * 100, dtype=object)}
    assert look(curves) == []


@pytest.mark.parametrize(
    ("settings", "age", "fires"),
    [
        ({"rollout": {"async_steps": 1}}, 1, False),
        ({"rollout": {"async_steps": 1}}, 2, True),
        (
            {"rollout": {"async_steps": 2}, "rl": {"gradient_accumulation_steps": 2, "steps_per_generation": 6}},
            6,
            False,
        ),
        ({"rollout": {"async_steps": 1}, "rl": {"num_iterations": 2}}, 3, True),
        (
            {"rollout": {"async_steps": 1}, "rl": {"generation_batch_size": 64, "per_device_train_batch_size": 16}},
            4,
            False,
        ),
        ({"rollout": "broken", "rl": {"steps_per_generation": "many"}}, 0, False),
    ],
)
def test_staleness_against_what_was_asked_for(look, settings, age, fires):
    found = look(healthy() | {"rollout/staleness/max": ramp(age, age)}, settings)
    assert [warning.kind for warning in found] == ["staleness"] * fires


def test_mismatch_may_be_larger_with_rollouts_ahead(look):
    curves = healthy() | {"mismatch/logprob_diff/mean": ramp(0.06, 0.06)}
    assert [warning.kind for warning in look(curves)] == ["mismatch"]
    assert look(curves, {"rollout": {"async_steps": 1}}) == []


def minute(when):
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def test_a_run_that_goes_silent(look, tmp_path):
    now = time.time()
    assert look(healthy(), ended=now - 45, now=now) == []
    (found,) = look(healthy(), ended=now - 90, now=now)
    assert (found.kind, found.level) == ("stalled", "warning")
    assert found.detail == f"since {minute(now - 90)}; they came every 10 s; the last is step 120 of 400 of rl"
    (found,) = look(healthy(), ended=now - 3 * 3600, now=now)
    assert found.level == "warning" and minute(now - 3 * 3600) in found.detail
    assert look(healthy(), ended=now - 30 * 86400, now=now) == []  # an old run that was never finished
    assert look(healthy(), every=600, ended=now - 1500, now=now) == []  # its steps take that long
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "done.json").write_text("{}")
    assert look(healthy(), ended=now - 3 * 3600, now=now) == []


def test_sft_is_looked_at_too(look):
    loss = np.append(ramp(3, 1)[1:], math.inf)
    (found,) = look({"loss": loss, "entropy": ramp(3, 0.01)}, stage="sft")
    assert (found.kind, found.step) == ("not_finite", 120) and "sft.learning_rate" in found.remedy


def test_no_config_and_no_lines(tmp_path):
    run = Run("it", tmp_path)
    run.curves.refresh()
    assert find_warnings(run, run.curves) == []
    (tmp_path / "config.yaml").write_text("protocol: [1\n")
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rl", "st')
    run.curves.refresh()
    assert find_warnings(run, run.curves) == []


def test_remedies_name_settings_that_exist_and_charts_that_show_it(look):
    sections = {"rl": library_fields("EpisodeGRPOConfig"), "sft": library_fields("SFTConfig")}
    known = {f"{section}.{key}" for section, keys in sections.items() for key in keys}
    known |= {
        "protocol.segment_tokens",
        "protocol.summary_tokens",
        "protocol.max_rounds",
        "data.questions",
        "model.dtype",
    }
    known |= {"rollout.async_steps", "rollout.settings", "rollout.urls", "rollout.weights_dir"}
    for kind, (curves, *_) in BAD.items():
        faults = {"episode/malformed/empty": ramp(0, 0.2), "answer/unparsable_gold": ramp(1, 1)}
        whole = healthy() | faults | {"episode/stop/failed": ramp(0.1, 0.1)} | curves
        warning = next(warning for warning in look(whole) if warning.kind == kind)
        named = set(re.findall(r"\b(?:rl|sft|protocol|rollout|data|model)\.\w+", warning.remedy))
        assert named <= known, named - known
        assert warning.chart in {chart.id for chart in layout(list(whole), "rl")}
