"""Adds the round tokens to a model's vocabulary: missing ones start from the embeddings of the words they spell."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rollout.endings import end_ids
from rollout.errors import InputError
from rollout.protocol import SPECIAL_TOKENS
from rollout.trainable_rows import gathered


def add_round_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Adds the round tokens missing from the tokenizer, and returns them. Existing tokens are not changed.

    One that is in the vocabulary but that the tokenizer never produces counts as missing; it keeps its own row.

    `<summary>` starts as the mean of the pieces of "summary", `</summary>` of "/summary", and so on, in the embeddings
    and in the output head. A mean over the vocabulary would give them no direction: from there, SmolLM2's
    P(`<summary>`) is 9e-6 after ten steps on one row; from the words it is 0.70 (benchmarks/round_tokens.py).
    """
    known = tokenizer.get_vocab()
    missing = [t for t in SPECIAL_TOKENS if known.get(t) not in tokenizer.encode(t, add_special_tokens=False)]
    if missing:
        tokenizer.add_special_tokens({"additional_special_tokens": missing}, replace_extra_special_tokens=False)
    rows = model.get_input_embeddings().num_embeddings  # some models have more rows than their tokenizer has tokens
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = {id(w): w for layer in layers if layer is not None for w in (layer.weight, getattr(layer, "bias", None))}
    weights.pop(id(None), None)
    with gathered(weights.values(), writer=0), torch.no_grad():
        for weight in weights.values():  # tied weights occur once
            _start(weight, rows, missing, tokenizer)
    return missing


def _start(weight: nn.Parameter, rows: int, missing: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Initializes the added tokens' rows of a weight [vocabulary, hidden] or a bias [vocabulary]."""
    mean = weight[:rows].float().mean(dim=0)
    weight[rows:] = mean.to(weight.dtype)
    for token in missing:
        pieces = tokenizer.encode(token.strip("<>"), add_special_tokens=False)
        pieces = [piece for piece in pieces if piece < rows and piece != tokenizer.unk_token_id]
        start = weight[pieces].float().mean(dim=0) if pieces else mean
        weight[tokenizer.convert_tokens_to_ids(token)] = start.to(weight.dtype)


def round_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the ids of the round tokens that the tokenizer has."""
    known = tokenizer.get_vocab()
    return [known[token] for token in SPECIAL_TOKENS if token in known]


def refuse_tokens_without_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks a model that is trained without SFT, which would add rows.

    Raises:
        ValueError: a token of prompts or padding has no row in the model; often a pad token added only by name.
    """
    rows = model.get_input_embeddings().num_embeddings
    for token in (tokenizer.pad_token_id, tokenizer.bos_token_id, *end_ids(tokenizer)):
        if token is not None and token >= rows:
            raise InputError(
                f"the tokenizer's {tokenizer.convert_ids_to_tokens(token)!r} is token {token}, for which the model has "
                f"no row ({rows} rows): name another one in the tokenizer's config, or resize the model's embeddings"
            )
