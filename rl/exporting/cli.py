"""`sawtooth export CHECKPOINT --out FOLDER`: an export without a run's config."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.errors import InputError

if TYPE_CHECKING:
    from rollout.protocol import RoundProtocol

DTYPES = ("auto", "float32", "bfloat16", "float16")
_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMG]B", re.IGNORECASE)
_OPTIONS = ("out", "base", "dtype", "shard_size", "protocol", "repo_id")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for exporting a checkpoint to those for exporting a run."""
    parser.usage = (
        "sawtooth export CONFIG [--push] [--section.key=value …]\n"
        "       sawtooth export CHECKPOINT --out FOLDER [--base MODEL] [--dtype D] [--shard-size 5GB] [--protocol …]\n"
        "                       [--push --repo-id USER/NAME]"
    )
    group = parser.add_argument_group("a checkpoint's folder instead of a config")
    group.add_argument("--out", type=Path, metavar="FOLDER", help="the folder to write; must not exist yet")
    group.add_argument("--base", metavar="MODEL", help="base model of a LoRA adapter (default: the one it names)")
    group.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the checkpoint's)")
    group.add_argument("--shard-size", metavar="SIZE", help="maximum per weights file (default: 5GB)")
    group.add_argument(
        "--protocol", nargs="+", metavar=("NAME", "KEY=VALUE"), help="if the checkpoint has none, or to change it"
    )
    group.add_argument("--repo-id", metavar="USER/NAME", help="with --push: the model's repo on the Hub")


def is_config(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def takes(options: argparse.Namespace) -> bool:
    """Return True for a checkpoint, which `run_command` exports; False for the export stage of a run.

    Raises:
        InputError: an option has no effect.
    """
    if not is_config(options.config):
        return True
    for name in _OPTIONS:
        if getattr(options, name) is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option} has no effect for {options.config}, which is a config: leave it out")
    return False


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Export a checkpoint. Returns the exit code.

    Raises:
        InputError: an argument or the folder is wrong; the message is one line.
    """
    from rl.exporting.checkpoint import check_checkpoint
    from rl.exporting.export import SHARD_SIZE, export_model, load_protocol
    from rl.exporting.questions import BUILT_IN
    from rl.exporting.run_folder import find_run

    if further:
        raise InputError(f"`sawtooth export` of a checkpoint takes no {further[0]!r}")
    if options.dry_run:
        raise InputError("--dry-run has no effect for a checkpoint: leave it out")
    source, out = Path(options.config), options.out
    check_checkpoint(source)
    if out is None:
        raise InputError("--out is missing: name the folder for the exported model")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {out} already exists: name another folder, or delete it")
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

        # The run's own tags are for RL: an SFT model with the same name and step must not reuse one.
        tag = tag_name(run.config.name + "-sft" * (run.stage == "sft"), run.step) if run else None
        print(f"export: pushed to {upload(out, options.repo_id, tag=tag)}")
    return 0


def _protocol(words: list[str]) -> RoundProtocol:
    """Read `--protocol NAME key=value …`, or a protocol.json."""

    import yaml

    from rollout.protocol import RoundProtocol, get_protocol

    name, *pairs = words
    if name.endswith(".json"):
        path = Path(name)
        if pairs or not path.exists():
            raise InputError(f"--protocol {name}: {'a file takes no settings' if pairs else 'no such file'}")
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
