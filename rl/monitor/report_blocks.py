"""What a report is made of: blocks that a page of HTML and one of Markdown show in their own way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Line:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Missing:
    """One line on what is not there, and why."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of plain text under a head; without a head, pairs of a name and what it is."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn when the page is written, or the bytes of a PNG."""

    name: str
    title: str
    note: str
    alt: str
    draw: Callable[[], Figure] | None = None
    png: bytes = b""


@dataclass(frozen=True)
class Code:
    """Text as it stands: a model's output, a config."""

    text: str
    label: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are closed at first."""

    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Box:
    """Blocks that belong together, under a title."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    tone: str = "plain"  # "serious" and "warning" (alarms, said in words too), "good", "bad" or "plain"


Block = Heading | Line | Missing | Table | Picture | Code | Fold | Box


def count_pictures(blocks: Sequence[Block]) -> int:
    return sum(
        count_pictures(block.blocks) if isinstance(block, Fold | Box) else isinstance(block, Picture)
        for block in blocks
    )
