"""Rounds behind `model.generate`: `model.generate(**inputs, tokenizer=tokenizer, custom_generate=FOLDER,
trust_remote_code=True)`. A round thinks and writes a summary; the next sees only the question and that summary.

Needs only torch and transformers. `protocol.json` in the model's folder defines the rounds.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.utils import cached_file

_END_TOKENS = re.compile(r"(?:(?:<\|[^<>|]{1,64}\|>|<｜[^<>｜]{1,64}｜>|</s>|<eos>|<end_of_turn>)\s*)+\Z")
_MOST_END = 1000  # characters at a text's end that are searched for end tokens
_OPENED = re.compile(r"<think>\s*\Z")
_SUMMARY = re.compile(r"\s*<summary>(.*)</summary>\s*\Z", re.DOTALL)
_ROOM = 16  # tokens of a round besides thinking and summary: tags, line ends, the end token

_PER_ROUND = (
    "return_dict_in_generate", "num_return_sequences", "stop_strings", "eos_token_id", "pad_token_id", "max_new_tokens",
)  # fmt: skip
"""Settings that this function handles itself."""

_REFUSED = {
    "max_length": "it counts prompt and output together: give max_new_tokens, the limit per round",
    "inputs_embeds": "rounds need token ids: give input_ids",
    "past_key_values": "every round starts from its own prompt",
    "position_ids": "every round has its own prompt",
    "negative_prompt_ids": "rounds do not support one",
    "negative_prompt_attention_mask": "rounds do not support one",
    "synced_gpus": "ranks would wait for each other: one may have more rounds than another",
    "output_scores": "they are not kept across rounds",
    "output_logits": "they are not kept across rounds",
    "output_attentions": "they are not kept across rounds",
    "output_hidden_states": "they are not kept across rounds",
}


@torch.no_grad()
def generate(
    model: Any,
    inputs: torch.Tensor | None = None,
    generation_config: Any = None,
    stopping_criteria: Any = None,
    streamer: Any = None,
    tokenizer: Any = None,
    protocol: dict[str, Any] | str | None = None,
    **kwargs: Any,
) -> torch.Tensor | GenerateDecoderOnlyOutput:
    """Runs a batch of questions, each to the end of its own last round.

    Args:
        inputs: (or `input_ids`) [B, P], questions as the chat template renders them, with `attention_mask` if padded.
        tokenizer: the model's; required.
        protocol: the content of `protocol.json`, or its path or folder; None: from the model's folder or repository.
        streamer: gets the question once, then the tokens of all rounds, and one end; for one question only.
        stopping_criteria: a criterion that stops a round ends its question, as "stopped".
        kwargs: arguments of `generate`, for every round. `max_new_tokens` bounds a round, not all of them.

    Returns:
        [B, P + T]: the questions' ids, then the last round's output, padded right. With
        `return_dict_in_generate=True` an object with these `sequences`, and for each question `rounds`, a list of
        (prompt ids, completion ids), and `stop_reason`: "answered", "max_rounds", "malformed" (a round that can't be
        read), "truncated" (no end token within the bound), "failed" (no room for a prompt) or "stopped".
    """
    settings = _Settings(model, generation_config, dict(kwargs))
    for name in ("custom_generate", "trust_remote_code", "token_type_ids", *_PER_ROUND):
        kwargs.pop(name, None)
    for name, why in _REFUSED.items():
        if settings.given(name):
            raise ValueError(f"`{name}` can't be used with rounds: {why}")
        kwargs.pop(name, None)
    if tokenizer is None:
        raise ValueError("rounds are parsed as text: give `tokenizer=tokenizer` to generate")
    inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
    if inputs is None or inputs.dim() != 2:
        raise ValueError("give the questions as `input_ids` of shape [batch, length]")
    protocol = load_protocol(model, protocol)
    end = settings.get("eos_token_id")
    end = tokenizer.eos_token_id if end is None else end
    ends = end if isinstance(end, list) else [end]
    pad = next(p for p in (settings.get("pad_token_id"), tokenizer.pad_token_id, ends[0]) if p is not None)
    wanted = questions_of(inputs, kwargs.pop("attention_mask", None), None if pad in ends else pad)
    copies = settings.get("num_return_sequences") or 1
    questions = [Question(ids, tokenizer, protocol, ends) for ids in wanted for _ in range(copies)]
    if streamer is not None:
        if len(questions) != 1:
            raise ValueError(f"a streamer takes one question at a time, not {len(questions)}")
        streamer = _OneStream(streamer)
    watch = _Watch(stopping_criteria)
    if settings.get("stop_strings"):
        watch.criteria.append(StopStringCriteria(tokenizer, settings.get("stop_strings")))
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    most = settings.get("max_new_tokens") or most_tokens(protocol) or limit
    if most is None:
        raise ValueError("the output has no limit: give max_new_tokens")
    own = {"eos_token_id": ends, "pad_token_id": pad}
    own |= {"return_dict_in_generate": False, "num_return_sequences": 1, "stop_strings": None}
    while waiting := _with_room(questions, limit):
        ids, mask = _pad_left([question.prompt for question in waiting], pad, inputs.device)
        width = ids.shape[1]
        watch.start(width)
        bound = most if limit is None else min(most, limit - width)
        # The class's generate: from_pretrained(trust_remote_code=True) replaces the model's with this function.
        output = type(model).generate(
            model, input_ids=ids, attention_mask=mask, stopping_criteria=StoppingCriteriaList([watch]),
            streamer=streamer, **_arguments(generation_config, kwargs, own | {"max_new_tokens": bound}),
        )  # fmt: skip
        for row, question in enumerate(waiting):
            question.take(*_cut(output[row, width:].tolist(), ends, watch.lengths.get(row)))
    if streamer is not None:
        streamer.finish()
    return _result(inputs.repeat_interleave(copies, dim=0), questions, pad, settings.get("return_dict_in_generate"))


class Question:
    """One question in progress: the next round's prompt, and the finished rounds.

    Args:
        ids: the question as the chat template renders it. If it opens `<think>` itself, the tag is removed: a history
            may follow, and the model writes its own.
        ends: ids that end a round.
    """

    def __init__(self, ids: list[int], tokenizer: Any, protocol: dict[str, Any], ends: list[int]):
        self.tokenizer, self.protocol, self.ends = tokenizer, protocol, ends
        self.rounds: list[tuple[list[int], list[int]]] = []
        self.stop_reason: str | None = None
        self._ids = _without_opening(ids, tokenizer) if protocol["name"] == "inftythink" else ids
        self.prompt = self._ids

    def take(self, ids: list[int], finish: str) -> None:
        """Adds a round's output. `finish`: "stop" (by the end token), "length" (at the bound) or "stopped"."""
        self.rounds.append((self.prompt, ids))
        history, self.stop_reason = self._read(ids, finish)
        last = len(self.rounds) >= self.protocol["max_rounds"]
        if self.stop_reason is None and last:
            self.stop_reason = "max_rounds"
        self.prompt = self._ids + history

    def _read(self, ids: list[int], finish: str) -> tuple[list[int], str | None]:
        """Returns (ids that follow the question in the next round, stop reason or None)."""
        delethink = self.protocol["name"] == "delethink"
        if finish == "stopped":
            return [], "stopped"
        if finish == "length":
            if not delethink:
                return [], "truncated"
            first = self.rounds[0][1] if len(self.rounds) > 1 else []
            return first[: self.protocol["keep_tokens"]] + ids[-self.protocol["carry_tokens"] :], None
        if ids and ids[-1] in self.ends:
            ids = ids[:-1]
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        kind, summary = parse(text, self.protocol["name"])
        if kind == "summary":
            from .plain_text import history_ids  # imported here: the rest of this file works without it

            return history_ids(self.tokenizer, summary), None
        return [], "answered" if kind == "conclusion" or delethink else "malformed"


