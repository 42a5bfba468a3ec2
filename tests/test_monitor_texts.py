"""Texts for a page: which formulas are drawn, that nothing in them can act, that hostile text costs no time, diffs."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rl.monitor.texts import changes, plain_question, render


def shape(text):
    """Text as text, formulas as [TeX], [[TeX]] where they stand by themselves."""
    return "".join(
        part["text"] if "text" in part else f"[[{part['tex']}]]" if part["display"] else f"[{part['tex']}]"
        for part in render(text)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so $x^2$ it is", "so [x^2] it is"),
        ("$5 and $6", "$5 and $6"),
        ("it costs $5, $6 or $7.50 and $x$.", "it costs $5, $6 or $7.50 and [x]."),
        ("$ x $ and $x$5", "$ x $ and $x$5"),
        (r"\$5 is $y$", r"\$5 is [y]"),
        ("$a$b$c$", "[a]b[c]"),
        ("$$a$$b$$c$$", "[[a]]b[[c]]"),
        (r"\[ a \] and \(b\)", "[[a]] and [b]"),
        (r"\\(b\\)", r"\\(b\\)"),
        (r"the answer is \boxed{\frac{1}{2}}.", r"the answer is [\boxed{\frac{1}{2}}]."),
        (r"\boxed{a}\boxed{b", r"[\boxed{a}]\boxed{b"),
        (r"$\boxed{a}$ \boxed {\{}", r"[\boxed{a}] [\boxed {\{}]"),
        ("$one\n\ntwo$", "$one\n\ntwo$"),
        ("$$ $$ $$", "$$ $$ $$"),
        (r"$\frac{1}{", r"$\frac{1}{"),
        (r"$\left($ fails", r"$\left($ fails"),
        ("$" + "x" * 2001 + "$", "$" + "x" * 2001 + "$"),
        (r"$\newcommand{\a}{\a\a}\a$ $\def\a{b}\a$", r"$\newcommand{\a}{\a\a}\a$ $\def\a{b}\a$"),
        ("", ""),
        ("no formula", "no formula"),
    ],
)
def test_which_formulas_are_drawn(text, expected):
    assert shape(text) == expected


def words(tree):
    """The texts of a formula's tree."""
    return "".join(part if isinstance(part, str) else words(part) for part in tree[2:])


def test_formulas_are_mathml():
    (part,) = render(r"$$\frac{x}{2}$$")
    assert part["math"] == ["math", {"display": "block"}, ["mrow", {}, ["mfrac", {}, *[
        ["mrow", {}, ["mi", {}, "x"]], ["mrow", {}, ["mn", {}, "2"]]]]]]  # fmt: skip
    assert words(render(r"\boxed{New York}")[0]["math"]) == "New\N{NO-BREAK SPACE}York"
    assert "['mi', {}, 'a'], ['mi', {}, 'b']" in str(render(r"\boxed{ab}")[0]["math"])


HOSTILE = [
    r"\text{<script>alert(1)</script>}",
    r"\text{&#x3c;script&#x3e;alert(1)&#x3c;/script&#x3e;}",
    r"\href{javascript:alert(1)}{x}",
    r"\style{background:url(http://a.b)}{x}",
    r"\class{a}{x}",
    r"\text{</math><img src=x onerror=alert(1)>}",
    "<img src=x onerror=y>",
    r"\color{red;background:url(x)}{y}",
    r"\text{\"><svg onload=alert(1)>}",
    r"\verb|<b>|",
    r"\operatorname{<b>}",
    r"\mathrm{<b>}",
    r"\unicode{60}script\unicode{62}",
    r"\tag{<b>}x",
    r"\fcolorbox{red}{blue}{<b>}",
    r"\mbox{<!--<![CDATA[<b>]]>-->}",
    "\x00\ud800x",
]


@pytest.mark.parametrize("tex", HOSTILE)
def test_nothing_in_a_formula_can_act(tex):
    parts = render(f"${tex}$")
    for part in parts:
        if "math" in part:
            check_markup(part["math"])


def check_markup(tree):
    tag, attributes, *children = tree
    assert tag in ("none", "math") or re.fullmatch("m[a-z]+", tag)
    assert not attributes.keys() & {"href", "style", "class", "id", "src"}
    assert not any(name.startswith("on") or ":" in value or "(" in value for name, value in attributes.items())
    for child in children:
        if not isinstance(child, str):  # the page makes a text node of a text
            check_markup(child)


