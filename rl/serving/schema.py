"""Requests and responses of /v1/chat/completions. FastAPI makes its OpenAPI description from this.

An unsupported field that would change the result is rejected by name. Its harmless value, which many clients always
send, is accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_INT64 = 2**63
Zero = Annotated[float, Field(ge=0, le=0, allow_inf_nan=False)]
Nothing = Annotated[list[Any], Field(max_length=0)]
NoEntries = Annotated[dict[str, Any], Field(max_length=0)]


class _Strict(BaseModel):
    """Reports only the first unknown field: reporting half a million would take many seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _one_unknown(cls, data: Any) -> Any:
        unknown = [key for key in data if key not in cls.model_fields] if isinstance(data, dict) else []
        return {key: data[key] for key in data.keys() - unknown[1:]} if len(unknown) > 1 else data


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    """One turn. Other fields of our responses may be sent back; they are ignored."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
    name: str | None = None
    reasoning_content: str | None = Field(None, description="Ignored: earlier thinking is not part of the prompt")
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None

    @property
    def text(self) -> str:
        """The content; parts are joined with newlines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(_Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(_Strict):
    type: Literal["text"]


class ChatRequest(_Strict):
    model: str
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1, le=_INT64 - 1)] | None = Field(
        None, description="Maximum generated tokens per episode: all of its rounds together"
    )
    max_completion_tokens: Annotated[int, Field(ge=1, le=_INT64 - 1)] | None = None
    max_rounds: Annotated[int, Field(ge=1, le=_INT64 - 1)] | None = Field(
        None, description="Maximum rounds per episode, up to the server's own limit"
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(None, description="0 or -1: off")
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, le=_INT64 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=1024)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16, fail_fast=True)]
        | None
    ) = Field(None, description="Ends the final answer, never the thinking")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Ignored: they don't change the result.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Only the harmless value is accepted.
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    logit_bias: NoEntries | None = None
    response_format: TextFormat | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none"] | None = None
    chat_template_kwargs: NoEntries | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        """Drops nulls: some clients send all fields, with null for those that they don't use."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


HARMLESS_ONLY = (
    "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "logit_bias", "response_format", "tools",
    "tool_choice", "chat_template_kwargs",
)  # fmt: skip
"""Fields with any other value are not supported."""


class TokenDetails(BaseModel):
    reasoning_tokens: int


class Usage(BaseModel):
    prompt_tokens: int = Field(description="Tokens read by the engine, over all rounds and choices")
    completion_tokens: int = Field(description="Tokens generated, over all rounds and choices")
    total_tokens: int
    completion_tokens_details: TokenDetails


class Rounds(BaseModel):
    rounds: int
    stop_reason: str
    error: str | None


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    reasoning_content: str


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None
    sawtooth: Rounds


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail
