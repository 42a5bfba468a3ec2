"""Compares two normalized answers by type: letter, words, date, number, quantity, names, set, parts.

A type that recognizes both sides decides alone; answers of no known type are expressions (`engine`).
"""

from __future__ import annotations

import re

from rewards.verifying import dates, engine, lists, numbers, quantities, ranges, relations, special, words
from rewards.verifying.normal import normal, plain_text
from rewards.verifying.pieces import bracketed, split
from rewards.verifying.pieces import relations as sides_of

_LABEL = re.compile(
    r"(?:\\text\s*\{)?\s*(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|result|solution|ans)\s*(?:is|:|=)+\s*:?\s*(?:\}\s*:?)?(?=\s*\S)|(?:答案|答え|答|结果)\s*(?:是|为|は|:)?\s*:?\s*",
    re.IGNORECASE,
)
_BASE = re.compile(
    r"\(?\s*([0-9A-Za-z]+(?:\.[0-9]+)?)\s*\)?\s*(?:_\s*\{?\s*\(?\s*(?:base\s*)?(\w+)\s*\)?\s*\}?|\(?\s*(?:in\s+)?base\s*[-\s]?(\w+)\s*\)?)"
)
_LABELED = re.compile(r"\(\s*[A-E]\s*\)\s*(?=\S)|[A-E]\s*[):.]\s+(?=\S)")
_RELATION = re.compile(r"(?<![\\])[<>=]|\\(?:leq|geq|neq|in|notin|approx|to|Rightarrow)(?![A-Za-z])")
_INEQUALITY = re.compile(r"[<>]|\\(?:leq|geq|neq)(?![A-Za-z])")
_ARROW = re.compile(r"\\(?:to|Rightarrow|mapsto|rightarrow|longrightarrow|implies)(?![A-Za-z])")
_BARE_UNITS = re.compile(r"\\text\s*\{\s*(?:(?:square|cubic|sq\.?)\s+)?units?\s*\}\s*(?:\^\s*\{?\d\}?)?$")
_ABOUT = re.compile(r"\\approx\s*(?=\S)")
_DECIMAL = re.compile(r"-?\d+\.\d+")
_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}
_DEEPEST = 6
_LONGEST = 4_000  # characters; a longer answer is compared only as an expression


def same(found: str, gold: str, depth: int = 0) -> bool:
    """Whether the normalized answer `found` equals the normalized gold answer."""
    if not found or depth > _DEEPEST:
        return False
    if found == gold:
        return True
    if len(found) > _LONGEST:
        return engine.equal(found, gold)
    found, gold = _exactly(_unlabeled(found)), _exactly(gold)
    while (outer := bracketed(found)) and outer[0] == "(" and (bracketed(outer[1]) or "=" in outer[1]):
        found = outer[1]
    if (match := _BARE_UNITS.search(found)) and not _BARE_UNITS.search(gold):
        return same(found[: match.start()].strip(), gold, depth + 1)
    if (verdict := _as_date(found, gold)) is not None:
        return verdict
    if (verdict := _as_text(found, gold, depth)) is not None:
        return verdict
    a, b = numbers.read(found), numbers.read(gold)
    if a and b:
        return numbers.same(a, b)
    if _DECIMAL.fullmatch(gold) and found == gold.replace(".", ","):  # a decimal comma
        return True
    if (verdict := _with_base(found, gold)) is not None:
        return verdict
    if (verdict := special.verdict(found, gold)) is not None:
        return verdict

    def deeper(one: str, other: str) -> bool:
        return same(normal(one), normal(other), depth + 1)

    related = _RELATION.search(found) or _RELATION.search(gold) or "\\begin{" in gold + found
    if related and (verdict := _with_relations(found, gold, deeper)) is not None:
        return verdict
    spans = ranges.read(gold)
    others = ranges.read(found) if spans is not None else None
    if others is not None:
        return ranges.same(others, spans)
    if (verdict := _in_parts(found, gold, deeper)) is not None:
        return verdict
    if (verdict := quantities.same(found, gold)) is not None:
        return verdict
    return engine.equal(found, gold)


def _exactly(text: str) -> str:
    """Removes a leading "about" (`\\approx`)."""
    match = _ABOUT.match(text)
    return text[match.end() :] if match else text