def parse(text: str, name: str) -> tuple[str, str | None]:
    """Returns ("summary", its text), ("conclusion", None) or ("malformed", None) for an output under `name`."""
    end = _END_TOKENS.search(text, max(0, len(text) - _MOST_END))
    text = text[: end.start()].rstrip() if end else text
    body = re.sub(r"\A\s*<think>", "", text)
    _, closed, rest = body.partition("</think>")
    if not closed:
        no_thinking = bool(text.strip()) and name != "inftythink" and body == text
        return ("conclusion" if no_thinking else "malformed"), None
    if not rest.strip():
        return "malformed", None
    if name != "inftythink" or not ("<summary>" in rest or "</summary>" in rest):
        return "conclusion", None
    match = _SUMMARY.match(rest)
    one = rest.count("<summary>") == 1 and rest.count("</summary>") == 1
    if not match or not one or not match.group(1).strip():
        return "malformed", None
    return "summary", match.group(1).strip()


def load_protocol(model: Any, protocol: dict[str, Any] | str | None = None) -> dict[str, Any]:
    """Returns the content of `protocol.json`: the given one, or that of the model's folder or repository."""
    if isinstance(protocol, dict):
        return protocol
    if protocol is not None:
        path = Path(protocol)
        return json.loads((path / "protocol.json" if path.is_dir() else path).read_text(encoding="utf-8"))
    source = model.config._name_or_path
    try:
        found = cached_file(source, "protocol.json", revision=getattr(model.config, "_commit_hash", None))
    except (OSError, ValueError) as error:  # ValueError: no name at all
        raise ValueError(f"the model's source {source!r} has no protocol.json: give `protocol=FOLDER`") from error
    return json.loads(Path(found).read_text(encoding="utf-8"))


def most_tokens(protocol: dict[str, Any]) -> int | None:
    """Returns the default bound of a round; None: the room in the context."""
    if protocol["name"] == "vanilla":
        return None
    if protocol["name"] == "delethink":
        return protocol["segment_tokens"]
    return protocol["segment_tokens"] + protocol["summary_tokens"] + _ROOM


