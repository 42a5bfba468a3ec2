"""Converts events of an episode to OpenAI's chat completion, whole or in chunks."""

from __future__ import annotations

import time
import uuid
from typing import Any

from rl.serving.stream import AnswerText, Ended, Event, RoundEnded, SummaryText, ThinkingText
from rollout.types import StopReason

_CUT = (StopReason.TRUNCATED, StopReason.MAX_ROUNDS)


class ChoiceText:
    """The text of one choice so far.

    `reasoning_content` is the thinking of all rounds, with each summary in its tags between empty lines.
    """

    def __init__(self, index: int):
        self.index = index
        self._said: dict[str, list[str]] = {"reasoning_content": [], "content": []}
        self._part = ""  # current part of the reasoning: "think" or "summary"
        self.ended: Ended | None = None

    def add(self, event: Event) -> dict[str, str]:
        """Returns the delta of an event; empty if it has no text."""
        text, field = "", "reasoning_content"
        if isinstance(event, ThinkingText):
            text = self._open("think", "") + event.text
        elif isinstance(event, SummaryText):
            text = self._open("summary", "<summary>") + event.text
        elif isinstance(event, RoundEnded) and self._part == "summary":  # delethink's chunks are one thinking
            text, self._part = "</summary>", ""
        elif isinstance(event, AnswerText):
            text, field = event.text, "content"
        elif isinstance(event, Ended):
            self.ended = event
        if text:
            self._said[field].append(text)
        return {field: text} if text else {}

    def _open(self, part: str, tag: str) -> str:
        if self._part == part:
            return ""
        self._part = part
        return ("\n\n" if self._said["reasoning_content"] else "") + tag

    def message(self) -> dict[str, str]:
        return {"role": "assistant"} | {field: "".join(texts) for field, texts in self._said.items()}

    def ending(self) -> dict[str, Any]:
        """Returns how its episode ended: OpenAI's finish reason, and our stop reason."""
        episode = self.ended.episode
        return {
            "finish_reason": "length" if episode.stop_reason in _CUT else "stop",
            "logprobs": None,
            "sawtooth": {
                "rounds": episode.num_rounds,
                "stop_reason": episode.stop_reason.value,
                "error": episode.error,
            },
        }


class Reply:
    """One request's response: an id, and the JSON of each part."""

    def __init__(self, model: str, choices: int, include_usage: bool = False):
        self.choices = [ChoiceText(index) for index in range(choices)]
        self._include_usage = include_usage
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def chunk(self, index: int, delta: dict[str, str], **ending: Any) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "finish_reason": None, "logprobs": None} | ending
        usage = {"usage": None} if self._include_usage else {}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]} | usage

    def usage_chunk(self) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": [], "usage": self.usage()}

    def whole(self) -> dict[str, Any]:
        choices = [{"index": c.index, "message": c.message()} | c.ending() for c in self.choices]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Returns token counts over all rounds and choices."""
        ended = [choice.ended for choice in self.choices]
        read = sum(len(segment.prompt_ids) for end in ended for segment in end.episode.segments)
        written = sum(end.episode.num_tokens for end in ended)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "completion_tokens_details": {"reasoning_tokens": written - sum(end.answer_tokens for end in ended)},
        }
