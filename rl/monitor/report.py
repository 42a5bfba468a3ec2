"""`sawtooth report`: a summary of a run as one page to read, print or send.

`templates/report.j2` is the page; `html.j2` and `markdown.j2` render its parts in either format. Text from a model or a
data set is escaped when it enters the template, by jinja2 for HTML and by `_escape_markdown` for Markdown.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl.monitor.report_episodes import episodes_of
from rl.monitor.report_facts import Picture, config_of, curves_of, evaluation_of, facts_of, stops_of
from rl.monitor.runs import PARTS, Run, is_run
from rl.monitor.samples import find_samples
from rl.monitor.warnings_find import find_warnings
from rollout.atomic import atomic
from rollout.errors import InputError

_TEMPLATES = Path(__file__).parent / "templates"
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def write_report(folder: Path, out: Path) -> Path:
    """Writes a report on a run's folder, which may be incomplete or a copy, and lists what is missing.

    Args:
        out: a file that ends in .html (self-contained) or in .md (pictures in a folder next to it).

    Raises:
        InputError: `folder` is not a run, or `out` has another ending or can't be written.
    """
    folder, out = Path(folder), Path(out)
    if not is_run(folder):
        raise InputError(f"{folder} is not a run: it contains none of {', '.join(PARTS)}")
    if out.suffix not in (".html", ".md"):
        raise InputError(f"{out} must end in .html or .md")
    run = Run(folder.resolve().name, folder.resolve())
    run.curves.refresh()
    samples = find_samples(run.folder)
    page = {
        "title": f"Run {run.name}",
        "facts": facts_of(run, samples.files),
        "warnings": find_warnings(run, run.curves),
        "evaluation": evaluation_of(run),
        "curves": curves_of(run),
        "stops": stops_of(samples.stops),
        "episodes": episodes_of(run, samples),
        "config": config_of(run),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic(out) as path:
            path.write_text(_render(page, out), encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"can't write {out} ({error.strerror}): choose another --out") from error
    return out


def _render(page: dict[str, Any], out: Path) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from tqdm.auto import tqdm

    def plain(value: Any) -> Any:
        return value.replace("\0", "\ufffd") if isinstance(value, str) and not isinstance(value, Markup) else value

    def markdown(value: Any) -> Any:
        return value if isinstance(value, Markup) else Markup(_escape_markdown(str(value)))

    html = out.suffix == ".html"
    env = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, finalize=plain if html else markdown,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters["anchor"] = lambda text: "".join(c if c.isalnum() else "-" for c in text.lower())
    env.filters["fenced"] = lambda text: Markup(_fenced(text))
    with tqdm(desc="report", unit="picture", leave=False, disable=None) as bar:
        env.filters["src"] = _inside(bar.update) if html else _beside(out.with_name(f"{out.stem}_files"), bar.update)
        layout = env.get_template("html.j2" if html else "markdown.j2").module
        return env.get_template("report.j2").render(**page, f=layout)


def _escape_markdown(text: str) -> str:
    """Escapes plain text so that Markdown readers find no markup or HTML in it."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    return _SPECIAL.sub(r"\\\1", text)


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _inside(tick: Callable[[], Any]) -> Callable[[Picture], str]:
    """Returns a filter that embeds pictures in the page."""

    def source(picture: Picture) -> str:
        buffer = io.BytesIO()
        picture.draw(buffer)
        tick()
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    return source


def _beside(folder: Path, tick: Callable[[], Any]) -> Callable[[Picture], Any]:
    """Returns a filter that writes pictures to a folder next to the page."""
    from markupsafe import Markup

    def source(picture: Picture) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]", "-", picture.name)[:60] + ".png"  # a custom metric's name may have any length
        with (folder / name).open("wb") as file:
            picture.draw(file)
        tick()
        return Markup(f"{folder.name}/{name}".replace(" ", "%20"))

    return source
