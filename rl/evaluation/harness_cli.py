"""`sawtooth lm-eval MODEL …`: lm-evaluation-harness on a model that reasons in rounds."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from rollout.errors import InputError

NEEDS = "lm_eval==0.4.13"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own argument; all others belong to the harness."""
    parser.usage = "sawtooth lm-eval MODEL --tasks TASK … [arguments of `lm-eval run`]"
    parser.epilog = (
        "Further arguments are those of `lm-eval run` (see its --help): --include_path, --limit, --num_fewshot, "
        "--gen_kwargs, --apply_chat_template, --output_path, --log_samples, --use_cache … and --model_args with "
        "protocol, max_rounds, max_tokens (per round), engine, dtype, seed or an engine's own settings."
    )
    parser.add_argument("model", help="a model's folder or Hub id")


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Registers the model and hands over to the harness's own command.

    Raises:
        InputError: the harness is not installed, or an argument is missing or duplicated.
    """
    if find_spec("lm_eval") is None:
        raise InputError(f"lm-eval needs lm-evaluation-harness: pip install {NEEDS}")
    if any(argument.startswith(("--model=", "-M")) or argument == "--model" for argument in further):
        raise InputError("--model selects sawtooth itself in the harness: give the model as MODEL, the first argument")
    if not any(argument.startswith(("--tasks", "-t", "--config", "-C")) for argument in further):
        raise InputError("--tasks is missing: name a task, as --tasks gsm8k (`lm-eval ls tasks` lists them)")
    from lm_eval import evaluator
    from lm_eval.__main__ import cli_evaluate

    import rl.evaluation.harness  # noqa: F401 -- registers the model

    ours = ["--model", "sawtooth", "--model_args", json.dumps({"pretrained": options.model})]
    sys.argv = ["lm-eval", "run", *ours, *further]  # the harness's parser reads nothing else
    here = Path.cwd()
    if not any((folder / ".git").exists() for folder in (here, *here.parents)):
        evaluator.get_git_commit_hash = lambda: None  # its result here too, but git prints "fatal: …" each time
    cli_evaluate()
    return 0
