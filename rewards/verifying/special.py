"""Answers that look like expressions but are not: remainders, codes, chemical formulas; also congruences."""

from __future__ import annotations

import re

from rewards.verifying.normal import plain_text

_EXACT = [
    re.compile(r"(-?\d+)\s*(?:,?\s*[Rr]\.?|,?\s*(?:with )?(?:a )?rem(?:ainder)?(?: of)?)\s*(\d+)"),  # 3 R 1
    re.compile(r"(\d+)\s*-\s*(\d+)(?:\s*-\s*(\d+))?"),  # 3-4 as a score, 555-1234
    re.compile(r"(v?\d+(?:\.\d+){2,})"),  # 192.168.0.1
]
_CODE = re.compile(r"#[0-9A-Fa-f]{3,8}|[A-Za-z]+\d+(?:[A-Za-z]+\d*)*")  # x10, a1b2, H2O
_SYMBOLS = re.compile(  # elements that occur in formulas in questions
    "H|He|Li|Be|B|C|N|O|F|Ne|Na|Mg|Al|Si|P|S|Cl|Ar|K|Ca|Ti|V|Cr|Mn|Fe|Co|Ni|Cu|Zn|Br|Kr|Ag|Sn|I|Xe|Ba|W|Pt|Au|Hg|Pb|U"
)
_FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:_\{?(?:[2-9]|\d\d)\}?)?){2,}(?:\^\{?\d?[-+]\}?)?")
_MODULO = re.compile(
    r"(?:([A-Za-z]\w*)\s*(?:\\equiv|=)\s*)?(-?\d{1,50})\s*,?\s*"
    r"\(?\s*\\?(?:pmod|bmod|mod)(?:ulo)?\s*\{?\s*(\d{1,50})\s*\}?\s*\)?"
)


def verdict(found: str, gold: str) -> bool | None:
    """Compares two normalized answers if the gold one is of this kind; else returns None."""
    one, other = plain_text(found), plain_text(gold)
    for pattern in _EXACT:
        if theirs := pattern.fullmatch(other):
            ours = pattern.fullmatch(one)
            return bool(ours) and ours.groups() == theirs.groups()
    if theirs := _MODULO.fullmatch(other):
        ours = _MODULO.fullmatch(one)
        if ours and int(theirs[3]):
            named = ours[1] and theirs[1] and ours[1] != theirs[1]
            return not named and ours[3] == theirs[3] and (int(ours[2]) - int(theirs[2])) % int(theirs[3]) == 0
        return None
    if _CODE.fullmatch(other) or _is_formula(other):
        return _bare(one) == _bare(other)
    return None


def _is_formula(text: str) -> bool:
    """Whether the text is element symbols, at least one with a number: `CO_2`. V_1 I_1 is a product."""
    if "_" not in text or not _FORMULA.fullmatch(text):
        return False
    return all(map(_SYMBOLS.fullmatch, re.findall(r"[A-Z][a-z]?", text)))


def _bare(text: str) -> str:
    return re.sub(r"[\s_{}]", "", text)