PIECES = [
    "$", "$$", r"\[", r"\]", r"\(", r"\)", r"\boxed{", "{", "}", "\\", "<b>", "&", "x", "2", " ", "^", "_", r"\frac",
    r"\text{", r"\left", r"\right", r"\begin{matrix}", r"\end{matrix}", r"\href{a}", "%", "\n\n", "'", '"', "🙂",
    r"\color{red}",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@example(r"\boxed{}$")
def test_no_text_is_lost_and_no_markup_comes_out_of_any(text):
    parts, rest = render(text), text
    for part in parts:
        if "text" in part:
            assert rest.startswith(part["text"])
            rest = rest[len(part["text"]) :]
        else:
            check_markup(part["math"])
            rest = without_formula(rest, part["tex"])
    assert rest == ""


def without_formula(text, tex):
    """What follows a formula that a text begins with. A bare box has no marks around it."""
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\[", r"\]"), (r"\(", r"\)"), ("", "")):
        inside = text.removeprefix(opening).lstrip() if opening else text
        if text.startswith(opening) and inside.startswith(tex):
            after = inside[len(tex) :].lstrip() if closing else inside[len(tex) :]
            if after.startswith(closing):
                return after.removeprefix(closing)
    raise AssertionError((text, tex))


@pytest.mark.parametrize(
    "text",
    [
        "$" * 50_000,
        "$x " * 50_000,
        "$x$ " * 20_000,
        "$$ x " * 20_000,
        r"\boxed{" * 50_000,
        r"\[" * 50_000,
        "{" * 100_000,
        r"\(" * 30_000 + r"\)" * 30_000,
        "\\" * 100_001,
        r"\boxed" + " " * 100_000,
        "$" + "{" * 900 + "x" + "}" * 900 + "$",
        "$" + r"\sqrt" * 390 + "x$",
        "$" + r"\left(" * 150 + r"\right)" * 150 + "$",
        r"\boxed{" * 250 + "}" * 250,
        "$" + r"\begin{matrix}" * 60 + r"\end{matrix}" * 60 + "$",
        "$" + "a'" * 900 + "$",
        " ".join(f"${n}x$" for n in range(20_000)),
    ],
    ids=range(17),
)
def test_hostile_text_takes_no_time(text):
    started = time.process_time()
    parts = render(text)
    assert time.process_time() - started < 5 and parts


def joined(found, *ops):
    return "".join(one["text"] for one in found if one["op"] in ops)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("l=7 and so on", "l=7, m=9 and so on", ["-l=7 ", "+l=7, m=9 ", " and so on"]),
        ("a b c", "a b c", [" a b c"]),
        ("", "new", ["+new"]),
        ("old", "", ["-old"]),
        ("", "", []),
        ("one two three", "one three", [" one ", "-two ", " three"]),
    ],
)
def test_changes_of_a_summary(before, after, expected):
    signs = {"same": " ", "added": "+", "removed": "-"}
    assert [signs[one["op"]] + one["text"] for one in changes(before, after)] == expected


@settings(max_examples=100, deadline=None)
@given(*[st.lists(st.sampled_from(["a", "b", "\n", "  ", "é"]), max_size=30).map(" ".join)] * 2)
def test_changes_hold_both_texts(before, after):
    found = changes(before, after)
    assert joined(found, "same", "removed") == before and joined(found, "same", "added") == after


def test_long_summaries_take_no_time():
    rng, words = random.Random(0), [f"w{n}" for n in range(150)]
    many = [" ".join(rng.choices(words, k=1990)) for _ in range(2)]
    lines = ["\n".join(rng.choices(words, k=30_000)) for _ in range(2)]
    for before, after in (many, lines, ["the " * 1900, "the " * 1500 + "a"], ["x" * 10**6, "y" * 10**6]):
        started = time.process_time()
        found = changes(before, after)
        assert time.process_time() - started < 5
        assert joined(found, "same", "removed") == before and joined(found, "same", "added") == after


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("plain", "plain"),
        ('[{"role": "user", "content": "hi"}]', "hi"),
        ('[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]', "system: s\n\nuser: u"),
        ('[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}]', "a\n{'type': 'image'}"),
        ('[{"role": "user"}]', ""),
        ("[{not json", "[{not json"),
        ("[]", "[]"),
    ],
)
def test_questions_as_a_person_reads_them(stored, expected):
    assert plain_question(stored) == expected
