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
    "reward/unscored": "not scored", "reward/*/errors": "{} failed", "answer/timeout": "answer: timeout",
    "answer/error": "answer: error", "answer/unparsable_gold": "answer: gold unparsable",
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
        "grad_norm", "Gradient norm", "", {"grad_norm": "gradient norm"}, "Before clipping; peaks indicate bad steps."
    ),
    _Rule("learning_rate", "Learning rate", "", {"learning_rate": "learning rate"}, "Set by the schedule."),
)
_RL = (
    _Rule(
        "reward", "Reward", "", {"reward/mean": "total", "reward/*/mean": "{}"},
        "Mean over the scored episodes; the parts are unweighted. A rise together with accuracy is good.",
    ),
    _Rule("accuracy", "Accuracy", "share", {"accuracy/mean": "all"}, "The verifier's verdicts on a step's episodes."),
    _Rule(
        "accuracy_rounds", "Accuracy by rounds", "share", {"accuracy/rounds/*": "rounds: {}"},
        "Over the episodes with that many rounds; noisy if there are few.",
    ),
    _Rule(
        "rounds", "Rounds per episode", "rounds", {"episode/rounds/mean": "mean", "episode/rounds/max": "max"},
        "Always at protocol.max_rounds: episodes run out of rounds.",
    ),
    _Rule(
        "rounds_shares", "Episodes by rounds", "share of episodes", {"episode/rounds/*": "rounds: {}"},
        "How many rounds the episodes took.", "stacked",
    ),
    _Rule(
        "tokens", "Tokens per episode", "tokens", {"episode/tokens/mean": "mean", "episode/tokens/max": "max"},
        "Generated, over all rounds.",
    ),
    _Rule(
        "context", "Peak context", "tokens", {"episode/context/mean": "mean"},
        "The largest context of any round of an episode: what rounds keep low.",
    ),
    _Rule(
        "stops", "Why episodes end", "share of episodes", _STOPS,
        "Answered is good; out of rounds, malformed and truncated get no reward from the verifier.", "stacked",
    ),
    _Rule(
        "malformed", "Why rounds are malformed", "share of episodes", {"episode/malformed/*": "{}"},
        "Why the round could not be parsed. Near 0 is good.", "stacked",
    ),
    _Rule(
        "summary", "Summary length", "tokens", {"summary/tokens/mean": "mean"},
        "Compare with protocol.summary_tokens. Near 0: nothing is carried over.",
    ),
    _Rule(
        "zero_variance", "Groups with equal rewards", "share of groups", {"group/frac_zero_std": "equal rewards"},
        "They carry no training signal: all right or all wrong. Near 1 the update is empty.",
    ),
    _Rule("reward_std", "Spread of the rewards", "", {"reward/std": "std"}, "Over all scored episodes of a step."),
    _Rule(
        "groups", "Groups dropped and refilled", "groups",
        {
            "group/dropped_failed": "dropped: failed", "group/dropped_all_right": "dropped: all right",
            "group/dropped_all_wrong": "dropped: all wrong", "group/refilled": "refilled",
        },
        "rl.dynamic_sampling replaces groups that are all right or all wrong; a failed episode drops its group.",
    ),
    _Rule(
        "mismatch", "Trainer-engine mismatch", "nats", {"mismatch/logprob_diff/mean": "mean"},
        "Mean |difference of a token's logprob|. Small and flat is good; it grows if weights or precision differ.",
    ),
    _Rule(
        "mismatch_max", "Trainer-engine mismatch, worst token", "nats", {"mismatch/logprob_diff/max": "max"},
        "One token is enough for a peak; a lasting rise indicates a problem.",
    ),
    _Rule(
        "masked", "Tokens masked by IcePop", "share of tokens", {"mismatch/masked": "masked"},
        "Their ratio k is outside rl.vllm_importance_sampling_clip_min and _max: they have no gradient.",
    ),
    _Rule(
        "entropy", "Entropy", "nats per token", {"entropy": "mean"},
        "Falls as the policy gets more certain; at 0 it no longer explores.",
    ),
    _Rule(
        "clip", "Clipped tokens", "share of tokens", {"clip_ratio/*": "{}", "cispo_clip_ratio": "CISPO"},
        "0 if each batch is used for one optimizer step; a large share: the policy moves too far on one batch.",
    ),
    _Rule(
        "kl", "KL to the reference", "nats", {"kl": "mean"},
        "With rl.beta above 0: how far the policy has moved from its start.",
    ),
    _Rule(
        "staleness", "Staleness of episodes", "optimizer steps",
        {"rollout/staleness/mean": "mean", "rollout/staleness/max": "max"},
        "At most rollout.async_steps generation batches.",
    ),
    _Rule(
        "straddled", "Episodes with several weight versions", "share of episodes", {"rollout/straddled": "straddled"},
        "Sampled by more than one version of the weights.",
    ),
    _Rule(
        "guards", "Measures of reward hacking", "0 to 1", {"guard/*/mean": "{}"},
        "0 is clean. A measure is not a verdict: look at episodes where one rises with the reward.",
    ),
    _Rule(
        "guard_shares", "Episodes above 0.5 on a measure", "share of episodes", {"guard/*/share": "{}"},
        "Over the episodes to which the measure applies.",
    ),
    _Rule(
        "gates", "Open reward gates", "share of episodes", {"reward/*/open": "{}"},
        "Episodes in whose group the term counts.",
    ),
    _Rule(
        "errors", "Episodes not scored", "episodes", _ERRORS,
        "0 is good: unscored episodes are excluded from the update.",
    ),
    _Rule("time", "Step time by part", "seconds", _TIMES, "Where a step's time goes.", "stacked"),
    _Rule(
        "step_time", "Step time", "seconds", {"step_time": "whole step"},
        "If it grows but the tokens don't, look at the parts.",
    ),
    _Rule("loss", "Loss", "", _LOSSES, "Stays around 0 by construction: the reward is more informative."),
    *_OPTIMIZER,
)  # fmt: skip
_SFT = (
    _Rule("loss", "Loss", "nats per token", _LOSSES, "Down is good."),
    _Rule(
        "token_accuracy", "Token accuracy", "share of tokens", {"mean_token_accuracy": "trained tokens"},
        "How often the most likely token is the right one.",
    ),
    _Rule(
        "entropy", "Entropy", "nats per token", {"entropy": "mean"},
        "How uncertain the model is on the trained tokens.",
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
