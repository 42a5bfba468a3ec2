"""Defaults of an exported model's generation: `generation_config.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rollout.endings import end_ids, turn_end
from rollout.protocol import RoundProtocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROOM = 16  # tokens of a round besides thinking and summary: tags, line ends, the end token
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def set_generation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, protocol: RoundProtocol, settings: dict[str, Any]
) -> None:
    """Give the model a generation config of its own: end tokens, padding, sampling, the bound of a round.

    A base model's other settings, such as a repetition penalty, are dropped: rollouts and evaluation had none.

    Args:
        settings: of the evaluation, as far as they are known: temperature (0: greedy), top_p, max_tokens of a round.
    """
    from transformers import GenerationConfig

    before = model.generation_config
    first = turn_end(tokenizer, protocol.chat)
    ends = [first, *(end for end in end_ids(tokenizer, before.eos_token_id) if end != first)]
    sampling: dict[str, Any] = {}
    if settings.get("temperature") != 0.0:
        given = {key: settings[key] for key in _SAMPLING if settings.get(key) is not None}
        if given:
            sampling = {"do_sample": True, "top_k": 0, **given}  # transformers' own default is top_k=50
        elif before.do_sample:
            sampling = {"do_sample": True, **{key: getattr(before, key) for key in _SAMPLING}}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=pad,
        max_new_tokens=settings.get("max_tokens") or most_tokens(protocol),
        **sampling,
    )
    model.config.eos_token_id, model.config.pad_token_id = ends[0], pad
    model.config.use_cache = True  # trainers switch it off


def most_tokens(protocol: RoundProtocol) -> int | None:
    """Return the bound of a round if no setting gives one; None: the room in the context."""
    if protocol.name == "vanilla":
        return None
    if protocol.name == "delethink":
        return protocol.segment_tokens
    return protocol.segment_tokens + protocol.summary_tokens + _ROOM
