"""Converts an answer to one notation, from Unicode signs, synonymous LaTeX commands or program text.

The result is LaTeX without spacing commands, with `\\text{…}` for all upright or bold text, and without wrapping.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata

_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff\u202a-\u202e]")
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₙₖₘᵢⱼ", "0123456789+-=()aeoxnkmij", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi "
    "psi omega"
)
_SIGNS = {
    **dict.fromkeys("−–—―‒‐‑﹣－⁻➖", "-"),
    **dict.fromkeys("＋➕", "+"),
    **dict.fromkeys("·⋅∙•・", r"\cdot "),
    **dict.fromkeys("≤⩽≦", r"\leq "),
    **dict.fromkeys("≥⩾≧", r"\geq "),
    **dict.fromkeys("∅⌀", r"\emptyset "),
    **dict.fromkeys("′’‘´", "'"),
    **dict.fromkeys("\u2009\u200a\u2006\u2005\u2008\u2007\u202f\u00a0\u3000", " "),
    **dict(zip("、。〈〉【】", [",", ".", r"\langle ", r"\rangle ", "[", "]"], strict=True)),
    **{"×": r"\times ", "✕": r"\times ", "÷": r"\div ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"},
    **{"∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "∖": r"\setminus "},
    **{
        "≠": r"\neq ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "≈": r"\approx ",
        "≡": r"\equiv ",
        "°": r"^\circ ",
        "º": r"^\circ ",
        "˚": r"^\circ ",
    },
    **{"⟨": r"\langle ", "⟩": r"\rangle ", "∠": r"\angle ", "△": r"\triangle ", "∣": "|", "∶": ":", "⁄": "/", "∕": "/"},
    **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}"},
    **{"→": r"\to ", "⇒": r"\Rightarrow ", "∧": r"\land ", "∨": r"\lor ", "…": r"\ldots ", "⋯": r"\ldots "},
    **{"℃": r"^\circ C", "℉": r"^\circ F", "“": '"', "”": '"', "∑": r"\sum ", "∫": r"\int ", "∂": r"\partial "},
    **{"µ": r"\mu ", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\theta ", "Ω": r"\Omega ", "∆": r"\Delta "},
}
for _name in _GREEK.split():
    for _letter, _command in (
        (f"GREEK SMALL LETTER {_name.upper()}", _name),
        (f"GREEK CAPITAL LETTER {_name.upper()}", _name.title()),
    ):
        with contextlib.suppress(KeyError):
            _SIGNS[unicodedata.lookup(_letter.replace("LAMBDA", "LAMDA"))] = f"\\{_command} "
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_ROOT = re.compile(r"\\sqrt( |\[\d+\]\s*)(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))")

_REPLACED = [  # in this order
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?=[^A-Za-z])\s*\.?(?<!\d)", ""),
    (r"\\(?:left|right|bigg?[lr]?)(?=\\[A-Za-z{}|])", ""),
    (
        r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|hfill|centering|large|Large|boldsymbol|bm)(?![A-Za-z])",
        "",
    ),
    (r"(?<=\d),\s*\\!\s*(?=\d{3}(?!\d))", ","),
    (r"(?<!\\)\\[!/]|\\allowbreak", ""),
    (r"(?<=\d)(?:\\,|~|\\ |\\;|\\:|\{,\}|\{ , \})(?=\d{3}(?!\d))", ","),
    (r"\{,\}", ","),
    (r"\\q?quad|(?<!\\)\\[,;:> ~]|(?<!\\)~|\\(?:h|v)?space\{[^{}]*\}|\\hphantom\{[^{}]*\}|\\phantom\{[^{}]*\}", " "),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\frac\s*(\\[a-z]+)\s*(\d|\\[a-z]+|(?=\{))", lambda m: rf"\frac{{{m[1]}}}" + (f"{{{m[2]}}}" if m[2] else "")),
    (r"\\(?:text)?color\s*\{[a-z]+\}", ""),
    (r"\\ce\s*\{", r"\\text{"),
    (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
    (r"\\text\{\s*inf(?:inity)?\s*\}", r"\\infty "),
    (r"^\s*(?:\\text\{)?\s*(?:minus|negative)\s*\}?\s*(?=\d|\\(?!text))", "-"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (
        r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|normal|md)?|math(?:rm|bf|it|sf|tt|normal)|mbox|hbox|emph|underline|operatorname\*?)\s*\{",
        r"\\text{",
    ),
    (r"\\[lr][vV]ert(?![A-Za-z])|\\v?mid(?![A-Za-z])|\\vert(?![A-Za-z])", "|"),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\l(?:brack|group)(?![A-Za-z])", "["),
    (r"\\r(?:brack|group)(?![A-Za-z])", "]"),
    (r"\\le(?:q|qslant|qq)?(?![A-Za-z])|<=|=<|⩽", r"\\leq "),
    (r"\\ge(?:q|qslant|qq)?(?![A-Za-z])|>=", r"\\geq "),
    (r"\\lt(?![A-Za-z])", "<"),
    (r"\\gt(?![A-Za-z])", ">"),
    (r"\\not\s*=|\\neq?(?![A-Za-z])|!=|<>|=/=", r"\\neq "),
    (r"\\not\s*\\in(?![A-Za-z])", r"\\notin "),
    (r"\\varnothing(?![A-Za-z])|\\O(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
    (r"\\(?:degree|textdegree)(?:\{\})?(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![A-Za-z])", r"^\\circ "),
    (r"\\(?:dots|cdots|dotsc|dotsb|ldots)(?![A-Za-z])|(?<=\d)\.\.\.+", r"\\ldots "),
    (r"\\(?:thickapprox|simeq|approxeq|approx)(?![A-Za-z])|~=", r"\\approx "),
    (r"\\bigcup(?![A-Za-z])", r"\\cup "),
    (r"\\bigcap(?![A-Za-z])", r"\\cap "),
    (r"\\(?:smallsetminus|backslash|setminus)(?![A-Za-z])", r"\\setminus "),
    (r"\\colon(?![A-Za-z])", ":"),
    (
        r"\\mathbb\s*([A-Z])(?![A-Za-z])|\\(R|Z|N|Q|C|reals)(?![A-Za-z])",
        lambda m: rf"\mathbb{{{(m[1] or m[2])[0].upper()}}}",
    ),
    (r"\\text\{\s*([ij])\s*\}", r"\1"),
    (r"\\text\{([\d\s.,+/()*:-]*)\}", r"\1"),
    (r"\\(?:imath)(?![A-Za-z])", "i"),
    (r"\\varphi(?![A-Za-z])", r"\\phi "),
    (r"\\varepsilon(?![A-Za-z])", r"\\epsilon "),
    (r"\\(?:exponentialE|mathe)(?![A-Za-z])", "e"),
    (r"\\l?and(?![A-Za-z])|\\text\{\s*and\s*\}", r"\\text{ and }"),
    (r"\\l?or(?![A-Za-z])|\\text\{\s*or\s*\}", r"\\text{ or }"),
    (r"\\(?:ast|star)(?![A-Za-z])", "*"),
    (r"\\(?:prime)(?![A-Za-z])", "'"),
    (r"\^\s*\{?\s*'\s*\}?", "'"),
    (r"\\[Uu]SD(?![A-Za-z])|\\(?:texteuro|euro)(?![A-Za-z])(?:\{\})?", "€"),
    (r"\\(?:pounds|textsterling)(?![A-Za-z])(?:\{\})?", "£"),
    (r"\\(?:yen|textyen)(?![A-Za-z])(?:\{\})?", "¥"),
    (r"\\cancel\s*", ""),
    (r"(?<=\d)\s+[x*X]\s+(?=10\s*\^)|(?<=\d)[xX](?=10\^)", r"\\times "),
    (r"\*\*", "^"),
    (r"(?<=[-+])\s*\+\s*-\s*|\+\s*-", "-"),
]
_REPLACED = [(re.compile(pattern), put) for pattern, put in _REPLACED]

_FUNCTIONS = "sqrt|ln|log|exp|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|gcd|lcm|max|min|floor|ceil"
_LETTERS = "|".join(name for name in _GREEK.split() if name not in ("nu", "xi", "eta", "chi", "psi", "iota", "mu"))
_BARE = re.compile(
    rf"(?<![\\A-Za-z])({_FUNCTIONS})(?=\s*[\[({{^_\d]|\s+[a-z](?![a-z])|\s*\\(?!text))|(?<![\\A-Za-z])(infty|infinity|oo|inf(?=\s*$))(?![A-Za-z])|(?<![\\A-Za-z])({_LETTERS})(?![a-z])",
    re.IGNORECASE,
)
_LOST = re.compile(r"(?<![\\A-Za-z])(frac|dfrac|tfrac|sum|prod|binom|text|boxed)(?=\s*[{_^])")
_CALL = re.compile(r"\\(sqrt|exp)\s*\(|\^\s*\(")
_EDGE = re.compile(r"^(?:\s|[,;:]|=(?!=)|\\\\)+|(?:\s|[;:,]|\\\\|(?<!\\)\\(?![A-Za-z{}]))+$")
_WHOLE = [
    re.compile(r"\*\*([^*]+)\*\*|__([^_]+)__|(?<!\*)\*([^*]+)\*|`+([^`]+)`+"),
    re.compile(r"\$\$?([^$]*[^$\\])\$\$?|\\\[(.+)\\\]|\\\((.+)\\\)", re.DOTALL),
    re.compile(r'"([^"]+)"|\'([^\']+)\''),
]


_AMOUNT_IN_TEXT = re.compile(r"\\text\{\s*([-+$]?\d[^{}]*)\}")
_MOST_LAYERS = 20  # of wrapping around an answer


def normal(text: str) -> str:
    """Returns the answer in one notation. Time is linear except for nested brackets, whose depth is limited."""
    text = _UNSEEN.sub("", text)
    if not text.isascii():
        text = _from_unicode(text)
    text = _LOST.sub(r"\\\1", text)
    for _ in range(3):
        before = text
        text = _bare(text)
        if text == before:
            break
    for pattern, put in _REPLACED if "\\" in text or not text.isalnum() else ():
        text = pattern.sub(put, text)
    text = _BARE.sub(_as_command, text)
    text = _in_braces(text)
    text = _ROOT.sub(lambda m: f"\\sqrt{m[1].strip()}{{{m[2]}}}", text)
    text = _bare(re.sub(r"\s+", " ", text))
    return match[1].strip() if (match := _AMOUNT_IN_TEXT.fullmatch(text)) else text


def plain_text(text: str) -> str:
    """Returns the text of an answer in words: unwraps `\\text{…}` and unescapes `\\$`, `\\%`, `\\_` and `\\#`."""
    for _ in range(_MOST_LAYERS if "\\text" in text else 0):
        text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    return re.sub(
        r"\s+", " ", text.replace("\\$", "$").replace("\\%", "%").replace("\\_", "_").replace("\\#", "#")
    ).strip()


def closing(text: str, start: int, pairs: str = "([{)]}") -> int:
    """Returns the index where the bracket opened at `start` closes, or -1. Does not distinguish kinds of brackets."""
    half = len(pairs) // 2
    depth = 0
    for index in range(start, len(text)):
        if text[index] in pairs[:half]:
            depth += 1
        elif text[index] in pairs[half:]:
            depth -= 1
            if depth == 0:
                return index
    return -1


def _from_unicode(text: str) -> str:
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m[0]) + "}", text)
    text = _VULGAR.sub(
        lambda m: r"\frac{{{}}}{{{}}}".format(*tuple(unicodedata.normalize("NFKC", m[0]).split("⁄"))), text
    )
    text = _SIGN.sub(lambda m: _SIGNS[m[0]], text)
    text = unicodedata.normalize("NFKC", text)
    return _SIGN.sub(lambda m: _SIGNS[m[0]], text)


def _bare(text: str) -> str:
    """Strips wrapping from an answer: dollars, Markdown, quotes, outer braces, punctuation at both ends."""
    for _ in range(_MOST_LAYERS):
        before = text
        text = _EDGE.sub("", text)
        text = re.sub(r"(?<!\.)\.$(?<!\\\.)", "", text).strip()
        for pattern in _WHOLE:
            if match := pattern.fullmatch(text):
                text = next(group for group in match.groups() if group is not None)
        if text[:1] == "{" and closing(text, 0, "{}") == len(text) - 1:
            text = text[1:-1]
        if text == before:
            break
    return text


def _as_command(match: re.Match[str]) -> str:
    name = match[1] or match[3]
    if match[2]:
        return r"\infty "
    name = name if match[3] and name[0].isupper() and name[1:].islower() else name.lower()
    return {"floor": r"\operatorname{floor}", "ceil": r"\operatorname{ceil}"}.get(name, f"\\{name} ")


def _in_braces(text: str) -> str:
    """Converts program notation to LaTeX: `sqrt(2)`, `exp(x)` and `x^(1/2)`."""
    match = _CALL.search(text)
    count = 0
    while match and count < 50:
        start = match.end() - 1
        end = closing(text, start, "()")
        if end < 0:
            return text
        inside = text[start + 1 : end]
        head = r"\sqrt" if match[1] == "sqrt" else "e^" if match[1] == "exp" else "^"
        text = f"{text[: match.start()]}{head}{{{inside}}}{text[end + 1 :]}"
        match, count = _CALL.search(text), count + 1
    return text
