"""The command `sawtooth`. Heavy imports are deferred to the stages, so `--help` and `--dry-run` answer at once."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from rl.app import rewards_cli
from rl.app.cards import LauncherError, launched_ranks, ranks_of, threads_of_a_rank
from rl.app.disk import WriteError, named_write_errors
from rl.app.run_files import find_run
from rl.app.run_lock import run_lock
from rl.evaluation import cli as eval_cli
from rl.evaluation import harness_cli
from rl.exporting import check_cli
from rl.exporting import cli as export_cli
from rl.monitor import cli as monitor_cli
from rl.serving import chat
from rl.serving import cli as serve_cli
from rollout.errors import ConfigError, UserError
from rollout.processes import rank
from rollout.quiet import hide_loading_bars, keep_libraries_quiet
from rollout.terminal import CleanFormatter, CleanOutput, clean

_HELP = {
    "data": "cut long traces into rounds",
    "sft": "teach the model to reason in rounds",
    "rl": "GRPO over whole episodes",
    "eval": "measure the models of a run on held-out questions, or any models on any data",
    "export": "write a folder for the Hugging Face Hub, of a run or of a checkpoint",
    "run": "all stages, one after the other",
}
_TOOLS = {
    "serve": (serve_cli, "an OpenAI-compatible endpoint that runs the rounds"),
    "chat": (chat, "a conversation in the terminal"),
    "lm-eval": (harness_cli, "tasks of lm-evaluation-harness, in rounds"),
    "check-export": (check_cli, "compare an exported folder's greedy rounds in plain transformers and vLLM with ours"),
}
"""Commands that are not stages: module with `add_arguments` and `run_command`, and help."""

_OWN_SCREEN = ("chat", "top")  # these color their output, and clean it themselves


def _parser(of_run: bool) -> argparse.ArgumentParser:
    """Returns the parser. `of_run`: a config is among the arguments, so every `--key=value` is one of its settings."""
    parser = argparse.ArgumentParser(
        prog="sawtooth", description="RL fine-tuning of language models that reason in rounds."
    )
    commands = parser.add_subparsers(dest="stage", required=True, metavar="COMMAND")
    for stage, text in _HELP.items():
        command = commands.add_parser(
            stage, help=text, description=text, epilog="Any setting can be changed: --section.key=value", add_help=True
        )
        if stage == "eval" and not of_run:
            command.add_argument(
                "config", nargs="+", help="a YAML file such as configs/demo.yaml; or models, with --data"
            )
            eval_cli.add_arguments(command)
        else:
            what = "a YAML file such as configs/demo.yaml" + ("; or a checkpoint" if stage == "export" else "")
            command.add_argument("config", help=what)
        command.add_argument(
            "--dry-run", action="store_true", help="check the whole config, print it resolved, and exit"
        )
        command.add_argument("--checked", action="store_true", help=argparse.SUPPRESS)  # set by the parent process
        if stage in ("sft", "rl", "run"):
            what = "ranks of sft and rl on this machine (torchrun); auto (default): one per GPU"
            command.add_argument("--nproc", default="auto", metavar="N", help=what)
        if stage in ("data", "export", "run"):
            what = "data set to the Hub (data.repo_id)" if stage == "data" else "export to the Hub (export.repo_id)"
            command.add_argument("--push", action="store_true", help=f"send the {what}")
        if stage == "data":
            command.usage = "sawtooth data CONFIG [--push] | sawtooth data show RUN [--n N] [--whole]"
        if stage == "export":
            export_cli.add_arguments(command)
    for name, (module, text) in _TOOLS.items():
        module.add_arguments(commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + "."))
    plan = commands.add_parser(
        "plan",
        help="memory, rows and tokens of a run before it starts",
        description="Prints what each rank needs and what a step contains; exit code 2 if it can't fit.",
    )
    plan.add_argument("config", help="a YAML file")
    what = "ranks on all machines, one per GPU; auto (default): one per GPU of this machine"
    plan.add_argument("--nproc", default="auto", metavar="N", help=what)
    plan.add_argument(
        "--card", choices=["a100", "h100", "h200", "l40s", "rtx4090"], help="GPU model; also prints minimum times"
    )
    plan.add_argument("--memory", type=float, help="GiB per GPU (default: that of --card, or this machine's)")
    plan.add_argument("--tokens", type=int, help="generated tokens per episode, for the times (default: the maximum)")
    rewards_cli.add_commands(commands.add_parser("rewards", help="explain, test and draw reward functions"))
    monitor_cli.add_commands(commands)
    serve = commands.add_parser(
        "serve-rollouts",
        help="start a vLLM server for `rollout: {engine: server}`",
        description="Starts a vLLM server whose weights a trainer can change. Further arguments are vLLM's own.",
    )
    serve.add_argument("model", help="checkpoint to load first")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; keep it on a private network")
    serve.add_argument("--port", type=int, default=8000)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, or 2 for a user error, explained in one line."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] != ["serve-rollouts"]:  # vLLM's own command keeps its log
        keep_libraries_quiet()
    logging.lastResort.setFormatter(CleanFormatter())  # shows warnings if logging is not set up
    out = sys.stdout if arguments[:1] and arguments[0] in _OWN_SCREEN else CleanOutput(sys.stdout)
    with contextlib.redirect_stdout(out):
        try:
            try:
                return _main(arguments)
            finally:
                sys.stdout.flush()
        except BrokenPipeError as error:  # the reader has closed our output, as `head` does
            print(f"sawtooth: {error}", file=sys.stderr)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # else Python reports it again at exit
            return 2


def _main(arguments: list[str]) -> int:
    try:
        if arguments[:2] == ["data", "show"]:
            return _show(arguments[2:])
        if arguments[:1] == ["export"] and "--check" in arguments:  # its old name, for one release
            print("note: `sawtooth export --check` is now `sawtooth check-export`", file=sys.stderr)
            arguments = ["check-export", *(argument for argument in arguments[1:] if argument != "--check")]
        of_run = any(argument.endswith((".yaml", ".yml")) for argument in arguments)
        options, overrides = _parser(of_run).parse_known_args(arguments)
        with named_write_errors(Path()), contextlib.ExitStack() as held:
            return _run(options, overrides, held)
    except KeyboardInterrupt:
        print("\nstopped; run the same command to resume", file=sys.stderr)
        return 130
    except UserError as error:  # any other exception is a bug of ours, or a plug-in's, and keeps its traceback
        if not rank() or isinstance(error, (WriteError, LauncherError)):  # these may concern one rank only
            print(f"sawtooth: {clean(str(error))}", file=sys.stderr)
        return 2


def _show(arguments: list[str]) -> int:
    from sft.data.show import show_rounds

    parser = argparse.ArgumentParser(prog="sawtooth data show", description="Prints rounds in readable form.")
    parser.add_argument("run", help="a run's folder or name, or the folder of a data set")
    parser.add_argument("--n", type=int, default=5, help="traces shown (default: 5)")
    parser.add_argument("--whole", action="store_true", help="long texts in full, not only their beginnings and ends")
    options = parser.parse_args(arguments)
    show_rounds(find_run(options.run), options.n, options.whole)
    return 0


def _python_path() -> str:
    """Returns PYTHONPATH: our packages' folder, then the user's entries. Works installed and from a checkout."""
    return os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))


def _start(stage: str, config: str, overrides: list[str], ranks: int) -> int:
    """Runs a stage in its own process, which frees its engine's memory for the next stage, or in several ranks.

    PYTHONSAFEPATH: a rewards.py in the working directory must not shadow our package.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": _python_path(), "PYTHONSAFEPATH": "1"}
    if ranks > 1:
        environment.setdefault("OMP_NUM_THREADS", str(threads_of_a_rank(ranks)))
    one = ["--nproc=1"] if ranks == 1 and stage in ("sft", "rl") else []
    command = [sys.executable, *launcher, "-m", "rl.app.cli", stage, config, "--checked", *one, *overrides]
    with subprocess.Popen(command, env=environment) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: _tell_workers(process.pid))
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # it received the interrupt too
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _tell_workers(pid: int) -> None:
    """Sends SIGTERM to the stage's processes, but not to torchrun, which would kill its ranks after 30 s."""
    import psutil

    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "rl.app.cli" in words and "torch.distributed.run" not in words:
                process.send_signal(signal.SIGTERM)