def questions_of(inputs: torch.Tensor, mask: torch.Tensor | None, pad: int | None) -> list[list[int]]:
    """Returns the ids of each row of [B, P] without padding. Without a mask, leading `pad` tokens are padding."""
    if mask is not None:
        return [row[keep.bool()].tolist() for row, keep in zip(inputs, mask, strict=True)]
    rows = []
    for row in inputs.tolist():
        first = next((place for place, token in enumerate(row) if token != pad), len(row))
        rows.append(row[first:])
    return rows


class _Settings:
    """Generation settings by name: the call's, the given config's, the model's own."""

    def __init__(self, model: Any, config: Any, kwargs: dict[str, Any]):
        self._kwargs, self._config, self._own = kwargs, config, model.generation_config

    def get(self, name: str) -> Any:
        """Returns the first that is set, or None."""
        values = (self._kwargs.get(name), getattr(self._config, name, None), getattr(self._own, name, None))
        return next((value for value in values if value is not None), None)

    def given(self, name: str) -> bool:
        """Returns True if this call sets it."""
        value = self._kwargs.get(name)
        value = getattr(self._config, name, None) if value is None else value
        return value is not None and value is not False


def _arguments(config: Any, kwargs: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Returns a round's arguments. `own` goes into the given config: transformers deprecates settings next to one."""
    if config is None:
        return kwargs | own
    config = copy.deepcopy(config)
    config.update(**own)
    return kwargs | {"generation_config": config}


class _Watch(StoppingCriteria):
    """The caller's criteria, with a record of the length at which they stopped each row."""

    def __init__(self, criteria: Any):
        self.criteria = list(criteria or [])
        self.lengths: dict[int, int] = {}
        self._prompt = 0

    def start(self, prompt: int) -> None:
        self.lengths, self._prompt = {}, prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for criterion in self.criteria:
            done = done | torch.as_tensor(criterion(input_ids, scores, **kwargs), device=done.device)
        for row in done.nonzero().flatten().tolist():
            self.lengths.setdefault(row, input_ids.shape[1] - self._prompt)
        return done


class _OneStream:
    """Merges all rounds into one stream: later prompts are omitted, and the end is sent once."""

    def __init__(self, streamer: Any):
        self._streamer, self._first, self._prompt = streamer, True, True

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt or self._first:
            self._streamer.put(value)
        self._prompt = self._first = False

    def end(self) -> None:
        self._prompt = True

    def finish(self) -> None:
        self._streamer.end()


def _without_opening(ids: list[int], tokenizer: Any) -> list[int]:
    """Returns the ids up to a final `<think>`. The ids before it are kept: re-encoding might change them."""

    def text(part: list[int]) -> str:
        return tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    token = tokenizer.convert_tokens_to_ids("<think>")
    if token is not None and token != tokenizer.unk_token_id:  # a user's spelled-out tag is not this token
        place = len(ids) - 1 - ids[::-1].index(token) if token in ids else len(ids)
        return ids if text(ids[place + 1 :]).strip() else ids[:place]
    found = _OPENED.search(text(ids))
    return list(tokenizer.encode(text(ids)[: found.start()], add_special_tokens=False)) if found else ids


def _with_room(questions: list[Question], limit: int | None) -> list[Question]:
    """Returns the unfinished questions. One whose prompt fills the context ends here, as "failed"."""
    waiting = [question for question in questions if question.stop_reason is None]
    for question in waiting:
        if limit is not None and len(question.prompt) >= limit:
            question.stop_reason = "failed"
            warnings.warn(
                f"round {len(question.rounds) + 1} has a prompt of {len(question.prompt)} tokens, which leaves no room "
                f"in a context of {limit}: the question ends here",
                stacklevel=3,
            )
    return [question for question in waiting if question.stop_reason is None]


def _cut(tokens: list[int], ends: list[int], stopped: int | None) -> tuple[list[int], str]:
    """Returns a row's own tokens, without the padding after them, and why it ended."""
    length = next((place + 1 for place, token in enumerate(tokens) if token in ends), None)
    if length is not None and (stopped is None or length <= stopped):
        return tokens[:length], "stop"
    return (tokens, "length") if stopped is None else (tokens[:stopped], "stopped")


def _pad_left(prompts: list[list[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns [B, P] ids and mask."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _result(inputs: torch.Tensor, questions: list[Question], pad: int, as_object: bool | None) -> Any:
    finals = [question.rounds[-1][1] if question.rounds else [] for question in questions]
    tail = torch.full((len(finals), max(map(len, finals))), pad, device=inputs.device)
    for row, ids in enumerate(finals):
        tail[row, : len(ids)] = torch.tensor(ids, dtype=tail.dtype)
    sequences = torch.cat([inputs, tail], dim=1)
    if not as_object:
        return sequences
    output = GenerateDecoderOnlyOutput(sequences=sequences)
    output.rounds = [question.rounds for question in questions]
    output.stop_reason = [question.stop_reason for question in questions]
    return output
