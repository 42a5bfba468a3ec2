"""Checks that a tokenizer can represent rounds, before it is used for data or training."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterable
from typing import Any

from rollout.endings import turn_end
from rollout.errors import InputError
from rollout.plain_text import mark_chat
from rollout.protocol import SPECIAL_TOKENS, RoundProtocol

_ASKED = "What is 2 + 3?"
_SHOWN = 60  # characters shown of a text that does not round-trip


def check_tokenizer(tokenizer: Any, protocol: RoundProtocol, thinks: bool = True) -> None:
    """Checks that a token ends a turn, the chat template accepts a question, and the tags of a round round-trip.

    Args:
        thinks: the model is to write `<think>` (SFT). Round tokens that the tokenizer does not have are added later.

    Raises:
        ValueError: one line that names the missing part.
    """
    turn_end(tokenizer, protocol.chat)
    if protocol.chat and getattr(tokenizer, "chat_template", None):
        _check_template(tokenizer, protocol)
    known = tokenizer.get_vocab()
    tags = ["<think>", "</think>"] if thinks else []
    tags += [token for token in SPECIAL_TOKENS if token in known] if protocol.name == "inftythink" else []
    for tag in tags:
        back = _back(tokenizer, f"{tag}\n")
        if tag not in back:
            raise InputError(
                f"the tokenizer does not round-trip {tag}, which is decoded as {back.strip()!r}: add it to its "
                "vocabulary (tokenizer.add_tokens), or no round can be parsed"
            )


def _check_template(tokenizer: Any, protocol: RoundProtocol) -> None:
    asked, system = {"role": "user", "content": _ASKED}, {"role": "system", "content": "Answer."}
    errors = []
    for messages in ([asked], [system, asked]):  # some templates require a system message
        try:
            text = mark_chat(tokenizer, messages, template=protocol.chat_template_kwargs).plain()
        except ValueError as error:
            errors.append(error)
            continue
        if _ASKED not in text:
            raise InputError(f"the chat template drops the question: it renders {_ASKED!r} as {text[-_SHOWN:]!r}")
        return
    raise errors[0]


def changed_texts(tokenizer: Any, texts: Iterable[str]) -> str | None:
    """Reports how many texts do not round-trip through a tokenizer, with the first one; None: all do.

    Ignores spaces, because many tokenizers put one before a text. Changed, dropped or unknown letters would be learned.
    """
    total, changed = 0, []
    for total, text in enumerate(texts, 1):  # noqa: B007 -- counted
        before, after = _plain(text), _plain(_back(tokenizer, text))
        if before != after:
            at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
            changed.append((before[max(0, at - 10) :][:_SHOWN], after[max(0, at - 10) :][:_SHOWN]))
    if not changed:
        return None
    return f"the tokenizer changes {len(changed)} of the first {total} outputs: {changed[0][0]!r} to {changed[0][1]!r}"


def _back(tokenizer: Any, text: str) -> str:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _plain(text: str) -> str:
    """Collapses each run of spaces to one, and removes those next to a tag."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.replace("> ", ">").replace(" <", "<")


def check_pad_token(vocabulary: Container[str], token: str | None, where: str) -> None:
    """Raises:
    InputError: `sft.pad_token` is not a token of the model that `where` names.
    """
    if token is not None and token not in vocabulary:
        raise InputError(
            f"sft.pad_token is {token!r}, which is not in the tokenizer of {where}: name a token that is, or leave "
            "it out"
        )
