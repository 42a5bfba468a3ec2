"""Creates a tiny Qwen3 and its tokenizer from scratch, so that the demo needs no download."""

from __future__ import annotations

import string
from pathlib import Path

from examples.chains.task import OPERATIONS
from rollout.protocol import SPECIAL_TOKENS

END, PAD = "<|im_end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer():
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, "<|im_start|>", "<think>", "</think>", *SPECIAL_TOKENS]
    # An operation with its name, as in questions, is one token, so that looking it up takes one attention step.
    named = [name + operation for name in string.ascii_lowercase for operation in OPERATIONS]
    labels = [f"{name}:" for name in string.ascii_lowercase]
    values = [f"={digit}" for digit in range(10)]
    words = [*named, *labels, *OPERATIONS, *values, "end", "user", "assistant", "\\boxed{"]
    characters = [*string.printable[:95], "\n"]
    vocabulary = {token: index for index, token in enumerate([*special, *words, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[a-z][+\-*]\d|[a-z]:|end|[=+\-*]\d|user|assistant|\\boxed\{|[\s\S]"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.add_special_tokens({"additional_special_tokens": special[2:]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build(
    path: str,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 512,
    tie_word_embeddings: bool = False,
) -> None:
    """Writes an untrained model and tokenizer to `path`, unless they exist."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    if (Path(path) / "config.json").exists():
        return
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=context,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.initializer_range = 0.06  # the usual 0.02 suits wide models; a model this small would need many more steps
    Qwen3ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