def _plan(options: argparse.Namespace, overrides: list[str]) -> int:
    from rl.app.preflight import check_run
    from rl.app.run_config import load_config

    ranks = ranks_of(options.nproc, here=False)
    config = load_config(options.config, overrides)
    check_run(config, options.config, overrides, ranks)
    from rl.app.plan_report import print_plan

    print_plan(config, ranks, options.card, options.memory, options.tokens)
    return 0


def _check_ranks(stage: str, overrides: list[str], started: int | None, nproc: str | None) -> None:
    """Raises ConfigError unless ranks fit the stage: only SFT and RL have several, started by a launcher or by us."""
    if any(text.partition("=")[0] == "--nproc" for text in overrides):
        raise ConfigError(f"--nproc is for run, sft and rl: {stage} is one process")
    if (started or 1) > 1 and stage not in ("sft", "rl"):
        what = "starts its own ranks (--nproc)" if stage == "run" else "is one process"
        raise ConfigError(
            f"{stage} {what}, but a launcher has started it {started} times: start it once, or launch sft and rl"
        )
    if started and nproc not in (None, "auto", str(started)):
        raise ConfigError(f"--nproc is {nproc}, but a launcher has started this process (RANK is set): leave it out")


def _run(options: argparse.Namespace, overrides: list[str], held: contextlib.ExitStack) -> int:
    if options.stage == "serve-rollouts":
        from rollout.remote.launch import server_command

        arguments = [a for a in overrides if a != "--"]
        command, environment = server_command(options.model, options.host, options.port, arguments)
        print(f"serve-rollouts: {options.model} on http://{options.host}:{options.port}")
        sys.stdout.flush()
        os.execvpe(command[0], command, environment)
    if options.stage == "rewards":
        return rewards_cli.run_command(options, overrides)
    if options.stage in monitor_cli.COMMANDS:
        return monitor_cli.run_command(options, overrides)
    if options.stage in _TOOLS:
        if options.stage != "serve":  # its own process loads nothing
            hide_loading_bars()
        return _TOOLS[options.stage][0].run_command(options, overrides)
    if options.stage == "eval" and isinstance(options.config, list):
        hide_loading_bars()
        return eval_cli.run_command(options, overrides)
    if options.stage == "export" and export_cli.takes(options):
        hide_loading_bars()
        return export_cli.run_command(options, overrides)
    from rl.app.preflight import check_run
    from rl.app.run_config import load_config
    from rl.app.run_files import is_done
    from rl.app.stages import check_stage, run_stage

    if options.stage == "plan":
        return _plan(options, overrides)

    started, nproc = launched_ranks(), getattr(options, "nproc", None)
    _check_ranks(options.stage, overrides, started, nproc if not options.checked else None)
    push = getattr(options, "push", False)
    if push and options.stage != "data":
        overrides = [*overrides, "export.push=true"]
    config = load_config(options.config, overrides)
    if push and options.stage == "data":
        from rl.app.data_stage import check_push

        check_push(config)
    if options.stage != "run":
        check_stage(options.stage, config)
    ranks = 1 if started or options.checked or nproc is None else ranks_of(nproc)
    if not options.checked:
        training = (started or ranks) if options.stage in ("rl", "run") else None
        check_run(config, options.config, overrides, training)
    if options.dry_run:
        print(config.to_yaml(), end="")
        return 0
    held.enter_context(named_write_errors(config.folder))
    held.enter_context(run_lock(config.folder, f"sawtooth {options.stage}"))
    if options.stage != "run" and ranks == 1:
        if rank():
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- only rank 0 prints
        hide_loading_bars()
        run_stage(options.stage, config)
        if push and options.stage == "data":
            from rl.app.data_stage import push as push_data

            print(f"data: pushed to {push_data(config)}")
        return 0
    for stage in config.stages if options.stage == "run" else [options.stage]:
        code = _start(stage, options.config, overrides, ranks if stage in ("sft", "rl") else 1)
        if not code and not is_done(config.folder / stage):
            return 0  # preempted: the stage has reported it
        if code:
            print(f"sawtooth: {stage} did not finish; run the same command to resume", file=sys.stderr)
            return code
    if options.stage != "run":
        return 0
    results = {"results": "eval", "episodes": "episodes", "metrics": "metrics.jsonl", "model": "export/model"}
    made = {what: config.folder / where for what, where in results.items() if (config.folder / where).exists()}
    print("\n" + "\n".join(f"{what}: {where}" for what, where in made.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
