"""The charts of a run, in reading order. Every logged metric is on one of them.

The exceptions are TRL's metrics that are also logged under a name of ours (docs/rules.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Chart:
    """One plot: curves that share an axis."""

    id: str
    title: str
    kind: str  # "lines" or "stacked"
    unit: str  # of the axis; "" for none
    names: list[str]  # metrics, as logged
    labels: list[str]  # one per name
    note: str  # its meaning and what is good, one line


@dataclass(frozen=True)
class _Rule:
    """A chart and the metrics that belong on it. `*` in a name matches any text, which `{}` in the label shows."""

    id: str
    title: str
    unit: str
    names: dict[str, str]
    note: str
    kind: str = "lines"


_ERRORS = {
    "reward/unscored": "not scored", "reward/*/errors": "{} failed", "answer/timeout": "answer: out of time",
    "answer/error": "answer: error", "answer/unparsable_gold": "answer: gold unreadable",
}  # fmt: skip
_TIMES = {
    "time/rollout": "rollout", "time/reward": "reward", "time/update": "update", "time/sync": "weight sync",
    "time/store": "storing episodes", "time/*": "{}",
}  # fmt: skip
_STOPS = {
    "episode/stop/answered": "answered", "episode/stop/max_rounds": "out of rounds",
    "episode/stop/malformed": "malformed", "episode/stop/truncated": "truncated", "episode/stop/failed": "failed",
    "episode/stop/*": "{}",
}  # fmt: skip
_LOSSES = {"loss": "loss", "policy_loss": "policy loss", "aux_loss": "auxiliary loss"}
_OPTIMIZER = (
    _Rule(
        "grad_norm", "Gradient norm", "", {"grad_norm": "gradient norm"}, "Before clipping; peaks go with bad steps."
    ),
    _Rule("learning_rate", "Learning rate", "", {"learning_rate": "learning rate"}, "As the schedule sets it."),
)
_RL = (
    _Rule(
        "reward", "Reward", "", {"reward/mean": "total", "reward/*/mean": "{}"},
        "Mean over the scored episodes; the parts are before their weights. Up, and accuracy with it, is good.",
    ),
    _Rule("accuracy", "Accuracy", "share", {"accuracy/mean": "all"}, "What the verifier says of this step's episodes."),
    _Rule(
        "accuracy_rounds", "Accuracy by rounds", "share", {"accuracy/rounds/*": "rounds: {}"},
        "Of the episodes with so many rounds. Few episodes make a jagged line.",
    ),
    _Rule(
        "rounds", "Rounds of an episode", "rounds", {"episode/rounds/mean": "mean", "episode/rounds/max": "most"},
        "At protocol.max_rounds all the time: episodes run out of rounds.",
    ),
    _Rule(
        "rounds_shares", "Episodes by rounds", "share of episodes", {"episode/rounds/*": "rounds: {}"},
        "How many rounds the episodes took.", "stacked",
    ),
    _Rule(
        "tokens", "Tokens of an episode", "tokens", {"episode/tokens/mean": "mean", "episode/tokens/max": "most"},
        "Generated, over all rounds.",
    ),
    _Rule(
        "context", "Peak context", "tokens", {"episode/context/mean": "mean"},
        "Most tokens that a round of an episode held at once: what rounds keep low.",
    ),
    _Rule(
        "stops", "Why episodes end", "share of episodes", _STOPS,
        "Answered is good; out of rounds, malformed and truncated get no reward from the verifier.", "stacked",
    ),
    _Rule(
        "malformed", "Why rounds are malformed", "share of episodes", {"episode/malformed/*": "{}"},
        "What was wrong with the round that could not be read. Near 0 is good.", "stacked",
    ),
    _Rule(
        "summary", "Length of a summary", "tokens", {"summary/tokens/mean": "mean"},
        "Against protocol.summary_tokens. Towards 0: nothing is handed on.",
    ),
    _Rule(
        "zero_variance", "Groups whose rewards are equal", "share of groups", {"group/frac_zero_std": "equal rewards"},
        "They teach nothing: all right or all wrong. Near 1 the update is empty.",
    ),
    _Rule("reward_std", "Spread of the rewards", "", {"reward/std": "std"}, "Over all scored episodes of a step."),
    _Rule(
        "groups", "Groups left out and put in", "groups",
        {
            "group/dropped_failed": "left out: failed", "group/dropped_all_right": "left out: all right",
            "group/dropped_all_wrong": "left out: all wrong", "group/refilled": "put in",
        },
        "rl.dynamic_sampling replaces groups that are all right or all wrong; a failed episode takes its group out.",
    ),
    _Rule(
        "mismatch", "Trainer against engine", "nats", {"mismatch/logprob_diff/mean": "mean"},
        "Mean |difference of a token's logprob|. Small and flat is good; it grows where weights or precision differ.",
    ),
    _Rule(
        "mismatch_max", "Trainer against engine, worst token", "nats", {"mismatch/logprob_diff/max": "most"},
        "One token is enough for a peak; a lasting rise is a sign.",
    ),
    _Rule(
        "masked", "Tokens masked by IcePop", "share of tokens", {"mismatch/masked": "masked"},
        "Their k is outside rl.vllm_importance_sampling_clip_min and _max: they teach nothing.",
    ),
    _Rule(
        "entropy", "Entropy", "nats a token", {"entropy": "mean"},
        "Falls as the policy gets sure; at 0 it tries nothing new.",
    ),
    _Rule(
        "clip", "Clipped tokens", "share of tokens", {"clip_ratio/*": "{}", "cispo_clip_ratio": "CISPO"},
        "0 while each batch serves one optimizer step; a large share: the policy moves too far on one batch.",
    ),
    _Rule(
        "kl", "KL to the reference", "nats", {"kl": "mean"},
        "With rl.beta above 0: how far the policy went from its start.",
    ),
    _Rule(
        "staleness", "Age of the episodes' weights", "optimizer steps",
        {"rollout/staleness/mean": "mean", "rollout/staleness/max": "most"},
        "As many generation batches as rollout.async_steps says, at most.",
    ),
    _Rule(
        "straddled", "Episodes of several versions", "share of episodes", {"rollout/straddled": "straddled"},
        "More than one version of the weights sampled them.",
    ),
    _Rule(
        "guards", "Measures of cheats", "0 to 1", {"guard/*/mean": "{}"},
        "0 is clean. A measure is not a verdict: look at episodes where one rises with the reward.",
    ),
    _Rule(
        "guard_shares", "Episodes above half of a measure", "share of episodes", {"guard/*/share": "{}"},
        "Of the episodes that have what is measured.",
    ),
    _Rule(
        "gates", "Open gates of rewards", "share of episodes", {"reward/*/open": "{}"},
        "In whose group the term counts.",
    ),
    _Rule(
        "errors", "Episodes not scored", "episodes", _ERRORS,
        "0 is good: what can't be scored is left out of the update.",
    ),
    _Rule("time", "Time of a step by part", "seconds", _TIMES, "Where a step's time goes.", "stacked"),
    _Rule(
        "step_time", "Time of a step", "seconds", {"step_time": "whole step"},
        "Longer while the tokens are not: look at the parts.",
    ),
    _Rule("loss", "Loss", "", _LOSSES, "Hovers around 0 by its making: the reward tells more."),
    *_OPTIMIZER,
)  # fmt: skip
_SFT = (
    _Rule("loss", "Loss", "nats a token", _LOSSES, "Down is good."),
    _Rule(
        "token_accuracy", "Token accuracy", "share of tokens", {"mean_token_accuracy": "trained tokens"},
        "The most likely token is the right one.",
    ),
    _Rule(
        "entropy", "Entropy", "nats a token", {"entropy": "mean"},
        "How unsure the model is over the trained tokens.",
    ),
    *_OPTIMIZER,
)  # fmt: skip
_NO_METRICS = {"stage", "step", "time"}
_SECOND_NAMES = re.compile(r"(eval_)?(reward|reward_std|rewards/.+|completions/.+|frac_reward_zero_std|sampling/.+)")


def layout(names: Sequence[str], stage: str) -> list[Chart]:
    """Returns a stage's ("sft" or "rl") charts of `names`, then those of `eval_…` metrics (evaluation in training)."""
    known = [n for n in dict.fromkeys(names) if n not in _NO_METRICS and not _SECOND_NAMES.fullmatch(n)]
    in_eval = [name.removeprefix("eval_") for name in known if name.startswith("eval_")]
    charts, rest = [], [name for name in known if not name.startswith("eval_")]
    for rule in _SFT if stage == "sft" else _RL:
        labels = _take(rule, rest)
        if labels:
            charts.append(
                Chart(rule.id, rule.title, rule.kind, rule.unit, list(labels), list(labels.values()), rule.note)
            )
            rest = [name for name in rest if name not in labels]
    charts += _others(rest)
    for chart in layout(in_eval, stage) if in_eval else []:
        names = [f"eval_{name}" for name in chart.names]
        charts.append(
            replace(chart, id=f"eval_{chart.id}", title=f"{chart.title}, evaluation in training", names=names)
        )
    return charts


def _take(rule: _Rule, names: Sequence[str]) -> dict[str, str]:
    """Returns labels of the `names` that belong on the rule's chart, in the rule's order, then 2 before 10."""
    labels: dict[str, str] = {}
    for pattern, label in rule.names.items():
        matcher = re.compile(re.escape(pattern).replace(r"\*", "(.+)"))
        found = [match for name in names if name not in labels and (match := matcher.fullmatch(name))]
        for match in sorted(found, key=lambda m: natural(m[0])):
            labels[match[0]] = label.format(*(text.replace("_", " ") for text in match.groups()))
    return labels


def _others(names: Sequence[str]) -> list[Chart]:
    """Returns charts of names without a rule: one per common prefix (`mine/a`, `mine/b`), one per other name."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=natural):
        groups.setdefault(name.rpartition("/")[0] or name, []).append(name)
    return [
        Chart(f"other/{prefix}", prefix, "lines", "", members, [m.removeprefix(f"{prefix}/") for m in members], "")
        for prefix, members in sorted(groups.items(), key=lambda item: "/" not in item[1][0])
    ]


def natural(name: str) -> list[tuple[int, str]]:
    """Returns a sort key that puts 10 after 2."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
