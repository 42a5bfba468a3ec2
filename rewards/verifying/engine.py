"""Compares expressions: latex2sympy parses, math-verify compares, with guards against false positives of both.

Letters keep their case, `i` is the imaginary unit, degrees are degrees. May hang on a huge power, so the caller is a
process that can be killed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from rewards.verifying import numbers

_WORDS = re.compile(r"\\text\s*\{\s*([^{}]*[A-Za-z]{2}[^{}]*)\}")
_SUM = re.compile(r"(?<=[\dj}])\s*[-+]\s*[\dj\\]")
_RATE = re.compile(  # dy/dx, which sympy reads as 0 or y/x
    r"\\frac\s*\{\s*(\\partial|d)\s*(\^\{?\d\}?)?\s*([A-Za-z]?)\s*\}\s*\{\s*\1\s*([A-Za-z])\s*(\^\{?\d\}?)?\s*\}(?!\s*[\[({\dA-Za-z\\])"
    r"|(?<![A-Za-z\\])d([A-Za-z])\s*/\s*d([A-Za-z])(?![A-Za-z])"
)
_PLACES = 6
_TWICE_RAISED = re.compile(r"\^\s*\\circ\s*\^|_\s*\w\s*_")
_LONGEST, _DEEPEST = 5_000, 60  # characters, bracket nesting: parse time explodes with both


def equal(found: str, gold: str) -> bool:
    """Are two normalized expressions equal? What can't be read equals nothing."""
    if found.count("'") != gold.count("'") or (_has_base(found) and not _has_base(gold)):  # latex2sympy drops both
        return False
    if _letters(found) == {"j"} and _letters(gold) == {"i"} and _SUM.search(found):  # an engineer's imaginary unit
        found = re.sub(r"(?<!\\)j", "i", found)
    if _words_of(found) != _words_of(gold) or ("\\ldots" in found) != ("\\ldots" in gold):
        return False
    a, b = parse(found), parse(gold)
    if a is None or b is None:
        return False
    try:
        return same(a, b)
    except MemoryError:
        raise  # the child's memory limit: no verdict on the answer
    except (
        Exception
    ):  # sympy can raise anything on odd input, even bare `Exception`; what it can't compare is not equal
        return False


def same(found: Any, gold: Any) -> bool:
    """Whether math-verify finds two sympy objects equal; names are case-sensitive, tiny numbers not rounded to 0."""
    from math_verify import verify
    from sympy import Basic, E, Expr, MatrixBase, Symbol, simplify

    if isinstance(found, Symbol) or isinstance(gold, Symbol):  # math-verify equates letters regardless of case
        if found == gold or {found, gold} == {Symbol("e", real=True), E}:
            return True
        if isinstance(found, Symbol) and isinstance(gold, Symbol):
            return False
        if not isinstance(found, Expr) or not isinstance(gold, Expr):
            return False
        return len(getattr(found - gold, "free_symbols", ())) < 2 and simplify(found - gold) == 0
    if isinstance(found, Expr) and isinstance(gold, Expr) and _far_apart(found, gold):
        return False
    constants = all(isinstance(side, Expr) and not side.is_Matrix and not side.free_symbols for side in (found, gold))
    if constants and (verdict := _same_constants(found, gold)) is not None:
        return verdict
    if not isinstance(found, (Basic, MatrixBase)) or not isinstance(gold, (Basic, MatrixBase)):
        return False
    if not verify([gold], [found], float_rounding=_PLACES, timeout_seconds=None, allow_set_relation_comp=True):
        return False
    return not constants or _near(found, gold)


def value(text: str) -> float | None:
    """Returns the real value of a constant expression; None if it has none."""
    if number := numbers.read(text):
        return float(number.value) / (100 if number.percent else 1)
    expression = parse(text)
    if expression is None or getattr(expression, "free_symbols", True):
        return None
    try:
        found = complex(expression.evalf(15))
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
    return found.real if found.imag == 0 else None


