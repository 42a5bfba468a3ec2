"""The tokens that end a turn: one answer for SFT rows, engines, the episode loop, export and serving.

tokenizer's eos, the generation config's list, the token with which the chat template closes a turn -> end ids
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from rollout.errors import InputError
from rollout.plain_text import BRACKETED, controls_of

Eos = int | list[int] | None
"""`generation_config.eos_token_id`."""

_ASKED, _SAID = "What is 2 + 3?", "It is 5, as one counts."
_CLOSED: WeakKeyDictionary[Any, tuple[Any, tuple[int | None, str]]] = WeakKeyDictionary()


def turn_end(tokenizer: Any, chat: bool = True) -> int:
    """Returns the token that ends a training row: the chat template's closing token, else the tokenizer's eos.

    Args:
        chat: questions go through the template (`RoundProtocol.chat`); False prefers eos to the closing token.

    Raises:
        InputError: neither exists.
    """
    closing, text = template_end(tokenizer)
    eos = tokenizer.eos_token_id
    picks = (closing, eos) if chat else (eos, closing)
    found = next((token for token in picks if token is not None), None)
    if found is None:
        why = f"closes a turn with {text!r}, which {_no_end(tokenizer, text)}" if text else "has no end-of-turn token"
        raise InputError(
            f"nothing ends a turn: the tokenizer has no eos token and its chat template {why}; set tokenizer.eos_token"
            if getattr(tokenizer, "chat_template", None)
            else "nothing ends a turn: the tokenizer has neither an eos token nor a chat template; set eos_token"
        )
    return found


def end_ids(tokenizer: Any, generation_eos: Eos = None) -> tuple[int, ...]:
    """Returns all tokens that end a turn: the template's, the tokenizer's eos, the generation config's."""
    ends = (template_end(tokenizer)[0], tokenizer.eos_token_id, *_as_list(generation_eos))
    return tuple(dict.fromkeys(token for token in ends if token is not None))


def further_ends(tokenizer: Any, generation_eos: Eos = None) -> tuple[int, ...]:
    """Returns the tokens that end a turn, except the tokenizer's eos, which every engine knows."""
    return tuple(token for token in end_ids(tokenizer, generation_eos) if token != tokenizer.eos_token_id)


def listed_ends(model: str) -> Eos:
    """Reads eos from a folder's or Hub id's generation config, else from its config, as transformers and vLLM do."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:
        pass
    try:
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model)).eos_token_id
    except (OSError, ValueError):  # no config either: only the tokenizer's eos is left
        return None


def template_end(tokenizer: Any) -> tuple[int | None, str]:
    """Returns (the token with which the chat template closes an assistant turn, or None; the text it writes there)."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None, ""
    state = controls_of(tokenizer), tokenizer.eos_token_id  # the same until the template or the added tokens change
    known = _CLOSED.get(tokenizer)
    if known is None or known[0] != state:
        known = _CLOSED[tokenizer] = state, _read_off(tokenizer)
    return known[1]


def agree(model: Any, tokenizer: Any, chat: bool = True) -> list[str]:
    """Writes all end tokens into the model's generation config; returns lines that report where the sources disagree.

    Raises:
        InputError: no token ends a turn.
    """
    end, (closing, text), eos = turn_end(tokenizer, chat), template_end(tokenizer), tokenizer.eos_token_id
    config = getattr(model, "generation_config", None)
    given = _as_list(getattr(config, "eos_token_id", None))
    ends = end_ids(tokenizer, given)
    ends = (end, *(token for token in ends if token != end))
    if config is not None:
        config.eos_token_id = list(ends) if len(ends) > 1 else ends[0]
    if eos is None:  # libraries pad with it, and stop at it
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    lines = []
    uses = f"rows end with {_name(tokenizer, end)}, generation stops at {', '.join(_name(tokenizer, t) for t in ends)}"
    if chat and closing is None and text.strip():
        why = _no_end(tokenizer, text)
        lines.append(f"the chat template closes a turn with {text.strip()!r}, which {why}: {uses}")
    elif chat and closing is not None and closing != eos:
        own = "the tokenizer has no eos" if eos is None else f"the tokenizer's eos is {_name(tokenizer, eos)}"
        lines.append(f"the chat template closes a turn with {_name(tokenizer, closing)}, {own}: {uses}")
    elif given and end not in given:
        named = ", ".join(_name(tokenizer, token) for token in given)
        lines.append(f"the generation config ends only at {named}: {uses}")
    return lines


def _name(tokenizer: Any, token: int) -> str:
    return f"{tokenizer.decode([token], skip_special_tokens=False)!r} ({token})"


def _as_list(value: Eos | Iterable[int]) -> list[int]:
    """Returns a generation config's token ids; some configs write -1 for none.

    Raises:
        ValueError: a value is not a token id.
    """
    values = [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]
    wrong = next((token for token in values if not isinstance(token, int)), None)
    if wrong is not None:
        raise InputError(f"generation_config.json: eos_token_id is {value!r}; it must be a token id, or a list of them")
    return [token for token in values if token >= 0]


def _read_off(tokenizer: Any) -> tuple[int | None, str]:
    """Reads the closing token and text that follow an assistant's last message, else one followed by a question."""
    asked, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    text = ""
    for messages in ([asked, said], [asked, said, asked]):
        try:
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        except Exception:  # a template is third-party code that may raise anything; then it closes nothing
            continue
        before, found, text = rendered.partition(_SAID)
        text = text.partition(_ASKED)[0]
        if found and text.strip():
            first = controls_of(tokenizer).pattern.match(text.lstrip())
            opens = first and len(messages) > 2 and first[0] in before.partition(_ASKED)[0]  # it begins a question
            if first and (not opens or first[0] == tokenizer.eos_token):
                return controls_of(tokenizer).ids[first[0]], text
            ids = tokenizer.encode(text.strip(), add_special_tokens=False)
            if len(messages) == 2:
                return (ids[0] if len(ids) == 1 and _may_end(tokenizer, ids[0], text) else None), text
    return None, ""


def _may_end(tokenizer: Any, token: int, text: str) -> bool:
    """Tells an end token from an ordinary word of the vocabulary, which would end every turn that uses it."""
    named = token in getattr(tokenizer, "added_tokens_decoder", {}) or BRACKETED.fullmatch(text)
    return bool(named) and token != tokenizer.unk_token_id


def _no_end(tokenizer: Any, text: str) -> str:
    ids = tokenizer.encode(text.strip(), add_special_tokens=False)
    if len(ids) != 1:
        return "is not one token"
    return "is not in the tokenizer's vocabulary" if ids[0] == tokenizer.unk_token_id else "is an ordinary word"
