"""`sawtooth monitor`, `sawtooth report` and `sawtooth top`."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from rl.app.run_files import RUNS, find_run
from rollout.errors import InputError

COMMANDS = ("monitor", "report", "top")
_TOKEN = "SAWTOOTH_MONITOR_TOKEN"


def add_commands(commands: Any) -> None:
    """Adds the three commands to `sawtooth`'s own."""
    monitor = commands.add_parser(
        "monitor",
        help="a local page with the curves and the episodes of runs",
        description="Serves a page over run folders. It only reads them: training is not affected.",
        epilog=f"If --host is not a loopback address, the page asks for a token: {_TOKEN}, or a random one.",
    )
    monitor.add_argument("runs", nargs="*", help="run folders, names below runs/, or folders of runs (default: runs)")
    monitor.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    monitor.add_argument("--port", type=int, default=8686, help="0: any free port (default: 8686)")
    report = commands.add_parser("report", help="one file about a run: curves, episodes, evaluation, config")
    report.add_argument("run", help="a run's folder or name")
    report.add_argument("--out", type=Path, help="a .html or .md file (default: NAME.html here)")
    top = commands.add_parser("top", help="the numbers of runs in the terminal, live")
    top.add_argument("runs", nargs="*", help="run folders, names below runs/, or folders of runs (default: runs)")
    top.add_argument("--once", action="store_true", help="print them once and exit")
    top.add_argument("--interval", type=float, default=2.0, help="seconds between two updates (default: 2)")


def run_command(options: argparse.Namespace, further: list[str]) -> int:
    """Runs one of the three commands.

    Raises:
        InputError: a mistake in the arguments, in one line.
    """
    if further:
        raise InputError(f"unknown argument {further[0]!r} for `sawtooth {options.stage}`")
    if options.stage == "report":
        from rl.monitor.report import write_report

        folder = find_run(options.run)
        print(write_report(folder, options.out or Path(f"{folder.resolve().name}.html")))
    elif options.stage == "top":
        from rl.monitor.runs import Runs
        from rl.monitor.top import top

        top(Runs(_folders(options.runs)), options.once, options.interval)
    else:
        _serve(options)
    return 0


def _folders(runs: list[str]) -> list[Path]:
    return [find_run(run) for run in runs] or [RUNS]


def _serve(options: argparse.Namespace) -> None:
    import uvicorn

    from rl.monitor.access import is_loopback
    from rl.monitor.runs import Runs
    from rl.monitor.server import make_app

    os.nice(10)  # training on the same machine has priority
    token = None if is_loopback(options.host) else os.environ.get(_TOKEN) or secrets.token_urlsafe(24)
    with _listen(options.host, options.port) as listener:
        port = listener.getsockname()[1]
        runs = Runs(_folders(options.runs))
        found = runs.refresh()
        app = make_app(runs, token)
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{port}/" + (f"?token={token}" if token else "")
        print(
            f"monitor: {address} ({len(found)} runs: {', '.join(run.id for run in found[:5])}; Ctrl-C ends it)",
            flush=True,
        )
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        with contextlib.suppress(KeyboardInterrupt):  # the normal way to stop it
            server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # early connections wait until the page is up
    except (OSError, OverflowError) as error:
        listener.close()
        raise InputError(f"can't listen on {host}:{port} ({error}): choose another --host or --port") from error
    return listener
