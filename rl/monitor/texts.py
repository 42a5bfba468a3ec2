"""Prepares episode texts for the page: formulas as MathML, questions as plain text, diffs of two summaries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from typing import Any
from xml.etree.ElementTree import Element

from rollout.store import read_question

MOST_FORMULA = 2000
"""Characters of the longest formula that is drawn; a longer one stays text."""

_MOST_FORMULAS = 1000  # per text
_MOST_NESTED = 40  # nested braces: the converter recurses for each
_MOST_WORDS = 2000  # words (or lines) that a diff compares

_MARKS = re.compile(r"\\boxed\s{0,9}\{|\\[\[\]()]|\\.|\$\$|\$|[{}]", re.DOTALL)
_CLOSES = {"$$": "$$", "$": "$", r"\[": r"\]", r"\(": r"\)"}
_MACROS = re.compile(r"\\(?:(?:new|renew|provide|Declare)[a-zA-Z]+|x?[egx]?def(?![a-zA-Z]))")
_BOXED_WORDS = re.compile(r"\\boxed\s*\{([A-Za-z]{3,}|[A-Za-z]+(?: [A-Za-z]+)+)\}")
_ENTITY = re.compile(r"&#x([0-9A-Fa-f]{1,6});")

_ELEMENTS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt", "mroot", "munder",
    "mover", "munderover", "mtable", "mtr", "mtd", "mlabeledtr", "mstyle", "mpadded", "mphantom", "menclose",
    "mmultiscripts", "mprescripts", "none",
}  # fmt: skip
_ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "separator", "form", "largeop",
    "movablelimits", "symmetric", "minsize", "maxsize", "lspace", "rspace", "width", "height", "depth", "voffset",
    "linethickness", "accent", "accentunder", "columnalign", "rowalign", "columnspacing", "rowspacing", "columnlines",
    "rowlines", "notation", "mathcolor", "mathbackground", "linebreak", "side",
}  # fmt: skip
_VALUE = re.compile(r"(?!.*(?<![.\d])\d{4})[A-Za-z0-9.+\-# ]{1,80}\Z")  # no lengths in the thousands


def plain_question(stored: str) -> str:
    """Returns a stored question as plain text: its chat messages, each with its role if there are several."""
    question = read_question(stored)
    if isinstance(question, str):
        return question
    texts = [(message["role"], _content(message.get("content"))) for message in question]
    return texts[0][1] if len(texts) == 1 else "\n\n".join(f"{role}: {text}" for role, text in texts)


def _content(content: Any) -> str:
    """Returns a message's text, or the joined texts of its parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", part)) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)


def render(text: str) -> list[dict[str, Any]]:
    """Splits text into `{"text"}` and, per formula, `{"math", "tex", "display"}`; "math" is its MathML as a tree.

    Formulas: $$…$$, \\[…\\], \\(…\\), $…$ that can't be a price, and a bare \\boxed{…}. A formula that can't be
    converted stays text, as does everything after the first `_MOST_FORMULAS`.
    """
    parts: list[dict[str, Any]] = []
    done = 0
    for start, end, tex, display in islice(_formulas(text), _MOST_FORMULAS):
        math = _mathml(tex, display)
        if math is not None:
            if start > done:
                parts.append({"text": text[done:start]})
            parts.append({"math": math, "tex": tex, "display": display})
            done = end
    if done < len(text):
        parts.append({"text": text[done:]})
    return parts


def _formulas(text: str) -> Iterator[tuple[int, int, str, bool]]:
    """Yields (start, end, TeX, whether it is a display formula) of each formula, in order. Takes linear time."""
    marks = [(match.start(), match.end(), match[0]) for match in _MARKS.finditer(text)]
    braces = _pairs(marks)
    following = _following(marks)
    place = 0
    while place < len(marks):
        start, opened, mark = marks[place]
        if mark.startswith(r"\boxed"):
            closing = braces.get(place)
            if closing is not None and marks[closing][1] - start <= MOST_FORMULA:
                yield start, marks[closing][1], text[start : marks[closing][1]], False
                place = closing
        elif mark in _CLOSES:
            closing = following[place]
            if closing is not None and marks[closing][0] - opened <= MOST_FORMULA:
                close, end, _ = marks[closing]
                inside = text[opened:close]
                if inside.strip() and (mark != "$" or _is_formula(inside, text[end : end + 1])):
                    yield start, end, inside.strip(), mark in ("$$", r"\[")
                    place = closing
        place += 1


