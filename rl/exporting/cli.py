"""`sawtooth export CHECKPOINT --out FOLDER`, an export without a run, and `sawtooth export --check FOLDER`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import InputError

if TYPE_CHECKING:
    from rl.app.run_config import RunConfig
    from rollout.protocol import RoundProtocol

_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMG]B", re.IGNORECASE)
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_WRITES = ("out", "shard_size", "protocol", "repo_id")  # options of an export of a checkpoint
_CHECKS = ("against", "data", "questions", "engines", "max_tokens")  # and of --check
_BOTH = ("base", "dtype")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `sawtooth export` takes beside a config."""
    parser.usage = (
        "sawtooth export CONFIG [--push] [--section.key=value …]\n"
        "       sawtooth export CHECKPOINT --out FOLDER [--base MODEL] [--dtype D] [--shard-size 5GB] [--protocol …]\n"
        "                       [--push --repo-id USER/NAME]\n"
        "       sawtooth export --check FOLDER|CONFIG [--against CHECKPOINT] [--data SOURCE] [--questions N]"
    )
    out = parser.add_argument_group("a checkpoint's folder instead of a config")
    out.add_argument("--out", type=Path, metavar="FOLDER", help="where the exported folder goes; must not exist yet")
    out.add_argument("--base", metavar="MODEL", help="base of a LoRA adapter (default: the one that it names)")
    out.add_argument("--dtype", choices=_DTYPES, help="of the weights (default: the checkpoint's; --check: float32)")
    out.add_argument("--shard-size", metavar="SIZE", help="most of one weights file (default: 5GB)")
    out.add_argument("--protocol", nargs="+", metavar=("NAME", "KEY=VALUE"), help="where it has none, or to change it")
    out.add_argument("--repo-id", metavar="USER/NAME", help="with --push: the model's place on the Hub")
    check = parser.add_argument_group("check of an exported folder")
    check.add_argument(
        "--check", action="store_true", help="compare its greedy rounds in plain transformers and vLLM with ours"
    )
    check.add_argument("--against", type=Path, metavar="CHECKPOINT", help="what it was made of (default: its run's)")
    check.add_argument("--data", metavar="SOURCE", help="questions: a file, Hub data set or function")
    check.add_argument("--questions", type=int, metavar="N", help="questions of a set (default: 8)")
    check.add_argument("--engines", nargs="+", choices=("transformers", "vllm"), help="default: both")
    check.add_argument("--max-tokens", type=int, metavar="N", help="of a round (default: its generation config's)")


def takes(options: argparse.Namespace) -> bool:
    """True when `run_command` is to do it; False for the export stage of a run.

    Raises:
        InputError: an option that would change nothing.
    """
    config = _is_config(options.config)
    allowed = (*_CHECKS, *_BOTH) if options.check else () if config else (*_WRITES, *_BOTH)
    for name in (*_WRITES, *_CHECKS, *_BOTH):
        if getattr(options, name) is not None and name not in allowed:
            kind = "--check" if options.check else f"{options.config}, which is a config" if config else "an export"
            raise InputError(f"--{name.replace('_', '-')} does nothing for {kind}: leave it out")
    return options.check or not config


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Exports a checkpoint or checks a folder. Returns 0, or 1 where a check finds a difference.

    Raises:
        InputError: a mistake in the arguments or the folder, in one line.
    """
    if further and not (options.check and _is_config(options.config)):
        raise InputError(f"`sawtooth export` of a folder takes no {further[0]!r}")
    if options.dry_run or (options.check and options.push):
        raise InputError(f"{'--dry-run' if options.dry_run else '--push'} does nothing here: leave it out")
    return _check(options, further) if options.check else _export(options)


def _is_config(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def _export(options: argparse.Namespace) -> int:
    from rl.exporting.checkpoint import check_checkpoint
    from rl.exporting.export import SHARD_SIZE, export_model, load_protocol
    from rl.exporting.questions import BUILT_IN
    from rl.exporting.run_folder import find_run

    source, out = Path(options.config), options.out
    check_checkpoint(source)
    if out is None:
        raise InputError("--out is missing: the folder that the exported model goes to")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {out} exists already: name another folder, or delete it")
    size = options.shard_size or SHARD_SIZE
    if not _SIZE.fullmatch(size):
        raise InputError(f"--shard-size is {size!r}; write a size as 500MB or 5GB")
    if options.push != bool(options.repo_id):
        raise InputError("--push and --repo-id go together: --push --repo-id user/name")
    protocol = _protocol(options.protocol) if options.protocol else load_protocol(source)
    run = find_run(source)
    export_model(
        source, out, name=options.repo_id or (run.title if run else source.resolve().name),
        summary=run.summary if run else [], eval_settings=run.eval_settings if run else {},
        question=run.question if run else BUILT_IN[0], pictures=run.pictures if run else [],
        repo_id=options.repo_id, run=run.facts if run else None, protocol=protocol, base=options.base,
        dtype=options.dtype or "auto", shard_size=size,
    )  # fmt: skip
    print(f"export: model in {out}")
    if options.push:
        from rl.exporting.upload import tag_name, upload

        # The run's own tags are of RL: an SFT model, of the same name and step, is not to take one.
        tag = tag_name(run.config.name + "-sft" * (run.stage == "sft"), run.step) if run else None
        print(f"export: pushed to {upload(out, options.repo_id, tag=tag)}")
    return 0


def _protocol(words: list[str]) -> RoundProtocol:
    """`--protocol NAME key=value …`, or a protocol.json."""
    import yaml

    from rollout.protocol import RoundProtocol, get_protocol

    name, *pairs = words
    if name.endswith(".json"):
        path = Path(name)
        if pairs or not path.exists():
            raise InputError(f"--protocol {name}: {'a file stands alone' if pairs else 'there is no such file'}")
        return RoundProtocol.load(path)
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--protocol: can't read {pair!r}: write key=value, as max_rounds=5")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--protocol: {pair!r} is not YAML: {' '.join(str(error).split())}") from error
    return get_protocol(name, **settings)


def _check(options: argparse.Namespace, overrides: list[str]) -> int:
    from rl.exporting.check import ENGINES, check_export
    from rl.exporting.questions import question_sets
    from rl.exporting.run_folder import find_run

    for name in ("questions", "max_tokens"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(options, name)}; it must be at least 1")
    if options.dtype == "auto":
        raise InputError("--dtype auto does nothing for --check: name the dtype that all models are loaded in")
    if _is_config(options.config):
        from rl.app.run_config import load_config

        folder = load_config(options.config, overrides).folder / "export" / "model"
        if not folder.is_dir():
            raise InputError(f"there is no {folder} yet: run `sawtooth export {options.config}` first")
    else:
        folder = Path(options.config)
    run = find_run(folder)
    against = options.against or (run.exported_from if run else None)
    config: RunConfig | None = run.config if run else None
    same = check_export(
        folder, question_sets(options.data, config, options.questions or 8), against=against, base=options.base,
        engines=options.engines or ENGINES, max_tokens=options.max_tokens, dtype=options.dtype or "float32",
    )  # fmt: skip
    here = Path.cwd()
    what = against.relative_to(here) if against and against.is_relative_to(here) else against
    what = what or "itself, in the trainer's engine"
    print(f"check: {folder} and {what}: {'the same' if same else 'DIFFERENT'}")
    return 0 if same else 1
