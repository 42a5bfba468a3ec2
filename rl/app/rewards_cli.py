"""`sawtooth rewards`: explains the rewards of a run, tests a function, draws the length rewards."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from rollout.errors import InputError


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands of `sawtooth rewards`."""
    commands = parser.add_subparsers(dest="what", required=True)
    explain = commands.add_parser(
        "explain", help="each function's value for each episode of a step, and the advantages"
    )
    explain.add_argument("run", help="a run's folder, or its name")
    explain.add_argument("--step", type=int, help="optimizer step (default: the last)")
    explain.add_argument(
        "--with", dest="other", metavar="CONFIG", help="a config whose rewards are also applied to them"
    )
    explain.add_argument("--groups", type=int, default=3, help="groups shown in full; 0: all (default: 3)")
    test = commands.add_parser(
        "test",
        help="try a function on example episodes; exit code 1 if it has problems",
        epilog="Settings of the function: --name=value, as in a config's entry.",
    )
    test.add_argument("fn", help="path.py:name, module:name, an entry point, or a built-in name")
    test.add_argument("--column", action="append", default=[], metavar="NAME=VALUE", help="a column of the data")
    draw = commands.add_parser("draw", help="draw every length reward, for right and wrong answers")
    draw.add_argument("file", type=Path, help="a PNG file")


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Runs one subcommand.

    Raises:
        InputError: a mistake in the arguments, in one line.
    """
    if options.what == "test":
        return _test(options.fn, _pairs(options.column), _pairs([f.removeprefix("--") for f in further]))
    if further:
        raise InputError(f"`sawtooth rewards {options.what}` takes no {further[0]!r}")
    if options.what == "explain":
        from rl.app.explain import explain

        explain(options.run, options.step, options.other, options.groups)
    else:
        from rl.app.rewards_picture import draw_rewards

        draw_rewards(options.file)
        print(options.file)
    return 0


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"can't read {text!r}: write name=value")
        try:
            pairs[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"{name}: {value!r} is not YAML: {' '.join(str(error).split())}") from error
    return pairs


def _test(fn: str, columns: dict[str, Any], settings: dict[str, Any]) -> int:
    from rewards.load import load_rewards
    from rl.app.rewards_trial import try_reward
    from rollout.protocol import get_protocol

    multiplied = settings.get("combine") == "multiply"
    beside = [{"fn": "answer", "name": "beside it"}] if multiplied else []  # there must be an additive term
    reward = load_rewards([{"fn": fn, **settings}, *beside], get_protocol("inftythink"))[0]
    print(f"{fn}:")
    problems = try_reward(reward, columns)
    print("\n".join(f"problem: {problem}" for problem in problems) or "no problems found")
    return 1 if problems else 0
