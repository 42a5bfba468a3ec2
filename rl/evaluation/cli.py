"""`sawtooth eval MODEL … --data …`: any model under any protocol on any questions, without a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from rollout.errors import InputError

_SWITCH = "; the first value is the baseline, each further value adds a row"
_YAML = (".yaml", ".yml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sawtooth eval` for models. The defaults are those of InftyThink+ (arXiv 2602.06960)."""
    add = parser.add_argument
    add("--data", nargs="+", metavar="SET", help="MATH-500, AIME24, AIME25, AMC23, GPQA-diamond, GSM8K, a file with "
        "question and answer, a Hub id, path.py:function, or {source: …, label: …, columns: …}")  # fmt: skip
    add("--samples", type=int, default=32, help="episodes per question (32)")
    add("--k", type=int, nargs="+", help="of pass@k and maj@k (1, 8 and --samples)")
    add("--protocol", nargs="+", help="inftythink, vanilla, delethink, or vanilla:max_tokens=32768 (the model's own)")
    add("--summarizer", nargs="+", help="model, another model, path.py:function, {url: …, model: …}" + _SWITCH)
    add(
        "--summarize-at", nargs="+", help="thinking tokens per round: model (it decides), fixed:N, random:A-B" + _SWITCH
    )
    add("--who", nargs="+", dest="summarizer", help=argparse.SUPPRESS)  # old spellings, for one release
    add("--when", nargs="+", dest="summarize_at", help=argparse.SUPPRESS)
    add("--min-thinking", nargs="+", metavar="N", help="tokens before which the model may not conclude" + _SWITCH)
    add("--max-thinking", nargs="+", metavar="N", help="tokens after which the model must conclude, or none" + _SWITCH)
    add("--vote", metavar="N[:WINDOW]", help="self-consistency with early stopping: up to N samples, in windows (of 4)")
    add("--search", nargs="+", metavar="KIND:N", help="best, refine, tree or probe, as best:16@0.9 or tree:64:4:2@0.9: "
        "up to N answers or rounds, until a score of 0.9, in addition to the samples")  # fmt: skip
    add("--score", default="confidence", help="of the searches: confidence, agreement, oracle, or a reward function")
    add("--temperature", type=float, default=0.7)
    add("--top-p", type=float, default=0.95)
    add(
        "--max-tokens",
        type=int,
        default=8192,
        help="per round (8192); vanilla: of all rounds together, unless its own is given",
    )
    add("--max-rounds", type=int, default=10, help="per episode (10)")
    add("--seed", type=int, default=0)
    add("--prompt", help="prompt template, as '{question} Put the answer in \\boxed{}.' (the set's own)")
    add("--verifier", help="choice, numeric, exact, … or path.py:function (the set's own, else answer)")
    add("--limit", type=int, metavar="N", help="first N questions only")
    add("--engine", choices=["vllm", "transformers", "server"], default="vllm")
    add("--urls", nargs="+", default=[], help="of `sawtooth serve-rollouts`, for --engine server")
    add("--dtype", default="auto", help="of the weights: auto, float32, bfloat16")
    add("--max-model-len", type=int, metavar="N", help="context length of the engine in tokens (the model's own)")
    add("--engine-settings", metavar="{…}", help="further arguments of vllm.LLM, as {gpu_memory_utilization: 0.8}")
    add("--out", type=Path, help="folder for the results (runs/eval-MODEL/eval, where the monitor sees them)")
    add("--cache", metavar="FILE", help="file that caches samples, or none (~/.cache/sawtooth/episodes.sqlite)")


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Evaluates the models in `options.config`.

    Raises:
        InputError: an argument is wrong; the message is one line.
    """
    models = [options.config] if isinstance(options.config, str) else list(options.config)
    if further:
        raise InputError(f"eval: {further[0]!r} is not an option for models (see sawtooth eval --help)")
    if any(model.endswith(_YAML) for model in models):
        raise InputError("eval takes one YAML of a run, or models with --data: not both (data.eval names a run's sets)")
    if not options.data:
        raise InputError("--data is missing: name at least one set, as --data MATH-500, or a file")
    if (options.engine == "server") != bool(options.urls):
        raise InputError("--urls and --engine server go together: name the servers, as --urls http://127.0.0.1:8000")
    for name in ("samples", "max_tokens", "max_rounds", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
    settings = {name: value for name, value in vars(options).items() if name not in _NOT_SETTINGS} | {"models": models}
    for name in ("data", "summarizer", "protocol"):
        settings[name] = [_read(value, f"--{name}") for value in settings[name] or []] or None
    settings["engine_settings"] = _read(settings["engine_settings"] or "{}", "--engine-settings")
    settings["out"] = str(options.out) if options.out else None
    if getattr(options, "dry_run", False):
        print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")
        return 0
    _evaluate(settings)
    return 0


_NOT_SETTINGS = ("stage", "config", "dry_run")


def _read(value: str, where: str) -> Any:
    """Parses a mapping in YAML's flow style; returns any other text unchanged."""
    if not value.startswith("{"):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{where} {value!r} is not YAML: {' '.join(str(error).split())}") from error


