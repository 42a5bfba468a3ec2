"""`sawtooth chat`: a conversation in the terminal with a model that reasons in rounds, over a vLLM server."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from rl.serving.cli import add_engine_arguments, engine_arguments
from rollout.errors import InputError
from rollout.protocol import RoundProtocol
from rollout.types import Sampling

if TYPE_CHECKING:
    from rl.serving.backend import VLLMBackend
    from rl.serving.child import VLLMChild


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `sawtooth chat`."""
    add_engine_arguments(parser)
    parser.add_argument("--temperature", type=float, help="default: the model's generation_config.json, or 1")
    parser.add_argument("--top-p", type=float, help="default: the model's generation_config.json, or 1")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="maximum tokens per round (default: the context)")
    parser.add_argument("--max-rounds", type=int, metavar="N", help="maximum rounds per turn (default: the protocol's)")
    parser.add_argument("--seed", type=int, help="with a seed, the same conversation gets the same answers")
    parser.add_argument("--system", metavar="TEXT", help="system message of the conversation")
    parser.add_argument("--show-thinking", action="store_true", help="in full as it is generated, not folded")


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Runs `sawtooth chat`.

    Args:
        further: arguments for the vLLM server that it starts.

    Returns:
        0; 1 if the engine failed on a question; 130 if Ctrl-C came before the first prompt.

    Raises:
        InputError: an argument is wrong, or there is no engine.
    """
    arguments = engine_arguments(options, further)
    _check(options)
    from rl.serving.chat_screen import Screen
    from rl.serving.chat_session import Session
    from rl.serving.chat_turn import ChatModel
    from rl.serving.model import load_model
    from rl.serving.stream import BackendFault

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SystemExit: terminal and server are cleaned up
    model = load_model(options.model, protocol=options.protocol)
    if not model.chats:
        raise InputError(
            f"{options.model} has no chat template, or was trained without it: it does not support conversations"
        )
    protocol = _protocol(model.protocol, options.max_rounds)
    try:
        with asyncio.Runner() as runner, _engine(options, arguments, runner) as (backend, child):
            sampling = _sampling(options, model.defaults, protocol, backend.max_model_len)
            chat_model = ChatModel(protocol, model.tokenizer, sampling, backend, backend.max_model_len)
            screen = Screen(options.show_thinking, numbered=protocol.max_rounds > 1)
            code = Session(options.model, chat_model, screen, runner, options.system, child).run()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C must not interrupt the cleanup
            return code
    except BackendFault as error:
        raise InputError(str(error)) from error
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _check(options: argparse.Namespace) -> None:
    """Raises InputError for an invalid number, before anything is loaded."""
    rules = {
        "temperature": (lambda value: 0 <= value <= 2, "from 0 to 2"),
        "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
        "max_tokens": (lambda value: value >= 1, "at least 1"),
        "max_rounds": (lambda value: value >= 1, "at least 1"),
        "seed": (lambda value: -(2**63) <= value < 2**63, "a 64-bit integer"),
    }
    for name, (holds, rule) in rules.items():
        value = getattr(options, name)
        if value is not None and not holds(value):
            raise InputError(f"--{name.replace('_', '-')} is {value}; it must be {rule}")


def _protocol(protocol: RoundProtocol, max_rounds: int | None) -> RoundProtocol:
    if max_rounds is None:
        return protocol
    if protocol.name == "vanilla" and max_rounds > 1:
        raise InputError(f"--max-rounds is {max_rounds}; the vanilla protocol has one round")
    return protocol.replace(max_rounds=max_rounds)


def _sampling(options: argparse.Namespace, defaults: Sampling, protocol: RoundProtocol, context: int) -> Sampling:
    given = {key: value for key in ("temperature", "top_p", "seed") if (value := getattr(options, key)) is not None}
    most = options.max_tokens or (protocol.segment_tokens if protocol.name == "delethink" else context)
    return replace(defaults, max_tokens=most, **given)


@contextmanager
def _engine(
    options: argparse.Namespace, arguments: list[str], runner: asyncio.Runner
) -> Iterator[tuple[VLLMBackend, VLLMChild | None]]:
    """Yields the vLLM server of --url, or one that is started here and stopped on exit."""
    from rl.serving.backend import VLLMBackend
    from rl.serving.child import VLLMChild

    child = None if options.url else VLLMChild(options.model, arguments)
    backend = VLLMBackend(options.url or child.url, os.environ.get("VLLM_API_KEY") if options.url else child.key)
    try:
        if child is None:
            runner.run(backend.connect())
        else:
            print(f"starting vLLM for {options.model}", file=sys.stderr)
            runner.run(child.ready(backend, lambda line: print(line, file=sys.stderr)))
        yield backend, child
    finally:
        runner.run(backend.close())
        if child is not None:
            child.stop()
