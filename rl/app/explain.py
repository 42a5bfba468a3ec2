"""Shows each reward's values on stored episodes, the advantages, and what other rewards would have given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pstdev
from types import SimpleNamespace
from typing import Any

from rewards.load import load_rewards
from rewards.score import Reward, Scores, as_rewards, score_episodes
from rl.advantages import batch_advantages
from rl.app.run_config import load_config
from rl.app.run_files import RUNS, find_run
from rl.dynamic_sampling import dropped_groups, without
from rollout.errors import InputError
from rollout.store import STEP_FILE, read_episodes, to_episode
from rollout.types import Episode


def explain(run: str, step: int | None, other: str | None, groups: int) -> None:
    """Prints the groups of one step, widest spread of totals first, and one line per function over all of them.

    Args:
        run: a run's folder, or its name in `runs`.
        step: optimizer step of the batch; None: the last one stored.
        other: a config whose rewards are tried on the same episodes, after the run's own.
        groups: number of groups printed in full; 0: all.

    Raises:
        InputError: no such run, or no such step.
    """
    folder = find_run(run)
    if not (folder / "config.yaml").exists():
        raise InputError(f"there is no run {run!r}: name a folder with a config.yaml, or one in {RUNS}/")
    config = load_config(folder / "config.yaml")
    path = _file(folder / "episodes", step)
    rows = read_episodes(path.parent, path.name)
    episodes = [to_episode(row, config.protocol) for row in rows]
    stored = rows[0]["step"]
    ways = [("", config)] + ([("'", load_config(other))] if other else [])
    print(f"{path}: step {stored}, {len(episodes)} episodes in {len({e.group_id for e in episodes})} groups")
    table: list[dict[str, Any]] = [_facts(e) for e in episodes]
    notes: list[str] = []
    for mark, way in ways:
        rewards = load_rewards(way.rewards, config.protocol)
        if weights := (way.rl or {}).get("reward_weights"):
            rewards = [replace(reward, weight=weight) for reward, weight in zip(rewards, weights, strict=True)]
        scores, advantages = _score(episodes, rewards, stored, config.rl or {})
        kept = [row["reward"] for row in rows]
        notes += _notes(mark, rewards, episodes, scores, None if mark else kept)
        for index, line in enumerate(table):
            line |= {name + mark: values[index] for name, values in scores.values.items()}
            line |= {f"total{mark}": scores.total[index], f"advantage{mark}": advantages[index]}
    _print_groups(episodes, table, groups)
    print("\n".join(notes))
    if other:
        _print_change(table)


def _file(folder: Path, step: int | None) -> Path:
    names = {p: match for p in folder.glob("train_*.parquet") if (match := STEP_FILE.match(p.name))}
    files = {int(match[2]): p for p, match in names.items() if match[3] is None}  # a step's first batch
    if not files:
        raise InputError(f"{folder} contains no training episodes")
    if step is not None and step not in files:
        raise InputError(f"{folder} has no step {step}: it has {min(files)} to {max(files)}")
    return files[max(files) if step is None else step]


def _score(
    episodes: list[Episode], rewards: Sequence[Reward], step: int, settings: dict[str, Any]
) -> tuple[Scores, list[float]]:
    """Returns scores and advantages as the trainer computes them, without the groups that it dropped."""
    scores = score_episodes(episodes, rewards, trainer_state=SimpleNamespace(global_step=step), log_metric=_nothing)
    dynamic, scale = settings.get("dynamic_sampling", False), settings.get("scale_rewards", "group")
    totals = without(dropped_groups(episodes, scores.correct if dynamic else None), episodes, scores.total)
    scale = {True: "group", False: "none"}.get(scale, scale)
    aggregation = settings.get("multi_objective_aggregation", "sum_then_normalize")
    groups = [e.group_id for e in episodes]
    return scores, batch_advantages(rewards, scores, totals, groups, step, scale, aggregation).tolist()


def _nothing(*_: Any) -> None:
    pass


def _facts(episode: Episode) -> dict[str, Any]:
    return {"rounds": episode.num_rounds, "tokens": episode.num_tokens, "stop": str(episode.stop_reason)}


def _notes(
    mark: str, rewards: Sequence[Reward], episodes: list[Episode], scores: Scores, kept: list[float | None] | None
) -> list[str]:
    """Returns one line per function, and one if the totals differ from those that the run stored."""
    tokens = [e.num_tokens for e in episodes]
    lines = [f"{'function':24} {'mean':>8} {'std':>8}  corr. with tokens  groups where it differs  unscored  errors"]
    for reward in as_rewards(rewards):
        values = scores.values[reward.name]
        known = [(v, t, e.group_id) for v, t, e in zip(values, tokens, episodes, strict=True) if v is not None]
        if not known:
            lines.append(f"{reward.name + mark:24} scored nothing: {scores.messages.get(reward.name, 'all None')}")
            continue
        given = [v for v, _, _ in known]
        differs = sum(len({v for v, _, g in known if g == group}) > 1 for group in {g for _, _, g in known})
        relation = _correlation(given, [t for _, t, _ in known])
        lines.append(
            f"{reward.name + mark:24} {fmean(given):8.4f} {pstdev(given):8.4f}  {relation:>17}  {differs:>23}  "
            f"{len(values) - len(known):>8}  {scores.errors.get(reward.name, 0):>6}"
        )
    if kept is not None:
        pairs = [(a, b) for a, b in zip(kept, scores.total, strict=True) if a is not None and not math.isnan(b)]
        other = sum(not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs)
        if other:
            lines.append(f"{other} totals differ from the run's: a reward function is stateful, random, or has changed")
    return lines


def _correlation(values: list[float], tokens: list[int]) -> str:
    if len(set(values)) < 2 or len(set(tokens)) < 2:
        return "-"
    import numpy as np

    return f"{np.corrcoef(values, tokens)[0, 1]:+.2f}"


def _print_groups(episodes: list[Episode], table: list[dict[str, Any]], groups: int) -> None:
    columns = list(table[0])
    widths = {name: max(len(name), 10 if name == "stop" else 8) for name in columns}
    by_group: dict[Any, list[int]] = {}
    for index, episode in enumerate(episodes):
        by_group.setdefault(episode.group_id, []).append(index)
    spread = {group: _spread([table[i]["total"] for i in members]) for group, members in by_group.items()}
    order = sorted(by_group, key=spread.get, reverse=True)  # strongest training signal first
    for group in order[: groups or None]:
        members = by_group[group]
        question = episodes[members[0]].question
        print(f"\ngroup {group}: {question if isinstance(question, str) else question[-1]['content']!s:.90}")
        print("  ".join(f"{name:>{widths[name]}}" for name in columns))
        for index in members:
            print("  ".join(f"{_shown(table[index][name]):>{widths[name]}}" for name in columns))
    if groups and len(order) > groups:
        print(f"… and {len(order) - groups} more groups with a smaller spread (--groups 0 shows all)")
    print()


def _spread(totals: list[float]) -> float:
    known = [t for t in totals if not math.isnan(t)]
    return pstdev(known) if known else 0.0


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _print_change(table: list[dict[str, Any]]) -> None:
    ours, theirs = [line["advantage"] for line in table], [line["advantage'"] for line in table]
    turned = sum(a * b < 0 for a, b in zip(ours, theirs, strict=True))
    woken = sum(a == 0 != b for a, b in zip(ours, theirs, strict=True))
    silenced = sum(a != 0 == b for a, b in zip(ours, theirs, strict=True))
    print(
        f"with the other rewards ('): {turned} of {len(table)} advantages change sign, {woken} are no longer 0, "
        f"{silenced} become 0"
    )
