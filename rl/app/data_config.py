"""Checks the sections `data:` and `summarizer:`."""

from __future__ import annotations

from typing import Any

from rl.settings.schema import ConfigError
from rl.settings.trainer_rules import check_rule
from sft.data.settings import CHECKS

_CHOICES = {
    "generations": ("first", "shortest", "all"),
    "verify": ("where_possible", "always", "never"),
    "duplicates": ("near", "exact", "keep"),
    "packing": ("greedy", "balanced"),
}


def check_data(config: Any) -> None:
    """Checks both sections; raises at the first mistake.

    Raises:
        ConfigError: one line on what is wrong and where.
    """
    data, summarizer = config.data, config.summarizer
    for key, known in _CHOICES.items():
        _one_of(f"data.{key}", getattr(data, key), known)
    if not 0.5 <= data.near_similarity <= 1.0:
        raise ConfigError(f"data.near_similarity is {data.near_similarity}; it must be from 0.5 to 1")
    for key in ("decontaminate_words", "workers", "min_segment_tokens"):
        _at_least(f"data.{key}", getattr(data, key), 0 if key == "min_segment_tokens" else 1)
    for entry in data.decontaminate:
        if not isinstance(entry, str) and not (isinstance(entry, dict) and entry.get("source")):
            raise ConfigError(
                f"data.decontaminate contains {entry!r}; each must be eval, MATH-500, …, a source, or {{source: …}}"
            )
    if data.prepared and data.traces:
        raise ConfigError("data.traces and data.prepared are mutually exclusive: prepared rounds need no traces")
    if data.repo_id and data.repo_id.count("/") != 1:
        raise ConfigError(f"data.repo_id is {data.repo_id!r}; write user/name, as on the Hub")
    _check_eta(data, config.protocol.segment_tokens)
    if data.budget is not None:
        _check_budget(data.budget)
    check_summarizer(summarizer)


def _check_eta(data: Any, most: int) -> None:
    if data.segment_tokens_choices and data.segment_tokens_range:
        raise ConfigError("data.segment_tokens_choices and data.segment_tokens_range are mutually exclusive")
    for key in ("segment_tokens_choices", "segment_tokens_range"):
        for value in getattr(data, key) or []:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(
                    f"data.{key} contains {value!r}; each must be a whole number from 1 to "
                    f"protocol.segment_tokens ({most})"
                )
    bounds = data.segment_tokens_range
    if bounds and (len(bounds) != 2 or bounds[0] > bounds[1]):
        raise ConfigError(f"data.segment_tokens_range is {bounds}; it must be [least, most]")
    floor, least = data.min_segment_tokens or 0, min(data.segment_tokens_choices or bounds or [most])
    if floor > least // 2:
        raise ConfigError(f"data.min_segment_tokens is {floor}; it must be at most half of the smallest eta ({least})")


def _check_budget(budget: dict[str, Any]) -> None:
    for key in budget:
        if key not in ("prompt", "round_to", "choices"):
            raise ConfigError(f"unknown key 'data.budget.{key}': known keys: choices, prompt, round_to")
    prompt = budget.get("prompt", "{budget}")
    if not isinstance(prompt, str) or "{budget}" not in prompt:
        raise ConfigError("data.budget.prompt must be text that contains {budget}, which the number replaces")
    _at_least("data.budget.round_to", budget.get("round_to"), 1)
    choices = budget.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ConfigError("data.budget.choices is missing: set the budgets of RL and evaluation, such as [1000, 2000]")
    for choice in choices:
        if choice is None:
            raise ConfigError("data.budget.choices contains null; each must be a whole number of at least 1")
        _at_least("data.budget.choices", choice, 1)


def check_summarizer(summarizer: Any) -> None:
    """Raises ConfigError unless the section has at most one complete summarizer, with valid limits."""
    named = [key for key in ("fn", "url", "engine") if getattr(summarizer, key)]
    if len(named) > 1:
        raise ConfigError(f"summarizer.{named[0]} and summarizer.{named[1]} are mutually exclusive")
    if named in (["url"], ["engine"]) and not summarizer.model:
        raise ConfigError(f"summarizer.model is missing: summarizer.{named[0]} needs the name of the model")
    if summarizer.url and not summarizer.url.startswith(("http://", "https://")):
        raise ConfigError(f"summarizer.url is {summarizer.url!r}; it must begin with http:// or https://")
    for key in ("model", "settings") if named == ["fn"] else ():
        if getattr(summarizer, key):
            raise ConfigError(f"summarizer.{key} has no effect with summarizer.fn: leave it out")
    if summarizer.engine:
        _one_of("summarizer.engine", summarizer.engine, ("vllm",))
    _one_of("summarizer.sees", summarizer.sees, ("last", "all"))
    for check in summarizer.checks:
        _one_of("summarizer.checks", check, CHECKS)
    for key in ("max_draws", "concurrency", "max_tokens"):
        _at_least(f"summarizer.{key}", getattr(summarizer, key), 1)
    check_rule("summarizer.temperature", summarizer.temperature, "at least 0")
    check_rule("summarizer.top_p", summarizer.top_p, "above 0, and 1 at most")
    for key in ("timeout", "patience"):
        check_rule(f"summarizer.{key}", getattr(summarizer, key), "above 0")
    price = summarizer.price
    if price is not None and (price.keys() != {"input", "output"} or not all(map(_is_amount, price.values()))):
        raise ConfigError(f"summarizer.price is {price}; it must be {{input: …, output: …}}, prices per million tokens")


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _one_of(where: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{where} is {value!r}; it must be one of {', '.join(known)}")


def _at_least(where: str, value: Any, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ConfigError(f"{where} is {value!r}; it must be a whole number of at least {least}")
