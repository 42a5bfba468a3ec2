"""A report as Markdown with a folder of pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rl.monitor.report_blocks import Block, Box, Code, Fold, Heading, Line, Missing, Picture, Table
from rl.monitor.report_pictures import to_png

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def to_markdown(title: str, blocks: Sequence[Block], folder: Path, tick: Callable[[], None]) -> str:
    """The text; pictures are written into `folder`, which stands beside it.

    Args:
        tick: called after each picture.
    """
    parts = [f"# {_text(title)}", *_write(blocks, folder, tick)]
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Plain text that no reader of Markdown takes for markup or HTML."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    return _SPECIAL.sub(r"\\\1", text)


def _write(blocks: Sequence[Block], folder: Path, tick: Callable[[], None]) -> list[str]:
    parts: list[str] = []
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {_text(text)}")
            case Line(text):
                parts.append(_text(text))
            case Missing(text):
                parts.append(f"*{_text(text)}*")
            case Table():
                parts.append(_table(block))
            case Picture():
                parts.append(_picture(block, folder))
                tick()
            case Code(text, label):
                fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
                parts.append(f"{_text(label)}:\n\n{fence}\n{text}\n{fence}")
            case Fold(title, inner):
                parts += [f"<details><summary>{_text(title)}</summary>", *_write(inner, folder, tick), "</details>"]
            case Box(title, inner, tone):
                word = f"{tone.capitalize()}: " if tone in ("serious", "warning") else ""
                parts += [f"**{word}{_text(title)}**", *_write(inner, folder, tick)]
    return parts


def _table(table: Table) -> str:
    head = table.head or [""] * max(map(len, table.rows), default=1)
    lines = [[_text(cell) for cell in line] for line in (head, *table.rows)]
    lines.insert(1, ["---"] * len(head))
    return f"{_text(table.caption)}:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _picture(picture: Picture, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]", "-", picture.name)[:60] + ".png"  # a name of a run's own may be of any length
    (folder / name).write_bytes(picture.png if picture.draw is None else to_png(picture.draw()))
    where = f"{folder.name}/{name}".replace(" ", "%20")
    return f"**{_text(picture.title)}** {_text(picture.note)}\n\n![{_text(picture.alt)}]({where})"