def _evaluate(settings: dict[str, Any]) -> None:
    from rl.app.run_config import RUNS
    from rl.evaluation.cache import digest_of, open_cache
    from rl.evaluation.measure import Evaluation, Plan
    from rl.evaluation.models import open_models
    from rl.evaluation.search_settings import read_search
    from rl.evaluation.sets import load_sets
    from rl.evaluation.statistics import default_k
    from rl.evaluation.variants import SWITCHES, as_list, make_variants, read_vote
    from rollout.engines import check_settings
    from rollout.types import Sampling

    kind, max_model_len, own = settings["engine"], settings["max_model_len"], settings["engine_settings"]
    plan = Plan(
        variants=make_variants({name: as_list(settings[name]) for name in SWITCHES}),
        samples=settings["samples"],
        sampling=Sampling(settings["max_tokens"], settings["temperature"], settings["top_p"], seed=settings["seed"]),
        max_rounds=settings["max_rounds"],
        k=settings["k"] or default_k(settings["samples"]),
        engine={"kind": kind, "dtype": settings["dtype"], "max_model_len": max_model_len, "settings": own},
        vote=read_vote(settings["vote"]),
        searches=[read_search(text) for text in settings["search"] or []],
        score=settings["score"],
    )
    given = {name for name, value in {**own, "max_model_len": max_model_len}.items() if value is not None}
    check_settings(kind, given - ({"max_model_len"} if kind == "server" else set()))
    specs = [{"source": s} if isinstance(s, str) else s for s in settings["data"]]
    if settings["verifier"]:
        specs = [{"verifier": settings["verifier"], **spec} for spec in specs]
    datasets = load_sets([(None, spec) for spec in specs], settings["prompt"], settings["limit"])
    cache = open_cache(settings["cache"])
    digest = cache.digest if cache else digest_of
    models = open_models(settings["models"], digest)
    folder = Path(settings["out"] or RUNS / f"eval-{models[0].name}" / "eval")
    if (folder / "done.json").exists():
        raise InputError(f"--out {folder} already contains the evaluation of a run: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")

    def start(model: Any, tokenizer: Any) -> Any:
        from rollout.engines import make_engine

        if kind == "server":
            place = {"urls": settings["urls"], "weights_dir": folder / "weights"}
        else:
            place = {"max_model_len": max_model_len, "seed": settings["seed"] if kind == "vllm" else None}
        return make_engine(
            kind, model_path=str(model.folder), tokenizer=tokenizer, dtype=settings["dtype"], **place | own
        )

    Evaluation(plan, start, lambda spec: open_models([spec], digest)[0], cache, folder).run(models, datasets)
    print(f"\nresults: {folder}")
