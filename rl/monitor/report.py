"""`sawtooth report`: what a run did, as one page to read, print or send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rl.monitor.report_blocks import Block, count_pictures
from rl.monitor.report_episodes import episode_blocks
from rl.monitor.report_html import to_html
from rl.monitor.report_markdown import to_markdown
from rl.monitor.report_run import alarm_blocks, config_blocks, curve_blocks, eval_blocks, fact_blocks, stop_blocks
from rl.monitor.runs import PARTS, Run, is_run
from rl.monitor.samples import find_samples
from rollout.atomic import atomic
from rollout.errors import InputError


def write_report(folder: Path, out: Path) -> Path:
    """Writes a report on a run's folder, which may be half-written or a copy; what is missing is said in it.

    Args:
        out: a file that ends in .html (all in it), or in .md (pictures in a folder beside it).

    Raises:
        InputError: `folder` is no run, `out` ends in something else, or can't be written.
    """
    folder, out = Path(folder), Path(out)
    if not is_run(folder):
        raise InputError(f"{folder} is no run: it holds none of {', '.join(PARTS)}")
    if out.suffix not in (".html", ".md"):
        raise InputError(f"{out} must end in .html or .md")
    run = Run(folder.resolve().name, folder.resolve())
    run.curves.refresh()
    samples = find_samples(run.folder)
    blocks: list[Block] = [
        *fact_blocks(run, samples), *alarm_blocks(run), *eval_blocks(run), *curve_blocks(run),
        *stop_blocks(run, samples), *episode_blocks(run, samples), *config_blocks(run),
    ]  # fmt: skip
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic(out) as path:
            path.write_text(_page(f"Run {run.name}", blocks, out), encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"can't write {out} ({error.strerror}): choose another --out") from error
    return out


def _page(title: str, blocks: list[Block], out: Path) -> str:
    from tqdm.auto import tqdm

    with tqdm(total=count_pictures(blocks), desc="report", unit="picture", leave=False, disable=None) as bar:
        tick: Callable[[], None] = bar.update
        if out.suffix == ".html":
            return to_html(title, blocks, tick)
        return to_markdown(title, blocks, out.with_name(f"{out.stem}_files"), tick)
