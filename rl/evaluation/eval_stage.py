"""The eval stage of a run: its models on its data sets, with the same code as `sawtooth eval MODEL`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from rewards.load import load_rewards
from rl.app.engine import dtype_for, engine_for
from rl.app.run_config import RunConfig
from rl.evaluation.cache import digest_of, open_cache
from rl.evaluation.measure import Evaluation, Plan
from rl.evaluation.models import EvalModel, open_models
from rl.evaluation.plots import pick_saw, plot_saw
from rl.evaluation.search_settings import read_search
from rl.evaluation.sets import DataSet
from rl.evaluation.statistics import default_k
from rl.evaluation.variants import SWITCHES, as_list, make_variants, read_vote
from rl.settings.checkpoint import check_context
from rollout.store import read_episodes
from rollout.types import Engine, Sampling


def run_eval(
    config: RunConfig, datasets: Sequence[DataSet], model_paths: dict[str, Callable[[RunConfig], str]]
) -> list[dict[str, Any]]:
    """Writes `eval/summary.json`, the plots and the episodes, and prints the table.

    Args:
        model_paths: returns the model's path, for each stage that may be evaluated.
    """
    folder = config.folder / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    settings = config.eval
    cache = open_cache(settings.cache)
    digest = cache.digest if cache else digest_of
    models = open_models([model_paths[stage](config) for stage in settings.stages], digest, settings.stages)
    models = [model if model.protocol else model.under(config.protocol) for model in models]  # the base model
    for model in models:
        check_context(json.loads((model.folder / "config.json").read_text()), config.rollout, str(model.folder))
    plan = _plan(config)

    def start(model: EvalModel, tokenizer: Any) -> Engine:
        return engine_for(config, str(model.folder), tokenizer)

    evaluation = Evaluation(plan, start, lambda spec: open_models([spec], digest)[0], cache, folder)
    rows = evaluation.run(models, datasets)
    (folder / "accuracy_tokens.png").rename(folder / "accuracy.png")  # the report and the model card read this name
    used = {"samples": settings.samples, "temperature": settings.temperature, "top_p": settings.top_p}
    used |= {"max_tokens": plan.sampling.max_tokens, "max_rounds": plan.max_rounds}
    (folder / "sampling.json").write_text(json.dumps(used, indent=2) + "\n")
    rounds = pick_saw(read_episodes(folder / "episodes"))
    if rounds:
        plot_saw(rounds, folder / "context.png")
    return rows


def _plan(config: RunConfig) -> Plan:
    settings, rollout = config.eval, config.rollout
    max_tokens = settings.max_tokens or (config.rl or {}).get("max_completion_length") or 1024
    return Plan(
        variants=make_variants({name: as_list(getattr(settings, name)) for name in SWITCHES}),
        samples=settings.samples,
        sampling=Sampling(max_tokens, settings.temperature, settings.top_p, seed=config.seed),
        max_rounds=settings.max_rounds or config.protocol.max_rounds,
        k=settings.k or default_k(settings.samples),
        engine={
            "kind": rollout.engine,
            "dtype": dtype_for(config),
            "max_model_len": rollout.max_model_len,
            "settings": rollout.settings,
        },
        rewards=load_rewards(config.rewards, config.protocol),
        vote=read_vote(settings.vote),
        searches=[read_search(text) for text in as_list(settings.search) or []],
        score=settings.score,
    )
