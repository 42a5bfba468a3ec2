"""Parses a round as it streams: token ids to text, text to thinking, summary and answer.

An incremental `RoundProtocol.parse`: text is yielded once it is certain, and concatenated it equals `parse`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from rollout.protocol import RoundProtocol, get_protocol
from rollout.types import Segment

Piece = tuple[str, str]  # ("think", "summary" or "answer", text)

_CLOSING, _SUMMARY, _SUMMARY_END = "</think>", "<summary>", "</summary>"
_TAGS = (_CLOSING, _SUMMARY, _SUMMARY_END, "</s>", "<eos>", "<end_of_turn>")
_END = re.compile(r"(?:<\|[^<>|]{1,64}\|>|<｜[^<>｜]{1,64}｜>|</s>|<eos>|<end_of_turn>)\Z")  # as `parse` removes
_END_BEGUN = re.compile(r"<(?:\|[^<>|]{0,64}\|?|｜[^<>｜]{0,64}｜?)\Z")
_LONGEST = 70  # characters of an end token
_MOST_WAITING = 64  # tokens: so many without a character never make one (and each push decodes them again)
_PLAIN = get_protocol("vanilla")


class TextStream:
    """Decodes token ids to text. A character of several tokens waits for the last one."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # those last emitted, as context for the decoder, then the pending ones
        self._told_ids = self._told = 0  # emitted so far: of _ids, and of their text

    def push(self, ids: list[int]) -> str:
        """Returns the text that has become certain."""
        if not ids:
            return ""
        self._ids += ids
        text = self._decode()
        given_up = len(self._ids) - self._told_ids > _MOST_WAITING
        certain = text if given_up else text.rstrip("\ufffd")
        new = certain[self._told :]
        self._told = max(self._told, len(certain))
        if len(certain) == len(text):
            del self._ids[: self._told_ids]
            self._told_ids, self._told = len(self._ids), len(self._decode())
        return new

    def rest(self) -> str:
        """Returns the rest at the end: bytes that are not a character."""
        return self._decode()[self._told :]

    def _decode(self) -> str:
        return self._tokenizer.decode(self._ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class Stops:
    """Cuts a streamed answer before the first stop string."""

    def __init__(self, texts: Sequence[str]):
        self.texts = [text for text in texts if text]
        self.hit = False
        self._held = ""

    def push(self, text: str, last: bool = False) -> str:
        """Returns the text that may be emitted; with `last`, nothing is held back."""
        if not self.texts or self.hit:
            return "" if self.hit else text
        text = self._held + text
        found = [at for at in map(text.find, self.texts) if at >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        keep = 0 if last else max(_overlap(text, stop) for stop in self.texts)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class RoundReader:
    """Reads one round, or all chunks of a delethink episode.

    Args:
        prompt_ids: of the first round, which may have opened the thinking.
        stop: strings that end the answer.
    """

    def __init__(self, protocol: RoundProtocol, tokenizer: Any, prompt_ids: list[int], stop: Sequence[str] = ()):
        self._rounds = protocol.name == "inftythink"
        prompt = tokenizer.decode(prompt_ids[-16:], skip_special_tokens=False)
        self._thinks = self._rounds or prompt.rstrip().endswith("<think>")
        self._text = TextStream(tokenizer)
        self._stops = Stops(stop)
        self._state = "opening"  # then think; (between, summary;) answer
        self._fresh = False  # at the start of thinking or a summary, where whitespace is stripped
        self._held = ""  # text of a kind not yet certain
        self._passed = 0  # its leading characters that are whitespace and end tokens, not scanned again
        self._read = 0  # tokens of this round
        self.answer_tokens = 0  # tokens read after the thinking, without summaries

    @property
    def stopped(self) -> bool:
        """Whether the answer has reached a stop string."""
        return self._stops.hit

    def read(self, ids: list[int]) -> Iterator[Piece]:
        """Yields the text that is certain after these ids."""
        for token in ids:  # one by one, to count those of the answer
            self._read += 1
            self.answer_tokens += self._state in ("between", "answer")
            yield from self._pieces(self._text.push([token]))

    def end_round(self, segment: Segment, over: bool) -> Iterator[Piece]:
        """Yields the held text, once the round has ended.

        Args:
            over: the episode has ended too: no next chunk can complete the held text.
        """
        turn = segment.turn
        unread = len(segment.completion_ids) - self._read  # the end token
        self.answer_tokens += unread * (self._state in ("between", "answer"))
        self._read = 0
        if turn.kind == "summary":
            self.answer_tokens = 0
        if not over and segment.finish_reason == "length":
            return
        if segment.finish_reason == "length":  # perhaps half a tag, or half a character
            if self._state == "answer" and (text := self._stops.push("", last=True)):
                yield "answer", text
            return
        yield from self._pieces(self._text.rest())
        if self._state == "opening":
            yield from self._switch("think" if self._thinks else "answer")
        elif self._state == "between":
            yield from self._switch("answer")
        left = _PLAIN.parse("x" + self._held).conclusion[1:]  # without end tokens, by the protocol's own rule
        if self._state == "answer":
            left = "" if turn.kind == "summary" or turn.fault in ("no_answer", "empty") else left
            left = self._stops.push(left, last=True)
        if left:
            yield self._state, left
        if self._state == "think" and turn.kind == "conclusion" and (text := self._stops.push(turn.conclusion, True)):
            yield "answer", text

    def _switch(self, state: str) -> Iterator[Piece]:
        if state == "summary":
            self.answer_tokens = 0
        elif state == "answer" and self._state == "opening":  # no thinking at all
            self.answer_tokens = self._read
        self._state, self._fresh = state, state in ("think", "summary")
        held, self._held = self._held, ""
        yield from self._pieces(held)

    def _pieces(self, text: str) -> Iterator[Piece]:
        text = self._held + text
        passed, self._passed, self._held = self._passed, 0, ""
        if not text:
            return
        if self._state in ("opening", "between"):
            yield from self._decide(text)
            return
        if self._fresh:
            think = self._state == "think"
            text = text.removeprefix("\n") if think else text.lstrip()
            self._fresh = not text and not think  # strips one newline of thinking, all whitespace of a summary
        closing = {"think": _CLOSING, "summary": _SUMMARY_END}.get(self._state)
        at = text.find(closing) if closing else -1
        if at >= 0:
            self._held = text[at + len(closing) :]
            told = text[:at].removesuffix("\n") if self._state == "think" else text[:at].rstrip()
            if told:
                yield self._state, told
            yield from self._switch("between" if self._state == "think" and self._rounds else "answer")
            return
        certain, begun = _certain(text, passed)
        self._held, self._passed = text[certain:], begun - certain
        told = text[:certain]
        if self._state == "answer":
            told = self._stops.push(told)
        if told:
            yield self._state, told

    def _decide(self, text: str) -> Iterator[Piece]:
        """Decides the kind of the text by a tag at its start."""
        tag, then = ("<think>", "think") if self._state == "opening" else (_SUMMARY, "summary")
        written = text.lstrip()
        self._held = text
        if written.startswith(tag):
            self._held = written.removeprefix(tag)
            yield from self._switch(then)
        elif not tag.startswith(written):
            yield from self._switch("think" if self._state == "opening" and self._thinks else "answer")


def _certain(text: str, passed: int) -> tuple[int, int]:
    """Returns the length of `text` without trailing whitespace, end tokens and partial tag, and the length with the
    first two of them. Its first `passed` characters are known to be whitespace and end tokens."""
    end = begun = len(text)
    at = text.rfind("<", max(0, end - _LONGEST))
    if at >= 0 and (_END_BEGUN.match(text, at) or any(tag.startswith(text[at:]) for tag in _TAGS if tag != text[at:])):
        end = begun = at
    while True:
        end = passed + len(text[passed:end].rstrip())
        token = _END.search(text, max(passed, end - _LONGEST), end)
        if token is None:
            return (end if end > passed else 0), begun
        end = token.start()


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest suffix of `text` that `stop` starts with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