def _unlabeled(text: str) -> str:
    """Removes a leading "The answer is"."""
    match = _LABEL.match(text)
    if not match:
        return text
    rest = text[match.end() :].strip()
    return f"\\text{{{rest}" if rest.count("}") > rest.count("{") else rest


def _as_text(found: str, gold: str, depth: int) -> bool | None:
    """Compares choices and words; None if neither side is one."""
    if letter := words.letter(gold):
        if chosen := words.chosen(found):
            return chosen == letter
        rest = re.fullmatch(r"\(?[A-J][.)]\s*(.+)", plain_text(gold))
        if rest:
            return same(found, normal(rest[1]), depth + 1)
        if "=" not in found:
            return False
    elif depth == 0 and (match := _LABELED.match(plain_text(found))) and not _LABELED.match(plain_text(gold)):
        return same(normal(plain_text(found)[match.end() :]), gold, depth + 1) or None
    if words.is_words(gold):
        if words.several(gold):
            return words.several(gold) == words.several(found)
        if number := words.as_number(gold):
            other = words.as_number(found) or found
            return same(other, number, depth + 1) if not words.is_words(other) else False
        if words.as_set(gold) != gold:
            return same(words.as_set(found), words.as_set(gold), depth + 1)
        return words.same(found, gold)
    if words.is_words(found):
        if number := words.as_number(found):
            return same(number, gold, depth + 1)
        if words.as_set(found) != found:
            return same(words.as_set(found), gold, depth + 1)
        return lists.read(gold) is None and words.same(found, gold)
    return None


def _with_base(found: str, gold: str) -> bool | None:
    ours, theirs = _base(found), _base(gold)
    if ours is None and theirs is None:
        return None
    if ours and theirs:
        return ours == theirs
    if theirs:
        if "_" in found and "=" not in found:
            return False
        plain = plain_text(found).strip("() ").upper().lstrip("0") or "0"
        return plain == theirs[0] if re.fullmatch(r"[0-9A-Z]+", plain) else None
    return ours[1] == 10 and same(ours[0], gold, _DEEPEST)


def _base(text: str) -> tuple[str, int] | None:
    text = plain_text(text)
    if code := re.fullmatch(r"0x([0-9A-Fa-f]+)|0b([01]+)", text):
        return (code[1] or code[2]).upper().lstrip("0") or "0", 16 if code[1] else 2
    match = _BASE.fullmatch(text)
    if not match or not re.search(r"\d", match[1]):
        return None
    base = (match[2] or match[3]).lower()
    number = int(base) if base.isdigit() else int(words.as_number(base) or 0) or None
    return (match[1].upper().lstrip("0") or "0", number) if number is not None else None


def _as_date(found: str, gold: str) -> bool | None:
    ours, theirs = dates.date(found), dates.date(gold)
    if ours or theirs:
        return bool(ours and theirs) and dates.same_date(ours, theirs) and dates.same_weekday(found, gold)
    ours, theirs = dates.time(found), dates.time(gold)
    if theirs and not ours and dates.is_no_ratio(theirs):
        return False
    return dates.same_time(ours, theirs) if ours and theirs else None


