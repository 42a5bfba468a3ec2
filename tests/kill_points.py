"""Runs commands one after the other, each in a fork of this process, which has imported everything already once.

    python -m tests.kill_points '[{"arguments": ["sft", "demo.yaml"], "kill": "before final"}, …]'

Prints the exit code of each as JSON; a process that was killed has -9. `kill` names the place at which the process
kills itself with SIGKILL, as a machine's failure would.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

import rl.app.cli
import rl.app.stages
import rl.train
import sft.train


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_when(owner: Any, name: str, reached: Callable[..., bool]) -> None:
    """Makes `owner.name` deadly for arguments of which `reached` is true."""
    before = getattr(owner, name)
    setattr(owner, name, lambda *a, **k: die() if reached(*a, **k) else before(*a, **k))


def of_final(tokenizer: Any, folder: Path, *_: Any, **__: Any) -> bool:
    return Path(folder).name.startswith("final")


PLACES = {
    "after the first checkpoint": lambda stage: setattr(sft.train.SaveProtocol, "on_save", die),
    "before final": lambda stage: setattr(sft.train if stage == "sft" else rl.train, "save_final", die),
    "while final is written": lambda stage: die_when(PreTrainedTokenizerBase, "save_pretrained", of_final),
    "before done.json": lambda stage: die_when(rl.app.stages, "atomic", lambda path: path.name == "done.json"),
}


def run(arguments: list[str], kill: str | None = None, cut: str | None = None, file_limit: int | None = None) -> int:
    """Runs one command. `cut`: a file that is cut off before. `file_limit`: bytes beyond which no file grows."""
    if cut:
        os.truncate(cut, os.path.getsize(cut) - 100)
    child = os.fork()
    if not child:
        code = 1
        try:
            if file_limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            if kill:
                PLACES[kill](arguments[0])
            code = rl.app.cli.main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    print(json.dumps([run(**command) for command in json.loads(sys.argv[1])]))
