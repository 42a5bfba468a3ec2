"""The sections `data:` and `summarizer:`: each mistake is one line that names the key."""

from __future__ import annotations

import pytest

from rl.app.run_config import parse_config
from rl.settings.schema import ConfigError

BUDGET = {"choices": [1000, 2000]}
PRICE = {"input": 0.5, "output": 2}


def parse(data=None, summarizer=None, segment_tokens=64):
    return parse_config({
        "name": "run",
        "model": {"path": "somewhere"},
        "protocol": {"segment_tokens": segment_tokens, "summary_tokens": 8},
        "data": data or {},
        "summarizer": summarizer or {},
    })  # fmt: skip


def check(data, summarizer, message):
    with pytest.raises(ConfigError) as error:
        parse(data, summarizer)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"generations": "all", "verify": "never", "duplicates": "keep", "packing": "balanced"},
        {"near_similarity": 0.5, "decontaminate": [], "workers": 1, "min_segment_tokens": 32},
        {"near_similarity": 1, "decontaminate": ["eval", "MATH-500", "own.jsonl"], "decontaminate_words": 13},
        {"traces": {"source": "a.jsonl", "limit": 9}},
        {"prepared": "runs/other/data"},
        {"segment_tokens_choices": [8, 64], "min_segment_tokens": 4},
        {"segment_tokens_range": [64, 64], "min_segment_tokens": 0},
        {"budget": BUDGET},
        {"budget": {**BUDGET, "prompt": "{budget} tokens: ", "round_to": 1}},
        {"budget": {**BUDGET, "round_to": None}},
    ],
)
def test_what_is_right_passes(data):
    config = parse(data)
    assert {key: getattr(config.data, key) for key in data} == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"generations": "longest"}, "data.generations is 'longest'; it must be one of first, shortest, all"),
        ({"verify": "maybe"}, "data.verify is 'maybe'; it must be one of where_possible, always, never"),
        ({"duplicates": "none"}, "data.duplicates is 'none'; it must be one of near, exact, keep"),
        ({"packing": "full"}, "data.packing is 'full'; it must be one of greedy, balanced"),
        ({"generation": "all"}, "unknown key 'data.generation': did you mean 'generations'?"),
        ({"near_similarity": 0.4}, "data.near_similarity is 0.4; it must be from 0.5 to 1"),
        ({"near_similarity": 1.1}, "data.near_similarity is 1.1; it must be from 0.5 to 1"),
        ({"near_similarity": float("nan")}, "data.near_similarity is nan"),
        ({"near_similarity": "high"}, "data.near_similarity is 'high'; it must be a number"),
        ({"decontaminate_words": 0}, "data.decontaminate_words is 0; it must be a whole number of at least 1"),
        ({"decontaminate": "eval"}, "data.decontaminate is 'eval'; it must be a list"),
        ({"decontaminate": [{"split": "a"}]}, "data.decontaminate contains {'split': 'a'}; each must be eval"),
        ({"workers": 0}, "data.workers is 0; it must be a whole number of at least 1"),
        ({"workers": 1.5}, "data.workers is 1.5; it must be a whole number or null"),
        ({"min_segment_tokens": -1}, "data.min_segment_tokens is -1; it must be a whole number of at least 0"),
        ({"min_segment_tokens": 33}, "data.min_segment_tokens is 33; it must be at most half of the smallest eta (64)"),
        ({"traces": "a.jsonl", "prepared": "b"}, "data.traces and data.prepared are mutually exclusive"),
        ({"drop_repeats": 1}, "data.drop_repeats is 1; it must be true or false"),
    ],
)
def test_mistakes_in_which_traces(data, message):
    check(data, None, message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"segment_tokens_choices": [8], "segment_tokens_range": [8, 9]},
            "data.segment_tokens_choices and data.segment_tokens_range are mutually exclusive",
        ),
        *(
            ({f"segment_tokens_{kind}": [value, 64]}, f"data.segment_tokens_{kind} contains {value!r}; each must be")
            for kind in ("choices", "range")
            for value in (0, 65, 8.0, True, "8", None)
        ),
        ({"segment_tokens_range": [8]}, "data.segment_tokens_range is [8]; it must be [least, most]"),
        ({"segment_tokens_range": [8, 9, 10]}, "data.segment_tokens_range is [8, 9, 10]; it must be [least, most]"),
        ({"segment_tokens_range": [9, 8]}, "data.segment_tokens_range is [9, 8]; it must be [least, most]"),
        ({"segment_tokens_choices": [64, 8], "min_segment_tokens": 5}, "at most half of the smallest eta (8)"),
        ({"segment_tokens_range": [8, 64], "min_segment_tokens": 5}, "at most half of the smallest eta (8)"),
    ],
)
def test_mistakes_in_eta(data, message):
    check(data, None, message)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "data.budget.choices is missing"),
        ({"choices": []}, "data.budget.choices is missing"),
        ({"choices": 1000}, "data.budget.choices is missing"),
        ({"choices": [0]}, "data.budget.choices is 0; it must be a whole number of at least 1"),
        ({"choices": [1000, "2000"]}, "data.budget.choices is '2000'; it must be a whole number of at least 1"),
        ({"choices": [1000, None]}, "data.budget.choices contains null"),
        ({**BUDGET, "round_to": 0}, "data.budget.round_to is 0; it must be a whole number of at least 1"),
        ({**BUDGET, "prompt": "Be brief."}, "data.budget.prompt must be text that contains {budget}"),
        ({**BUDGET, "prompt": ["{budget}"]}, "data.budget.prompt must be text that contains {budget}"),
        ({**BUDGET, "prompt": None}, "data.budget.prompt must be text that contains {budget}"),
        ({**BUDGET, "choice": 1}, "unknown key 'data.budget.choice': known keys: choices, prompt, round_to"),
        ([1000], "data.budget is [1000]; it must be a mapping or null"),
    ],
)
def test_mistakes_in_the_budget(budget, message):
    check({"budget": budget}, None, message)


