"""The text format of rounds, in one place: SFT, rollouts, evaluation and export all use it.

InftyThink (arXiv 2503.06692) and InftyThink+ (arXiv 2602.06960), Delethink (arXiv 2510.06557), and vanilla (one round).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rollout.errors import InputError
from rollout.plain_text import Marked, encode, history_ids, mark_question
from rollout.types import Question, Turn

SPECIAL_TOKENS = ["<summary>", "</summary>", "<history>", "</history>"]
"""Added to the tokenizer's vocabulary before SFT (InftyThink+). `<think>` stays the base model's own."""

FAULTS = (
    "empty", "open_thinking", "no_answer", "empty_summary", "open_summary", "several_summaries", "text_around_summary",
)  # fmt: skip
"""Why a round can't be parsed: empty output, thinking not closed, nothing after it, or a faulty summary."""

PROTOCOL_FILE = "protocol.json"
KINDS = ("inftythink", "vanilla", "delethink")

_END_TOKENS = re.compile(r"(?:(?:<\|[^<>|]{1,64}\|>|<｜[^<>｜]{1,64}｜>|</s>|<eos>|<end_of_turn>)\s*)+\Z")
_MOST_END = 1000  # last characters that are searched for them: over the whole text, the search takes quadratic time
_OPENED = re.compile(r"<think>\s*\Z")
_SUMMARY = re.compile(r"\s*<summary>(.*)</summary>\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class RoundProtocol:
    """How a chain of thought is split into rounds. Saved with every checkpoint as `protocol.json`."""

    name: str = "inftythink"
    segment_tokens: int = 6000  # eta: maximum tokens of one reasoning segment (a chunk, for delethink)
    summary_tokens: int = 1000  # gamma: maximum tokens of one summary
    max_rounds: int = 5  # phi: maximum rounds of an episode
    carry_tokens: int = 4096  # delethink: last tokens of a chunk, which the next round sees
    keep_tokens: int = 100  # delethink: first generated tokens, kept in every round
    chat: bool = True  # render a plain-text question through the chat template; False: as raw text
    control_tokens: bool = False  # control tokens spelled in a question are real ones, as in a pre-rendered prompt
    chat_template_kwargs: dict = field(default_factory=dict, hash=False)  # such as {enable_thinking: false}

    def __post_init__(self):
        if self.name not in KINDS:
            raise InputError(f"protocol.name is {self.name!r}; known protocols: {', '.join(KINDS)}")
        for key in ("segment_tokens", "summary_tokens", "max_rounds", "carry_tokens"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"protocol.{key} is {value!r}; it must be a whole number of at least 1")
        if self.name == "delethink" and self.carry_tokens >= self.segment_tokens:
            raise InputError("protocol.carry_tokens must be below segment_tokens, or a round makes no progress")

    def render_prompt(self, tokenizer: Any, question: Question, history: str | list[int] | None = None) -> list[int]:
        """Returns the prompt ids of a round: chat template(question), then the history.

        Args:
            question: text, or chat messages.
            history: the last summary (inftythink), the carried token ids (delethink), or None in round 1.

        The history follows the generation prompt, so all rounds of a question share a prefix. If the template opens
        `<think>` itself and a history may follow, the tag is removed, because the model writes its own.
        """
        return self.question_ids(tokenizer, question) + self.history_ids(tokenizer, history)

    def question_ids(self, tokenizer: Any, question: Question) -> list[int]:
        """Returns the ids with which all rounds of a question start.

        User text is plain text, even if it spells control tokens, unless `control_tokens` is on. Without a template,
        the ids begin with the tokenizer's own prefix (BOS).
        """
        return encode(tokenizer, self._render_question(tokenizer, question))

    def question_text(self, tokenizer: Any, question: Question) -> str:
        """Returns the text with which all rounds of a question start."""
        return self._render_question(tokenizer, question).plain()

    @staticmethod
    def output_after(prompt_text: str, completion: str) -> str:
        """Returns a completion, without its opening `<think>` if the prompt already contains it."""
        return completion.removeprefix("<think>\n") if _OPENED.search(prompt_text) else completion

    def history_ids(self, tokenizer: Any, history: str | list[int] | None) -> list[int]:
        """Returns the ids of the history, which follow the question's: none in round 1."""
        if history is None:
            return []
        if self.name == "vanilla":
            raise InputError("the vanilla protocol has one round and takes no history")
        if isinstance(history, str):
            return history_ids(tokenizer, history)
        return list(history)

    def _render_question(self, tokenizer: Any, question: Question) -> Marked:
        marked = mark_question(
            tokenizer, question, chat=self.chat, literal=self.control_tokens, template=self.chat_template_kwargs
        )
        return replace(marked, text=_OPENED.sub("", marked.text)) if self.name == "inftythink" else marked

    @staticmethod
    def render_history(summary: str) -> str:
        return f"<history>\n{summary}\n</history>"

    @staticmethod
    def render_completion(think: str, *, summary: str | None = None, conclusion: str | None = None) -> str:
        """Returns the text of a round's output: thinking, then a summary or the conclusion."""
        if (summary is None) == (conclusion is None):
            raise InputError("a round ends in a summary or in a conclusion: give exactly one")
        tail = conclusion if summary is None else f"<summary>{summary}</summary>"
        return f"<think>\n{think}\n</think>{tail}"

    def parse(self, text: str, ends: Sequence[str] = ()) -> Turn:
        """Parses a round's output, with or without its end token or its opening `<think>`. Never raises.

        Args:
            ends: texts of end tokens in addition to the well-known ones. (The episode loop strips end tokens by id.)

        Malformed: thinking not closed, an empty or unclosed summary, several summaries, text around one, neither
        summary nor conclusion. Vanilla output without thinking tags is a conclusion, as from a non-thinking model.
        """
        for end in ends:
            text = text.rstrip().removesuffix(end) if end and text.rstrip().endswith(end) else text
        found = _END_TOKENS.search(text, max(0, len(text) - _MOST_END))
        text = text[: found.start()].rstrip() if found else text
        body = re.sub(r"\A\s*<think>", "", text)
        think, closed, rest = body.partition("</think>")
        if not closed:
            if not text.strip():
                return Turn("malformed", think=body, fault="empty")
            if self.name == "inftythink" or body != text:
                return Turn("malformed", think=body, fault="open_thinking")
            return Turn("conclusion", conclusion=text)
        think = think.removeprefix("\n").removesuffix("\n")
        if not rest.strip():
            return Turn("malformed", think=think, fault="no_answer")
        if self.name != "inftythink" or not ("<summary>" in rest or "</summary>" in rest):
            return Turn("conclusion", think=think, conclusion=rest)
        fault = _summary_fault(rest)
        if fault:
            return Turn("malformed", think=think, fault=fault)
        return Turn("summary", think=think, summary=_SUMMARY.match(rest).group(1).strip())

    def carry(self, generated_ids: list[int], first_ids: list[int]) -> list[int]:
        """Returns Delethink's history: the episode's first `keep_tokens` and this chunk's last `carry_tokens`."""
        return first_ids[: self.keep_tokens] + generated_ids[-self.carry_tokens :]

    def replace(self, **changes: Any) -> RoundProtocol:
        return replace(self, **changes)

    def save(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / PROTOCOL_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> RoundProtocol:
        """Loads the protocol that a checkpoint was trained with, from its folder or from the file itself."""
        path = Path(folder) if Path(folder).is_file() else Path(folder) / PROTOCOL_FILE
        if not path.exists():
            raise InputError(f"{path} is missing: this checkpoint was not made by Sawtooth's SFT or RL")
        try:
            return get_protocol(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:  # not JSON, not a mapping, or invalid settings
            raise InputError(f"{path} is not a valid protocol: {error}") from error


def with_text(question: Question, text: str | None) -> Question:
    """Returns a question with `text` in front of it; of chat messages, in front of the last user message.

    Raises:
        InputError: no message is the user's.
    """
    if not text:
        return question
    if isinstance(question, str):
        return f"{text}\n\n{question}"
    place = max((i for i, message in enumerate(question) if message.get("role") == "user"), default=None)
    if place is None:
        raise InputError("a text before the question needs a user message, and this question has none")
    content = question[place].get("content")
    parts = f"{text}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": text}, *(content or [])]
    return [*question[:place], question[place] | {"content": parts}, *question[place + 1 :]]


def _summary_fault(rest: str) -> str | None:
    """Returns the fault of a round's ending that contains a summary tag, or None."""
    if rest.count("<summary>") > 1 or rest.count("</summary>") > 1:
        return "several_summaries"
    match = _SUMMARY.match(rest)
    if match:
        return None if match.group(1).strip() else "empty_summary"
    _, opened, after = rest.partition("<summary>")
    return "text_around_summary" if opened and "</summary>" in after else "open_summary"


def get_protocol(name: str, **settings: Any) -> RoundProtocol:
    """Returns a protocol by name. Vanilla always has one round."""
    known = {f.name for f in fields(RoundProtocol)}
    for key in settings:
        if key not in known:
            raise InputError(f"protocol has no setting {key!r}; known: {', '.join(sorted(known))}")
    if name == "vanilla":
        settings["max_rounds"] = 1
    return RoundProtocol(name=name, **settings)
