"""Extracts the answer from an output: a box, `<answer>` tags, `$…$`, after "the answer is", or the last number."""

from __future__ import annotations

import re

from rewards.answer import boxed_answers

_MOST_TEXT = 2_000  # characters read from an output without a box, from its end
_TAGS = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_MATH = re.compile(
    r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|\\\[(.+?)\\\]|(?<![\\\d])\$((?:\\\$|[^$\n])+?)(?<!\\)\$|\\\((.+?)\\\)", re.DOTALL
)
_LINK = re.compile(r"\s*(?:,|;|,?\s*and|,?\s*or)\s*")
_UNIT_AFTER = re.compile(r"\s*(\\?%|percent(?:age)?|pct)(?![A-Za-z])", re.IGNORECASE)
_SAID = re.compile(
    r"(?:answer|answers|result|choice|option)\W{0,6}?\s*(?:is|are|:|=|was)\s*:?\s*|####\s*|(?:答案|答え|解答|答)\W{0,3}(?:是|为|は|:|：|＝|=)?\s*|(?:therefore|thus|hence|so),?\s+(?:it|this)\s+is\s+|\bI\s+(?:choose|pick|select)\s+|(?:故|所以|因此|应|我)选择?\W{0,2}",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"answer", re.IGNORECASE)
_STOP = re.compile(
    r"(?<=[\w)}$*])[.。!](?=\s+[A-Z\u3040-\u9fff]|\s*$)|[。\n]|,?\s+(?:because|since|as|which|where|so that|i\.e\.)\s"
    r"|,?\s+(?:not|rather than|instead of)\s|[,，]?(?:不是|而不是|而非)"
    r"|,\s+(?=(?:because|since)\b)"
)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_CJK_NUMBER = re.compile(r"(?<![\d.A-Za-z])([-−]?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?\s*[%％]?)(?![\d.]*[A-Za-z\d])")
_CJK_END = re.compile(
    r"\s*(?:です|である|だ|となる|になる|となります|になります|个|名|人|元|円|種類|通り|种|次|选项|条|只|本|岁|倍|个解)*[。.．]?\s*$"
)
_CJK_OR = re.compile(r"\d\s*(?:或者?|か|または|和|と)\s*\d")


_ONLY_A_BOX = re.compile(r"\s*\$*\s*\\(?:boxed|fbox)\s*\{.*\}\s*\$*\s*", re.DOTALL)
_MOST_NESTED = 5  # examined boxes inside a box


def boxes_of(text: str) -> list[str]:
    """Returns the distinct boxes. A box inside a box with other content is part of it: `41\\boxed{42}` is not 42."""
    found = []
    for box in boxed_answers(text):
        for _ in range(_MOST_NESTED):
            inner = boxed_answers(box)
            if len(inner) != 1 or not _ONLY_A_BOX.fullmatch(box):
                break
            box = inner[0]
        for part in boxed_answers(box)[:_MOST_NESTED]:
            box = re.sub(r"\\(?:boxed|fbox)\s*(?=\{)", "", box, count=1).replace("{" + part + "}", f" ({part}) ", 1)
        found.append(box.strip())
    return list(dict.fromkeys(found))


def last_boxes(text: str) -> str:
    """Returns the text from the first box of the last group of boxes: adjacent, or joined by "and", "or" or a comma."""
    spots = [match.start() for match in re.finditer(r"\\(?:boxed|fbox)", text)]
    while len(spots) > 1:
        between = text[spots[-2] : spots[-1]].partition("}")[2]
        if len(between) >= 10 and not (len(between) < 70 and re.search(r"\b(?:and|or)\b|[,;]", between)):
            return text[spots[-1] :]
        spots.pop()
    return text


def tagged(text: str) -> list[str]:
    """Returns the contents of each `<answer>…</answer>`."""
    return [part.strip() for part in _TAGS.findall(text) if part.strip()]


def untagged(text: str) -> str:
    return _TAGS.sub(" ", text)


def tail(text: str) -> str:
    """Returns the end of a long output, starting outside any `$…$`."""
    if len(text) <= _MOST_TEXT:
        return text
    text = text[-_MOST_TEXT:]
    marks = [match.start() for match in re.finditer(r"(?<!\\)\$", text)]
    return text[marks[0] + 1 :] if len(marks) % 2 else text


def in_math(text: str) -> str | None:
    """Returns the last `$…$`, or the first after the last "answer", plus any joined to it by a comma, "and", "or"."""
    spans = list(_MATH.finditer(text))
    if not spans:
        return None
    said = [match.end() for match in _ANSWER.finditer(text)]
    at = len(spans) - 1
    if said:
        after = next((index for index, span in enumerate(spans) if 0 <= span.start() - said[-1] <= 60), None)
        at = at if after is None else after
    first = last = at
    while first > 0 and _LINK.fullmatch(text[spans[first - 1].end() : spans[first].start()]):
        first -= 1
    while last + 1 < len(spans) and _LINK.fullmatch(text[spans[last].end() : spans[last + 1].start()]):
        last += 1
    chosen = [next(group for group in span.groups() if group is not None).strip() for span in spans[first : last + 1]]
    joined = ", ".join(chosen)
    after = _UNIT_AFTER.match(text, spans[last].end())
    return joined + (r"\%" if after else "")


def said(text: str) -> list[str]:
    """Returns the text after the last "the answer is", "答案是" or `####`: all of it, then its first sentence."""
    matches = [match for match in _SAID.finditer(text) if text[match.end() :].strip()]
    if not matches:
        return []
    rest = text[matches[-1].end() :].strip()
    if rest.count("**") % 2:  # end of bold text that began earlier
        rest = rest.replace("**", "", 1).strip(" :")
    stop = _STOP.search(rest)
    parts = [rest, rest[: stop.start()]] if stop else [rest]
    return [part.strip() for part in dict.fromkeys(parts) if part.strip() and len(part) < 500]


def from_chinese_or_japanese(text: str) -> str | None:
    """Returns the last number of a sentence without spaces (`因此共有5个。`, `答えは5です`); None for alternatives."""
    if _CJK_OR.search(text):
        return None
    numbers = _CJK_NUMBER.findall(text.rstrip())
    return numbers[-1].strip() if numbers else None


def without_ending(text: str) -> str:
    return _CJK_END.sub("", text)


def is_east_asian(text: str) -> bool:
    return bool(_CJK.search(text))
