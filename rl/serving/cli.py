"""`sawtooth serve`: its options, and the server that they start."""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
from pathlib import Path

from rollout.errors import InputError

_DESCRIPTION = (
    "Serves a model over HTTP as OpenAI's chat completions API. Each request runs a whole episode, with all of its "
    "rounds, on a vLLM server: one that it starts, or a given one. Other arguments are vLLM's own, as --dtype float32."
)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `serve` and `chat` share: the model and where it runs."""
    parser.add_argument("model", help="folder or Hub id: tokenizer, chat template, protocol.json (and the weights)")
    parser.add_argument("--url", help="a vLLM server that is already running (its key, if any, in VLLM_API_KEY)")
    parser.add_argument(
        "--protocol", choices=["inftythink", "vanilla", "delethink"], help="default: the model's protocol.json"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    add_engine_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port (default: 8000)")
    parser.add_argument("--name", help="name of the model in requests (default: MODEL as given)")
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="file with the key that requests must send (default: SAWTOOTH_API_KEY)",
    )
    parser.add_argument("--api-key", help="the key itself, visible to all users of this machine")
    parser.add_argument(
        "--allowed-origins",
        nargs="+",
        default=[],
        metavar="URL",
        help="sites whose pages may send requests, or * (CORS)",
    )
    parser.add_argument(
        "--max-concurrency", type=int, default=64, metavar="N", help="concurrent episodes (default: 64)"
    )
    parser.add_argument("--max-queue", type=int, default=256, metavar="N", help="waiting requests (default: 256)")
    parser.add_argument("--max-rounds", type=int, metavar="N", help="per episode (default: the protocol's)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="generated, per episode (default: no limit)")
    parser.add_argument("--max-n", type=int, default=8, metavar="N", help="choices per request (default: 8)")
    parser.add_argument("--max-body", type=int, default=1 << 20, metavar="BYTES", help="per request (default: 1 MiB)")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="per request (default: 600)")
    parser.add_argument(
        "--grace", type=float, default=30, metavar="SECONDS", help="for running requests at shutdown (default: 30)"
    )


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Serves until SIGTERM or SIGINT.

    Raises:
        InputError: an option, the model or the address is wrong.
        RuntimeError: the engine did not start, or has died.
    """
    from rl.serving.server import serve
    from rl.serving.service import Limits

    least = {"max_concurrency": 1, "max_queue": 0, "max_rounds": 1, "max_tokens": 1, "max_n": 1, "max_body": 1}
    for field, low in least.items():
        value = getattr(options, field)
        if value is not None and value < low:
            raise InputError(f"--{field.replace('_', '-')} is {value}; it must be at least {low}")
    if not options.timeout > 0 or not options.grace >= 0:
        raise InputError("--timeout must be above 0 and --grace at least 0, in seconds")
    limits = Limits(
        concurrency=options.max_concurrency,
        queue=options.max_queue,
        rounds=options.max_rounds,
        tokens=options.max_tokens,
        choices=min(options.max_n, options.max_concurrency),
        body=options.max_body,
        seconds=options.timeout,
    )
    return serve(
        options.model,
        url=options.url,
        engine_arguments=engine_arguments(options, further),
        name=options.name,
        protocol=options.protocol,
        host=options.host,
        port=options.port,
        api_key=_api_key(options),
        limits=limits,
        grace=options.grace,
        origins=[_origin(origin) for origin in options.allowed_origins],
    )


def engine_arguments(options: argparse.Namespace, further: list[str]) -> list[str]:
    """Returns vLLM's own arguments; a server that already runs takes none."""
    arguments = [argument for argument in further if argument != "--"]
    if options.url and arguments:
        raise InputError(
            f"{arguments[0]} is not an option of this command, and the vLLM at --url is already running: leave it out"
        )
    return arguments


def _origin(origin: str) -> str:
    """Checks that a site is in the form that browsers send: no other form ever matches."""
    if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
        raise InputError(f"--allowed-origins {origin}: must be * or a site without a path, as https://site.example")
    return origin


def _api_key(options: argparse.Namespace) -> str | None:
    """Returns the key from the one source that gives it.

    Raises:
        InputError: it can't be read, is empty (which would admit everyone), or a header can't carry it.
    """
    if options.api_key is not None and options.api_key_file is not None:
        raise InputError("give --api-key or --api-key-file, not both")
    file = options.api_key_file
    if file is not None:
        source = f"--api-key-file {file}"
        try:
            key = file.read_text(encoding="utf-8")
            if file.stat().st_mode & stat.S_IROTH:
                print(f"serve: every user of this machine can read {file}: chmod 600", file=sys.stderr)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source} can't be read: {error}") from error
    elif options.api_key is not None:
        source, key = "--api-key", options.api_key
    else:
        source, key = "SAWTOOTH_API_KEY", os.environ.get("SAWTOOTH_API_KEY")
    if key is None:
        return None
    key = key.strip()
    if not key:
        raise InputError(f"{source} is empty")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{source} must be one line of printable ASCII: a header carries nothing else")
    return key