def _is_formula(inside: str, after: str) -> bool:
    """Returns False for `$5 and $6`, and for text that spans paragraphs."""
    return not (inside[0].isspace() or inside[-1].isspace() or after.isdigit() or "\n\n" in inside)


def _following(marks: list[tuple[int, int, str]]) -> list[int | None]:
    """Returns the index of the next mark that could close each one; None for marks that open nothing."""
    last: dict[str, int] = {}
    following: list[int | None] = [None] * len(marks)
    for place in range(len(marks) - 1, -1, -1):
        mark = marks[place][2]
        following[place] = last.get(_CLOSES.get(mark, ""))
        if mark == "$$":  # a `$` formula does not extend past it
            last.pop("$", None)
        last[mark] = place
    return following


def _pairs(marks: list[tuple[int, int, str]]) -> dict[int, int]:
    """Returns the index of the brace that closes each opening one."""
    pairs, waiting = {}, []
    for place, (_, _, mark) in enumerate(marks):
        if mark == "}":
            if waiting:
                pairs[waiting.pop()] = place
        elif mark == "{" or mark.startswith(r"\boxed"):
            waiting.append(place)
    return pairs


@lru_cache(maxsize=4096)
def _mathml(tex: str, display: bool) -> list[Any] | None:
    """Converts TeX to MathML without active content; returns None if the converter fails."""
    from latex2mathml.converter import Converter

    if _MACROS.search(tex) or _nesting(tex) > _MOST_NESTED:  # macros could expand without end
        return None
    tex = _BOXED_WORDS.sub(r"\\boxed{\\text{\1}}", tex)
    try:
        return _tree(Converter(display="block" if display else "inline").convert_to_element(tex))
    except Exception:  # RecursionError, StopIteration, IndexError, …: the converter may raise anything
        return None


def _nesting(tex: str) -> int:
    depth = most = 0
    for mark in re.findall(r"\\.|[{}]", tex):
        depth += (mark == "{") - (mark == "}")
        most = max(most, depth)
    return most


def _tree(element: Element) -> list[Any]:
    """Returns `[tag, attributes, child, …]` with only known elements, attributes and texts. The page builds nodes
    from it and parses no markup.

    Raises:
        ValueError: an element is not allowed in formulas.
    """
    if element.tag not in _ELEMENTS:
        raise ValueError(f"{element.tag} is not an element of a formula")
    tree = [element.tag, {k: v for k, v in element.attrib.items() if k in _ATTRIBUTES and _VALUE.match(v)}]
    tree += [_plain(element.text)] if element.text else []
    for child in element:
        tree += [_tree(child), *([_plain(child.tail)] if child.tail else [])]
    return tree


def _plain(text: str) -> str:
    """Decodes the converter's entities."""
    return _ENTITY.sub(lambda match: chr(min(int(match[1], 16), 0x10FFFF)), text)


def changes(before: str, after: str) -> list[dict[str, str]]:
    """Returns the diff of two texts: `{"op": "same" | "added" | "removed", "text"}` by words, or lines if long."""
    old, new = re.findall(r"\S+\s*|\s+", before), re.findall(r"\S+\s*|\s+", after)
    if max(len(old), len(new)) > _MOST_WORDS:
        old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    found: list[dict[str, str]] = []

    def add(op: str, pieces: list[str]) -> None:
        if pieces:
            if found and found[-1]["op"] == op:
                found[-1]["text"] += "".join(pieces)
            else:
                found.append({"op": op, "text": "".join(pieces)})

    head, tail = _common(old, new)
    add("same", old[:head])
    inner_old, inner_new = old[head : len(old) - tail], new[head : len(new) - tail]
    if max(len(inner_old), len(inner_new)) > _MOST_WORDS:
        add("removed", inner_old), add("added", inner_new)
    else:
        for op, i, j, k, m in SequenceMatcher(None, inner_old, inner_new).get_opcodes():
            if op == "equal":
                add("same", inner_old[i:j])
            else:
                add("removed", inner_old[i:j]), add("added", inner_new[k:m])
    add("same", old[len(old) - tail :])
    return found


def _common(old: list[str], new: list[str]) -> tuple[int, int]:
    """Returns the length of the common prefix and, in the rest, of the common suffix."""
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    rest = shorter - head
    return head, next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