@pytest.mark.parametrize(
    "summarizer",
    [
        {"fn": "a.py:f"},
        {"url": "http://127.0.0.1:8000/v1", "model": "m", "price": PRICE, "max_tokens": 99, "concurrency": 8},
        {"engine": "vllm", "model": "m", "settings": {"max_model_len": 4096}, "checks": [], "sees": "all"},
    ],
)
def test_a_right_summarizer_passes(summarizer):
    config = parse(summarizer=summarizer)
    assert {key: getattr(config.summarizer, key) for key in summarizer} == summarizer


@pytest.mark.parametrize(
    ("summarizer", "message"),
    [
        ({"fn": "a.py:f", "url": "http://x", "model": "m"}, "summarizer.fn and summarizer.url are mutually exclusive"),
        ({"url": "http://x", "engine": "vllm", "model": "m"}, "summarizer.url and summarizer.engine are mutually ex"),
        ({"url": "http://x"}, "summarizer.model is missing: summarizer.url needs the name of the model"),
        ({"engine": "vllm"}, "summarizer.model is missing: summarizer.engine needs the name of the model"),
        ({"engine": "sglang", "model": "m"}, "summarizer.engine is 'sglang'; it must be one of vllm"),
        ({"sees": "first"}, "summarizer.sees is 'first'; it must be one of last, all"),
        ({"checks": ["shorter", "copies"]}, "summarizer.checks is 'copies'; it must be one of shorter, copy, answer"),
        ({"max_draws": 0}, "summarizer.max_draws is 0; it must be a whole number of at least 1"),
        ({"concurrency": 0}, "summarizer.concurrency is 0; it must be a whole number of at least 1"),
        ({"max_tokens": 0}, "summarizer.max_tokens is 0; it must be a whole number of at least 1"),
        ({"temprature": 1}, "unknown key 'summarizer.temprature': did you mean 'temperature'?"),
        *(
            ({"price": price}, "summarizer.price is ")
            for price in (
                {}, {"input": 1}, {**PRICE, "output": -1}, {**PRICE, "output": "2"}, {**PRICE, "output": True},
                {**PRICE, "cached": 1}, {"input": 1, 2: 3}, {**PRICE, "input": float("nan")},
            )
        ),
    ],
)  # fmt: skip
def test_mistakes_in_the_summarizer(summarizer, message):
    check(None, summarizer, message)
