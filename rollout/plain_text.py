"""Encodes user text as plain text: spelled control tokens never become real ones, whatever the chat template does.

contents -> hide (spelled control tokens) -> chat template -> Marked -> token ids

Text that spells none gets the ids of the ordinary encoding. Otherwise a twin of the tokenizer encodes the whole text.
In the twin each control token has another name, which is used only where the template wrote the token.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

try:
    from rollout.errors import InputError
except ImportError:  # every exported folder has a copy of this file, which must run without this project
    InputError = ValueError

_OPEN, _CLOSE = "\ue000", "\ue001"  # not letters of any language; with the nonce, no input can contain such a mark
_NONCE = secrets.token_hex(8)
_MARK = re.compile(f"{_OPEN}{_NONCE}(\\d+){_CLOSE}")
BRACKETED = re.compile(r"\s*[<\[{|｜].+[>\]}|｜]\s*", re.DOTALL)
_WORDS = re.compile(r"[\w\s]+")
_ROUND_TOKENS = ("<summary>", "</summary>", "<history>", "</history>", "<think>", "</think>")
_STRUCTURE = ("role", "type")  # keys of a chat message whose values the template compares


@dataclass
class Marked:
    """A prompt's text in which marks replace the control tokens that users spelled."""

    text: str
    hidden: list[str] = field(default_factory=list)  # the original text of each mark
    bare: bool = False  # no template: the tokenizer's own prefix (BOS) goes before it
    literal: bool = False  # the user's control tokens are real ones

    def plain(self) -> str:
        """Returns the text with its marks replaced by the original."""
        return _MARK.sub(lambda mark: self.hidden[int(mark[1])], self.text) if self.hidden else self.text


class Controls:
    """The control tokens of a tokenizer: those that are special, look like tags, or occur in its chat template.

    Other added tokens, such as runs of spaces or words of a domain, are ordinary text.
    """

    def __init__(self, tokenizer: Any):
        added = getattr(tokenizer, "added_tokens_decoder", {})
        template = str(getattr(tokenizer, "chat_template", None) or "")
        self.added = {token.content: (number, token) for number, token in added.items()}
        self.ids = {text: number for text, (number, token) in self.added.items() if _is_control(token, template)}
        if hasattr(tokenizer, "convert_tokens_to_ids"):
            unknown = getattr(tokenizer, "unk_token_id", None)
            for text in _ROUND_TOKENS:  # a vocabulary may contain them as ordinary words
                number = tokenizer.convert_tokens_to_ids(text)
                if number is not None and number != unknown:
                    self.ids.setdefault(text, number)
        self._numbers = set(self.ids.values()) - {getattr(tokenizer, "unk_token_id", None)}
        single = {text for text in self.ids if text in self.added and self.added[text][1].single_word}
        longest = sorted(self.ids, key=len, reverse=True)
        spelt = [rf"(?<!\w){re.escape(t)}(?!\w)" if t in single else re.escape(t) for t in longest]
        self.pattern = re.compile("|".join(spelt) or r"(?!)")
        self._begun = {text[:end] for text in self.ids for end in range(1, len(text))}
        self._most = max(map(len, self.ids), default=0)
        self._twin: Any = None

    def spelt(self, text: str) -> set[str]:
        return {found[0] for found in self.pattern.finditer(text)}

    def hide(self, text: str, hidden: list[str], but: frozenset[str] = frozenset()) -> str:
        """Replaces the control tokens in `text`, except `but`, and a partial one at its end, by marks."""

        def mark(spelt: str) -> str:
            hidden.append(spelt)
            return f"{_OPEN}{_NONCE}{len(hidden) - 1}{_CLOSE}"

        text = self.pattern.sub(lambda found: found[0] if found[0] in but else mark(found[0]), text)
        for length in range(min(self._most, len(text)), 0, -1):
            if text[-length:] in self._begun and not text[-length:].isspace():
                return text[:-length] + mark(text[-length:])
        return text

    def encode(self, tokenizer: Any, marked: Marked) -> list[int]:
        text = marked.plain()
        ids = list(tokenizer.encode(text, add_special_tokens=False))
        if marked.literal:
            return ids
        written = len(self.spans(marked.text))
        # A normalizer may turn other text into a control token, so the ids are counted too.
        if len(self.spans(text)) <= written and sum(number in self._numbers for number in ids) <= written:
            return ids
        return self._by_twin(tokenizer, marked) or self._by_sections(tokenizer, marked)

    def spans(self, text: str) -> list[re.Match[str]]:
        return list(self.pattern.finditer(text))

    def _by_twin(self, tokenizer: Any, marked: Marked) -> list[int] | None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        if self._twin is None:
            self._twin = _twin_of(backend, self)
        twin, names = self._twin
        renamed, count = self.pattern.subn(lambda found: names[found[0]], marked.text)
        found = twin.encode(Marked(renamed, marked.hidden).plain(), add_special_tokens=False).ids
        known = {text: number for text, (number, _) in self.added.items()} | self.ids
        known = {twin.token_to_id(names.get(text, text)): number for text, number in known.items()}
        ours = {twin.token_to_id(name) for name in names.values()}
        # There may be more than were inserted: the unknown token may be one of them.
        return [known.get(number, number) for number in found] if sum(n in ours for n in found) >= count else None

    def _by_sections(self, tokenizer: Any, marked: Marked) -> list[int]:
        """For tokenizers in Python: encodes the text between two control tokens separately."""
        ids: list[int] = []
        place = 0
        for found in [*self.spans(marked.text), None]:
            part = Marked(marked.text[place : found.start() if found else None], marked.hidden).plain()
            if part:
                ids += tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
            if found:
                ids.append(self.ids[found[0]])
                place = found.end()
        return ids


