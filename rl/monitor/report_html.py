"""A report as one HTML file that needs nothing else: no script, no link to anything outside, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from itertools import groupby

from rl.monitor.report_blocks import Block, Box, Code, Fold, Heading, Line, Missing, Picture, Table
from rl.monitor.report_pictures import THEME, to_svg

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAGE = {"--page": ("#ffffff", "#0d1117"), "--ink": ("#1f2328", "#e6edf3"), "--soft": ("#59636e", "#9aa4af")} | {
    "--card": ("#f6f8fa", "#161b22"), "--serious": ("#b3261e", "#ff8f85"), "--warning": ("#8a5a00", "#e3b341"),
    "--good": ("#1a7f37", "#63c97f"), "--bad": ("#8a5a00", "#e3b341"), "--plain": ("#8c959f", "#6e7681"),
}  # fmt: skip
_STYLE = """
* { box-sizing: border-box }
html { color-scheme: light dark }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.7rem; margin: 0 0 .5rem } h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--grid) } h3 { font-size: 1.05rem; margin: 1.5rem 0 .4rem }
p { margin: .4rem 0; overflow-wrap: anywhere } .missing, .label, .note { color: var(--soft) }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; padding: 0; list-style: none }
a { color: inherit } :focus-visible { outline: 2px solid var(--c0) }
.scroll { overflow-x: auto; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid) }
td { overflow-wrap: anywhere } thead th { white-space: nowrap } tbody th { font-weight: 600; white-space: nowrap }
caption { text-align: left; color: var(--soft); padding-bottom: .2rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.2rem 1.5rem;
  margin: .8rem 0 }
figure { margin: 0; break-inside: avoid; min-width: 0 } figure svg { display: block; width: 100%; height: auto }
figure img { max-width: 100%; background: #fff } figcaption { font-weight: 600; font-size: .92rem }
.note { margin: 0; font-size: .82rem }
svg * { stroke-linejoin: round; stroke-linecap: butt }
.box { margin: .7rem 0; padding: .5rem .9rem; background: var(--card); border-left: 4px solid var(--tone);
  break-inside: avoid-page }
.box > :is(h3, h4, h5) { margin: .1rem 0 .3rem; font-size: 1rem; overflow-wrap: anywhere }
.box > :is(h3, h4, h5) b { color: var(--tone) }
pre { margin: .3rem 0; padding: .5rem .7rem; white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card);
  border: 1px solid var(--grid); border-radius: 4px; font: .82rem/1.45 ui-monospace, monospace }
.label { margin: .4rem 0 -.2rem; font-size: .82rem } .box pre { background: var(--page) }
details { margin: .4rem 0 } summary { cursor: pointer; color: var(--soft) }
@media print { body { max-width: none; padding: 0; font-size: 11pt } nav { display: none } .scroll { overflow: visible }
  .grid { grid-template-columns: repeat(2, 1fr) } }
"""


def to_html(title: str, blocks: Sequence[Block], tick: Callable[[], None]) -> str:
    """The whole page.

    Args:
        tick: called after each picture.
    """
    body = "".join(_Writer(tick).write(blocks))
    themes = [f":root {{ {_variables(0)} }}", f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(1)} }} }}"]
    themes.append(f"@media print {{ :root {{ {_variables(0)} }} }}")
    sections = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<li><a href="#{_anchor(text)}">{_text(text)}</a></li>' for text in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{''.join(themes)}{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{_text(title)}</h1>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n{body}</main>\n</body>\n</html>\n'
    )


def _variables(which: int) -> str:
    return "; ".join(f"{name}: {values[which]}" for name, values in (_PAGE | THEME).items())


def _text(text: str) -> str:
    return escape(text.replace("\0", "\ufffd"))


def _anchor(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())


class _Writer:
    def __init__(self, tick: Callable[[], None]):
        self.tick, self.pictures, self.level = tick, 0, 1

    def write(self, blocks: Sequence[Block]) -> list[str]:
        """Each block; pictures that follow one another stand side by side."""
        parts = []
        for pictures, run in groupby(blocks, key=lambda block: isinstance(block, Picture)):
            inner = [self._block(block) for block in run]
            parts += [f'<div class="grid">\n{"".join(inner)}</div>\n'] if pictures else inner
        return parts

    def _block(self, block: Block) -> str:
        match block:
            case Heading(text, level):
                self.level = level
                return f'<h{level} id="{_anchor(text)}">{_text(text)}</h{level}>\n'
            case Line(text):
                return f"<p>{_text(text)}</p>\n"
            case Missing(text):
                return f'<p class="missing">{_text(text)}</p>\n'
            case Table():
                return self._table(block)
            case Picture():
                return self._picture(block)
            case Code(text, label):
                return f'<p class="label">{_text(label)}</p>\n<pre>{_text(text)}</pre>\n'
            case Fold(title, inner):
                return f"<details><summary>{_text(title)}</summary>\n{''.join(self.write(inner))}</details>\n"
            case Box(title, inner, tone):
                word = f"<b>{tone.capitalize()}:</b> " if tone in ("serious", "warning") else ""
                self.level += 1
                head = f"<h{self.level}>{word}{_text(title)}</h{self.level}>"
                body = "".join(self.write(inner))
                self.level -= 1
                return f'<div class="box" style="--tone: var(--{tone})">{head}\n{body}</div>\n'

    def _table(self, table: Table) -> str:
        head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.head)
        rows = "".join(
            f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>\n'
            for row in table.rows
        )
        head = f"<thead><tr>{head}</tr></thead>" if head else ""
        return (
            f'<div class="scroll" role="region" aria-label="{_text(table.caption)}" tabindex="0"><table>'
            f"<caption>{_text(table.caption)}</caption>{head}<tbody>{rows}</tbody></table></div>\n"
        )

    def _picture(self, picture: Picture) -> str:
        self.pictures += 1
        if picture.draw is None:
            data = base64.b64encode(picture.png).decode()
            image = f'<img alt="{_text(picture.alt)}" src="data:image/png;base64,{data}">'
        else:
            image = to_svg(picture.draw(), f"p{self.pictures}", picture.alt)
        self.tick()
        note = f'<p class="note">{_text(picture.note)}</p>' if picture.note else ""
        return f"<figure><figcaption>{_text(picture.title)}</figcaption>{image}{note}</figure>\n"