def _with_relations(found: str, gold: str, equal: relations.Same) -> bool | None:
    expected, stated = relations.given(gold), relations.given(found)
    if expected and not stated and len(expected) == 1 and _is_tuple(expected[0][0]):
        return equal(found, expected[0][1])
    if expected:
        names, values = [name for name, _ in expected], [value for _, value in expected]
        if stated:
            if relations.names_agree(stated, expected, equal):
                return True
            return len(stated) == len(expected) == 1 and _is_curve(values[0]) and _one_equation(found, gold)
        if "=" in found:
            return len(expected) == 1 and _is_curve(values[0]) and _one_equation(found, gold)
        inside = _without_member(found)
        parts = lists.read(inside)
        return relations.values_agree(list(parts.parts) if parts else [inside], names, values, equal)
    signs = sides_of(gold)[1]
    if signs and all(sign == "=" for sign in signs):
        return _one_equation(found, gold) if "=" in found else False
    if _ARROW.search(found) and not _ARROW.search(gold):
        return False
    if stated and not signs:
        if not all(relations.consistent(part) for part in split(found) if "=" in part):
            return False
        if len(stated) == 1:
            return equal(stated[0][1], gold)
        return _stated_list(stated, gold, equal)
    sides, marks = sides_of(found)
    if not signs and marks and set(marks) <= {"=", r"\approx"}:
        if len(split(found)) > 1:
            return False
        if marks[-1] == r"\approx":
            sides = sides[:-1] if not relations.is_name(sides[0]) or len(sides) > 2 else sides
        return relations.consistent("=".join(sides)) and equal(sides[-1], gold)
    chain = len(signs) > 1 and (set(signs) <= {"<", r"\leq"} or set(signs) <= {">", r"\geq"})
    if chain and [_FLIPPED.get(sign) for sign in reversed(marks)] == signs:  # A > B > C as C < B < A
        return all(map(equal, reversed(sides), sides_of(gold)[0]))
    if ranges.read(gold) is None:
        if (
            _INEQUALITY.search(found)
            and not _INEQUALITY.search(gold)
            and not re.search(r"\\cup|\\infty|\\in|[\[\]]|\\\{", gold)
        ):
            return False
        if r"\in" in found and not _RELATION.search(gold):
            return equal(_without_member(found), gold)
        return None
    if ranges.read(found) is None and _INEQUALITY.search(found):
        return _negated(found, gold)
    return None


def _stated_list(stated: list[tuple[str, str]], gold: str, equal: relations.Same) -> bool:
    """Compares `x = 1, y = 2` with (1, 2): in the order of the names x, y, z or as written; for roots, in any order."""
    expected = lists.read(gold)
    if expected is None or len(expected.parts) != len(stated):
        return False
    names = [name for name, _ in stated]
    if len(set(names)) == 1 or len({re.sub(r"_.*", "", name) for name in names}) == 1:
        if expected.kind in ("", "{"):
            return relations.unordered([value for _, value in stated], list(expected.parts), equal)
    elif all(len(name) == 1 for name in names):
        stated = sorted(stated)
    return all(equal(value, part) for (_, value), part in zip(stated, expected.parts, strict=True))


def _in_parts(found: str, gold: str, equal: relations.Same) -> bool | None:
    ours, theirs = lists.read(found), lists.read(gold)
    if ours is None and theirs is None:
        stripped = tuple(bracketed(side) for side in (found, gold))
        if any(side and side[0] == "(" and side[2] == ")" for side in stripped):
            one, other = (
                side[1] if side and side[0] == "(" and side[2] == ")" else text
                for side, text in zip(stripped, (found, gold), strict=True)
            )
            return equal(one, other)
        return None
    if ours is None or theirs is None:
        single, several = (found, theirs) if ours is None else (gold, ours)
        if several.kind == "{" and len(several.parts) == 1:
            if re.fullmatch(r"\\emptyset\s*", single):
                return False
            return equal(several.parts[0], single) if ours else equal(single, several.parts[0])
        if several.kind in ("matrix", "column", "row", "") or ours is None:
            return (
                None
                if re.search(r"matrix|\\cdot|\+|\\times", single) and several.kind in ("matrix", "column", "row")
                else (None if several.kind == "" and quantities.read(found) and quantities.read(gold) else False)
            )
        return False if several.kind != "(" else None
    return lists.same(ours, theirs, equal)


def _without_member(text: str) -> str:
    match = re.match(r"(?:[A-Za-z](?:_\{?\w\}?)?|\\[a-z]+)\s*\\in\s*(?=\S)", text)
    return text[match.end() :] if match else text


def _is_tuple(name: str) -> bool:
    return "," in name and not re.match(r"[A-Za-z]\(", name)


def _is_curve(value: str) -> bool:
    """Whether the value contains letters, so that the equation is itself an answer, as y = 2x+1."""
    return engine.value(value) is None


def _one_equation(found: str, gold: str) -> bool:
    return engine.equal(found, gold)


def _negated(found: str, gold: str) -> bool:
    """Accepts `-x > -1` for `x < 1`: both sides times -1."""
    (ours, sign), (theirs, other) = sides_of(found), sides_of(gold)
    if len(sign) != 1 or len(other) != 1 or _FLIPPED.get(sign[0]) != other[0]:
        return False
    return all(engine.equal(f"-({a})", b) for a, b in zip(ours, theirs, strict=True))
