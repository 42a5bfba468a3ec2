"""The eval stage: every model on every data set with one engine, then the table and the pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from rewards.load import load_rewards
from rl.engine import engine_for
from rl.evaluate import evaluate_stage, format_table
from rl.plots import pick_saw, plot_accuracy, plot_saw
from rl.run_config import RunConfig
from rollout.protocol import RoundProtocol
from rollout.store import read_episodes
from rollout.types import Sampling


def run_eval(
    config: RunConfig,
    datasets: dict[str, list[dict[str, Any]]],
    model_paths: dict[str, Callable[[RunConfig], str]],
) -> list[dict[str, Any]]:
    """Writes `eval/summary.json`, `accuracy.png` and `context.png`, and prints the table."""
    folder = config.folder / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    settings = config.eval
    max_tokens = settings.max_tokens or config.rl.get("max_completion_length") or 1024
    sampling = Sampling(max_tokens=max_tokens, temperature=settings.temperature, top_p=settings.top_p)
    rewards = load_rewards(config.rewards, config.protocol)
    engine, rows = None, []
    for stage in settings.stages:
        path = model_paths[stage](config)
        tokenizer = AutoTokenizer.from_pretrained(path)
        protocol = config.protocol if stage == "base" else RoundProtocol.load(path)
        protocol = protocol.replace(max_rounds=settings.max_rounds or config.protocol.max_rounds)
        engine = _engine(config, path, tokenizer, engine)
        rows += evaluate_stage(
            stage, datasets, engine, protocol, tokenizer, sampling, settings.samples, folder, rewards
        )
    (folder / "summary.json").write_text(json.dumps(rows, indent=2) + "\n")
    used = {"samples": settings.samples, "temperature": settings.temperature, "top_p": settings.top_p}
    used |= {"max_tokens": max_tokens, "max_rounds": settings.max_rounds or config.protocol.max_rounds}
    (folder / "sampling.json").write_text(json.dumps(used, indent=2) + "\n")
    plot_accuracy(rows, folder / "accuracy.png")
    rounds = pick_saw(read_episodes(folder / "episodes"))
    if rounds:
        plot_saw(rounds, folder / "context.png")
    print(format_table(rows))
    return rows


def _engine(config: RunConfig, path: str, tokenizer: Any, engine: Any) -> Any:
    """An engine with this checkpoint: the first is started, a vLLM engine then only changes its weights."""
    if engine is not None and hasattr(engine, "sync_weights"):
        engine.sync_weights(AutoModelForCausalLM.from_pretrained(path, dtype="auto").state_dict().items())
        return engine
    return engine_for(config, path, tokenizer)