def _is_control(token: Any, template: str) -> bool:
    text = token.content
    if not text.strip():
        return False
    in_template = text in template and not _WORDS.fullmatch(text)
    return bool(token.special or in_template or BRACKETED.fullmatch(text))


def _twin_of(backend: Any, controls: Controls) -> tuple[Any, dict[str, str]]:
    """Returns the tokenizer with its control tokens renamed, also in its vocabulary, and the new names."""
    from tokenizers import Tokenizer

    names = {text: f"{_OPEN}{_NONCE}c{i:06d}{_CLOSE}" for i, text in enumerate(controls.ids)}
    parts = json.loads(backend.to_str())
    parts["truncation"] = parts["padding"] = parts["post_processor"] = None
    for token in parts["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
        token["single_word"] = token["single_word"] and token["content"] not in names.values()
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    parts["added_tokens"] += [
        {"id": number, "content": names[text], **flags}
        for text, number in controls.ids.items() if text not in controls.added
    ]  # fmt: skip
    model = parts["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(text, text): number for text, number in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(text, text), *rest] for text, *rest in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        model["merges"] = [list(p) for p in pairs if not {p[0], p[1], p[0] + p[1]} & names.keys()]
    return Tokenizer.from_str(json.dumps(parts)), names


_KNOWN: WeakKeyDictionary[Any, tuple[Any, Controls]] = WeakKeyDictionary()


def controls_of(tokenizer: Any) -> Controls:
    """Returns a tokenizer's `Controls`, cached until its added tokens or its template change."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    state = getattr(tokenizer, "chat_template", None), [(n, t.content, t.special) for n, t in added.items()]
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != state:
        known = _KNOWN[tokenizer] = state, Controls(tokenizer)
    return known[1]


def encode(tokenizer: Any, marked: Marked) -> list[int]:
    """Returns a prompt's ids; without a template they begin as those of `tokenizer(text)`, but get no end token."""
    ids = controls_of(tokenizer).encode(tokenizer, marked)
    start = beginning(tokenizer) if marked.bare else []
    return ids if start and marked.literal and ids[: len(start)] == start else start + ids


def beginning(tokenizer: Any) -> list[int]:
    """Returns the ids that the tokenizer's post-processor puts before a text: BOS, or none."""
    if not callable(tokenizer):
        return []
    probe = list(tokenizer.encode("a", add_special_tokens=False))
    whole = list(tokenizer.encode("a", add_special_tokens=True))
    starts = (at for at in range(len(whole) - len(probe) + 1) if whole[at : at + len(probe)] == probe)
    return whole[: next(starts, 0)] if probe else []


def mark_text(tokenizer: Any, text: str, frame: str = "{}", *, literal: bool = False) -> Marked:
    """Marks a user's or model's text and puts it into `frame`, whose control tokens are real ones."""
    if literal:
        return Marked(frame.replace("{}", text), literal=True)
    hidden: list[str] = []
    return Marked(frame.replace("{}", controls_of(tokenizer).hide(text, hidden)), hidden)


def history_ids(tokenizer: Any, summary: str) -> list[int]:
    """Returns the ids of the last round's summary, as the next round sees it."""
    return encode(tokenizer, mark_text(tokenizer, summary, "<history>\n{}\n</history>"))


def output_ids(tokenizer: Any, text: str, ends: Collection[int]) -> list[int]:
    """Returns the ids of a training output. Its control tokens are real, except those that would end it early."""
    names = {name for name, number in controls_of(tokenizer).ids.items() if number in ends}
    if not any(name in text for name in names):
        return list(tokenizer.encode(text, add_special_tokens=False))
    controls, hidden = controls_of(tokenizer), []
    marked = controls.hide(text, hidden, but=frozenset(controls.ids.keys() - names))
    return controls.encode(tokenizer, Marked(marked, hidden))


def mark_question(
    tokenizer: Any,
    question: str | list[dict[str, Any]],
    *,
    chat: bool = True,
    literal: bool = False,
    template: Mapping[str, Any] | None = None,
) -> Marked:
    """Renders a question through the chat template; plain text without a template, or with `chat` off, stays bare.

    Args:
        literal: spelled control tokens are real ones.
        template: further arguments of the chat template.
    """
    if not isinstance(question, str):
        return mark_chat(tokenizer, question, literal=literal, template=template)
    if chat and getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": question}]
        return mark_chat(tokenizer, messages, literal=literal, template=template)
    return replace(mark_text(tokenizer, question, literal=literal), bare=True)


def mark_chat(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    *,
    literal: bool = False,
    template: Mapping[str, Any] | None = None,
) -> Marked:
    """Renders chat messages through the template, with the generation prompt.

    A control token in an assistant message is kept if the template reads it (most cut the thinking of earlier turns).

    Raises:
        InputError: the template refuses them, or changes marks (for example by truncating a text).
    """

    def rendered(change: Callable[..., str]) -> str:
        changed = [_map(m, partial(change, said=m.get("role") == "assistant")) for m in messages]
        try:
            given = {**(template or {}), "tokenize": False, "add_generation_prompt": True}
            return tokenizer.apply_chat_template(changed, **given)
        except Exception as error:  # a template is third-party code that may raise anything
            why = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise InputError(f"the chat template can't render this question: {why}") from error

    if literal:
        return Marked(rendered(lambda text, said: text), literal=True)
    controls = controls_of(tokenizer)

    def marked(but: frozenset[str]) -> Marked:
        hidden: list[str] = []
        return Marked(rendered(lambda t, said: controls.hide(t, hidden, but if said else frozenset())), hidden)

    spelt: set[str] = set()
    for message in messages:
        if message.get("role") == "assistant":
            _map(message, lambda text: spelt.update(controls.spelt(text)) or text)
    everything = frozenset(spelt)
    as_said = marked(everything).plain() if spelt else ""
    read = frozenset(text for text in spelt if marked(everything - {text}).plain() != as_said)
    result = marked(read)
    text = result.plain()
    as_is = rendered(lambda text, said: text) if result.hidden else text
    if any(text.count(sign) != as_is.count(sign) for sign in (_OPEN, _CLOSE)):  # part of a mark is left over
        raise InputError("the chat template changes a message that contains the text of control tokens: remove it")
    return result


def _map(value: Any, change: Callable[[str], str]) -> Any:
    """Applies `change` to all texts of a message."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    if isinstance(value, dict):
        return {
            key: item if key in _STRUCTURE and str(item).isidentifier() else _map(item, change)
            for key, item in value.items()
        }
    return value
