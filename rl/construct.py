"""`python -m rl.construct RANKS CONFIG [OVERRIDES]`: makes the trainers' arguments as the stages will, and stops.

Slow (it imports trl), and it changes the process, so `rl.preflight` asks for it only where our own rules do not
decide.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any


def construct(stage: str, settings: dict[str, Any], ranks: int) -> None:
    """Makes the arguments of `sft` or `rl`.

    Args:
        ranks: there is one here, so the batch of all of them is its own.

    Raises:
        ValueError: one line on why the library refuses them.
    """
    from trl import SFTConfig

    from rl.config import EpisodeGRPOConfig
    from sft.device import device_defaults, make_arguments

    given = {key: value for key, value in settings.items() if key != "deepspeed"}  # it would set up ranks
    for key in ("per_device_train_batch_size", "per_device_eval_batch_size"):
        given[key] = (given.get(key) or 8) * ranks
    with tempfile.TemporaryDirectory() as folder:
        kind = {"sft": SFTConfig, "rl": EpisodeGRPOConfig}[stage]
        make_arguments(kind, stage, output_dir=folder, **device_defaults(given))


def main(arguments: list[str]) -> int:
    from rl.run_config import load_config

    ranks, path, *overrides = arguments
    config = load_config(path, overrides)
    try:
        for stage in config.trained:
            construct(stage, getattr(config, stage), int(ranks))
    except ValueError as error:
        print(f"sawtooth: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
