"""Splits generated text into reasoning and conclusion by the tags of the model that wrote it."""

from __future__ import annotations

from typing import Any

from rollout.protocol import SPECIAL_TOKENS

THINKING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
)
SOLUTION = ("<|begin_of_solution|>", "<|end_of_solution|>")
END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "<|return|>"),
    *("<｜end▁of▁sentence｜>", "</s>", "<eos>", "<end_of_turn>"),
)


class Unreadable(ValueError):
    """A row or generation can't be used; the message is the reason under which it is counted."""


def split_thinking(text: str) -> tuple[str, str]:
    """Returns (reasoning, conclusion) of a generated text. The opening tag may be missing: many templates write it.

    An opening tag counts only at the start, and the first closing tag ends the thinking.

    Raises:
        Unreadable: with the reason.
    """
    text = checked_text(text, "generation")
    body = text.lstrip()
    tags = [pair for pair in THINKING if body.startswith(pair[0])]
    tags += [pair for pair in THINKING if pair[1] in body] + [pair for pair in THINKING if pair[0] in body]
    if not tags:
        raise Unreadable("no thinking")
    opening, closing = tags[0]
    opened = body.startswith(opening)
    reasoning, closed, rest = (body.removeprefix(opening) if opened else text).partition(closing)
    if not closed:
        raise Unreadable("thinking not closed")
    if opening in reasoning and not opened:
        raise Unreadable("text before the thinking")
    if opening in rest or closing in rest:
        raise Unreadable("a second thinking tag after the thinking")
    return _checked(reasoning, rest)


def join_columns(reasoning: str, text: str) -> tuple[str, str]:
    """Returns (reasoning, conclusion) of a text whose thinking is in another column, with or without tags around it.

    Raises:
        Unreadable: with the reason.
    """
    reasoning, text = checked_text(reasoning, "reasoning"), checked_text(text, "conclusion")
    body = reasoning.strip()
    for opening, closing in THINKING:
        if body.startswith(opening) or body.endswith(closing):
            reasoning = body.removeprefix(opening).removesuffix(closing)
            break
    if not any(closing in text for _, closing in THINKING):
        return _checked(reasoning, text)
    pair = split_thinking(text)  # some datasets give the thinking twice
    if pair[0].strip() != reasoning.strip():
        raise Unreadable("reasoning differs from the thinking in the text")
    return pair


def _checked(reasoning: str, rest: str) -> tuple[str, str]:
    """Trims both, and checks that they survive being written as `<think>reasoning</think>conclusion` and read again."""
    conclusion = _without_solution_tags(_without_end_tokens(rest))
    if not reasoning.strip():
        raise Unreadable("empty thinking")
    if not conclusion.strip():
        raise Unreadable("no conclusion")
    if "</think>" in reasoning:
        raise Unreadable("a closing tag inside the thinking")
    if "<think>" in conclusion or "</think>" in conclusion:
        raise Unreadable("a second thinking tag after the thinking")
    if any(tag in reasoning or tag in conclusion for tag in SPECIAL_TOKENS):
        raise Unreadable("holds the protocol's own tags")
    return reasoning.strip("\n"), conclusion


def _without_solution_tags(rest: str) -> str:
    body = rest.lstrip()
    if not body.startswith(SOLUTION[0]):
        return rest
    solution, closed, after = body.removeprefix(SOLUTION[0]).partition(SOLUTION[1])
    if not closed:
        raise Unreadable("solution not closed")
    if after.strip():
        raise Unreadable("text after the solution")
    return rest[: len(rest) - len(body)] + _without_end_tokens(solution.lstrip())


def _without_end_tokens(text: str) -> str:
    text = text.rstrip()
    end = len(text)  # cut once at the end: a model that never stopped may have written thousands of end tokens
    while token := next((token for token in END_TOKENS if text.endswith(token, 0, end)), None):
        end -= len(token)
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]


def checked_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise Unreadable(f"{what} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unreadable("text is not valid Unicode") from None
    return value
