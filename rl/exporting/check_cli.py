"""`sawtooth check-export FOLDER|CONFIG`: compare an exported folder with the trainer's model."""

from __future__ import annotations

import argparse
from pathlib import Path

from rl.exporting.cli import DTYPES, is_config
from rollout.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER|CONFIG", help="an exported folder, or the config of an exported run")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT", help="what it was exported from (default: its run's)"
    )
    parser.add_argument("--base", metavar="MODEL", help="its base model, if a LoRA adapter (default: the one it names)")
    parser.add_argument("--data", metavar="SOURCE", help="questions: a file, Hub data set or function")
    parser.add_argument("--questions", type=int, default=8, metavar="N", help="questions per set (default: 8)")
    parser.add_argument("--engines", nargs="+", choices=("transformers", "vllm"), default=("transformers", "vllm"))
    parser.add_argument("--dtype", choices=DTYPES[1:], default="float32", help="for all models (default: float32)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="per round (default: its generation config's)")


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Check a folder. Returns 0, or 1 if there is a difference.

    Raises:
        InputError: an argument or the folder is wrong; the message is one line.
    """
    from rl.exporting.check import check_export
    from rl.exporting.questions import question_sets
    from rl.exporting.run_folder import find_run

    for name, value in (("--questions", options.questions), ("--max-tokens", options.max_tokens)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1")
    folder = Path(options.folder)
    if is_config(options.folder):
        from rl.app.run_config import load_config

        folder = load_config(options.folder, further).folder / "export" / "model"
        if not folder.is_dir():
            raise InputError(f"{folder} does not exist yet: run `sawtooth export {options.folder}` first")
    elif further:
        raise InputError(f"`sawtooth check-export` of a folder takes no {further[0]!r}")
    run = find_run(folder)
    against = options.against or (run.exported_from if run else None)
    same = check_export(
        folder, question_sets(options.data, run.config if run else None, options.questions), against=against,
        base=options.base, engines=options.engines, max_tokens=options.max_tokens, dtype=options.dtype,
    )  # fmt: skip
    here = Path.cwd()
    reference = against.relative_to(here) if against and against.is_relative_to(here) else against
    reference = reference or "itself, in the trainer's engine"
    print(f"check: {folder} and {reference}: {'the same' if same else 'DIFFERENT'}")
    return 0 if same else 1