@lru_cache(maxsize=4096)
def parse(text: str) -> Any:
    """Parses a normalized expression into a sympy object; None if that fails."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy, normalize_latex
    from sympy import I, Rational, Symbol

    if not text or len(text) > _LONGEST or _depth(text) > _DEEPEST or _TWICE_RAISED.search(text):
        return None
    if (number := numbers.read(text)) and not number.decimal and not number.percent:
        return Rational(number.value.numerator, number.value.denominator)  # `2 1/2`, `0.\overline{3}`
    settings = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="none")
    text = normalize_latex(_repaired(text), settings)
    try:
        read = latex2sympy(
            text,
            is_real=True,
            convert_degrees="^\\circ" in text,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except MemoryError:
        raise
    except Exception:  # its parser raises bare `Exception` ("I don't understand this"), so no narrower class will do
        return None
    unit = Symbol("i", real=True)
    if unit in getattr(read, "free_symbols", ()):
        try:
            read = read.subs(unit, I)
        except (TypeError, ValueError, AttributeError, RecursionError):  # i is a sum's bound variable, not a number
            return None
    return read


def _repaired(text: str) -> str:
    text = re.sub(r"\^\s*\\circ(?:\s*(?:\\text\{)?\s*(?=[CF](?![A-Za-z])))?", r"^\\circ ", text)
    text = re.sub(r"(?<=\d)\\text\{\s*(?:units?|degrees?)[^{}]*\}", "", text)
    text = re.sub(r"\\([gG])amma(?![A-Za-z])(?!\s*\()", r"\\text{\1ammaletter}", text)  # else both are Euler's constant
    text = _RATE.sub(lambda m: f"\\text{{rate{''.join(re.findall('[A-Za-z0-9]', m[0].replace('frac', '')))}}}", text)
    text = re.sub(r"\\(?:text\{\s*cis\s*\}|cis(?![A-Za-z]))\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\S+))", _cis, text)
    return re.sub(r"\\text\{\s*([A-Za-z])\s*\}", r"\1", text)


def _cis(match: re.Match[str]) -> str:
    angle = next(filter(None, match.groups()), "0")
    return rf"(\cos({angle}) + i \sin({angle}))"


def _same_constants(found: Any, gold: Any) -> bool | None:
    """Compares exactly if both are rational, because math-verify would round them; None leaves it to math-verify."""
    from sympy import Rational

    if isinstance(found, Rational) and isinstance(gold, Rational):
        return found == gold
    return None


def _far_apart(found: Any, gold: Any) -> bool:
    """Whether two numbers differ in their first digits. Takes a millisecond; sympy may take long."""
    if found.free_symbols or gold.free_symbols or found.is_Matrix or gold.is_Matrix:
        return False
    try:
        a, b = complex(found.evalf(15)), complex(gold.evalf(15))
        return abs(a - b) > max(abs(a), abs(b)) / 1000 + 1e-9
    except (TypeError, ValueError, AttributeError, OverflowError):
        return False  # not numbers, or too large for floats


def _near(found: Any, gold: Any) -> bool:
    """Returns False if two constants that math-verify finds equal to six places differ in their first digits."""
    try:
        a, b = complex(found.evalf(20)), complex(gold.evalf(20))
    except (TypeError, ValueError, AttributeError, OverflowError):
        return True  # not numbers
    size = max(abs(a), abs(b))
    return size >= 1e-3 or abs(a - b) <= size / 5000


def _has_base(text: str) -> bool:
    return bool(re.search(r"\d\s*\}?\)?\s*_", text))


def _letters(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)))


def _words_of(text: str) -> list[str]:
    """Returns the words in an expression, which latex2sympy would drop or read as letters."""
    return [" ".join(word.split()).casefold() for word in _WORDS.findall(text) if word.strip() != "cis"]


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.sub(r"[^(){}\[\]]", "", text):
        depth += 1 if bracket in "({[" else -1
        deepest = max(deepest, depth)
    return deepest
