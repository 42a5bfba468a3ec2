"""Splits an answer at top level: at commas, relation signs and words such as "or", never inside brackets."""

from __future__ import annotations

import re

_OPEN, _CLOSE = "([{", ")]}"
_AND = re.compile(
    r"\\text\s*\{\s*,?\s*(?:and|or|also|,|;)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|或者?|和|または|及び|と(?=[\d\\-])"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_RELATION = re.compile(
    r"\\(?:leq|geq|neq|in|notin|approx|equiv|sim|to|Rightarrow|subset|subseteq)(?![A-Za-z])|(?<![:\\])=|(?<!\\)[<>]"
)


def split(text: str, breaks: str = ",;") -> list[str]:
    """Splits at `breaks`, "and" and "or" outside all brackets; `1,234` is kept whole."""
    text = _AND.sub(breaks[0], text)
    whole = (
        {match.start() + offset for match in _THOUSANDS.finditer(text) for offset in range(len(match[0]))}
        if "," in text
        else set()
    )
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character in breaks and depth <= 0 and index not in whole:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def relations(text: str) -> tuple[list[str], list[str]]:
    """Splits into sides and the signs between them, outside all brackets: `1 < x = y` gives [1, x, y] and [<, =]."""
    sides, signs, start, depth, position = [], [], 0, 0, 0
    found = {match.start(): match for match in _RELATION.finditer(text)}
    while position < len(text):
        character = text[position]
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif depth == 0 and position in found:
            match = found[position]
            sides.append(text[start:position].strip())
            signs.append(match[0].strip())
            start = position = match.end()
            continue
        position += 1
    sides.append(text[start:].strip())
    return sides, signs


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""Returns (opening, inside, closing) if one bracket pair encloses the whole: `(`, `[`, `\{`, `\langle`, `]`."""
    text = text.strip()
    for opening, closing in ((r"\{", r"\}"), (r"\langle", r"\rangle")):
        if text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            return (
                None
                if opening in inside and closing in inside and inside.find(closing) < inside.find(opening)
                else (opening, inside.strip(), closing)
            )
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    depth = 0
    for index, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if depth == 0 and index < len(text) - 1:
                return None
    return (text[0], text[1:-1].strip(), text[-1]) if depth == 0 else None


_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_ROWS = re.compile(
    r"\\begin\{([pbvBV]?matrix|array|cases|aligned|align\*?|smallmatrix)\}(?:\s*\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL
)


def rows(text: str) -> tuple[str, list[list[str]]] | None:
    """The environment and the cells of a matrix, or of `cases`; brackets around an `array` are left out."""
    text = (
        re.sub(r"^\s*[\[({]\s*(?=\\begin\{(?:array|matrix|smallmatrix))|(?<=\})\s*[\])}]\s*$", "", text)
        if "\\begin" in text
        else text
    )
    match = _ROWS.fullmatch(text.strip())
    if not match or "\\begin" in match[2]:
        return None
    lines = [
        line for line in re.split(r"\\\\(?:\s*\[[^\]]*\])?|\\newline", match[2].replace("\\hline", "")) if line.strip()
    ]
    return match[1], [[cell.strip(" ,.") for cell in line.split("&")] for line in lines]


def expanded(parts: list[str]) -> list[str]:
    r"""Expands `a \pm b` into two parts."""
    result = []
    for part in parts:
        signs = list(_PLUS_MINUS.finditer(part))
        if len(signs) != 1 or part.startswith(("(", "[", r"\{")):
            result.append(part)
            continue
        plus, minus = (_PLUS_MINUS.sub(sign, part).strip() for sign in ("+", "-"))
        result += [plus.removeprefix("+").strip(), minus]
    return result
