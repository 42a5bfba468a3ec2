"""Small tokenizers of the kinds that real models have: what they do with spaces, special tokens, BOS and templates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.bpe_model import TEMPLATE

TEXTS = [
    "What is the sum of all even numbers below 40? Think about it, then answer the user as an assistant would.",
    "A train leaves at 7:15 and takes 95 minutes; when does it arrive?\n\nWrite it as hh:mm (24 hours).",
    "so far: b=3, c=4 and the system is <not> [closed] |x| < 5",
] * 3  # fmt: skip
TAGS = ["<think>", "</think>", "<summary>", "</summary>", "<history>", "</history>"]
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content.split('</think>')[-1].strip() }}"
    "</s>{% else %}[INST] {{ m.content | trim }} [/INST]{% endif %}{% endfor %}"
)


def _fast(tokenizer: Any, template: str | None, eos: str, pad: str, **more: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, **more)
    fast.chat_template = template
    return fast


def byte_level(
    template: str | None = TEMPLATE,
    after: list[str] | None = None,
    tags_special: bool = False,
    unreachable: Sequence[str] = (),
) -> Any:
    """As Qwen's and Llama 3's.

    Args:
        after: what the post-processor puts around a text, as ["<s>", "$A"].
        unreachable: tags that stand in the vocabulary, and that no merge leads to.
    """
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AddedToken

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<s>", "<|im_end|>", "<|im_start|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if after:
        ids = [(text, tokenizer.token_to_id(text)) for text in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(after), special_tokens=ids)
    parts = json.loads(tokenizer.to_str())
    parts["model"]["vocab"] |= {tag: tokenizer.get_vocab_size() + i for i, tag in enumerate(unreachable)}
    fast = _fast(Tokenizer.from_str(json.dumps(parts)), template, "<|im_end|>", "<|pad|>", bos_token="<s>")
    tags = [tag for tag in TAGS if tag not in unreachable]
    fast.add_tokens([AddedToken(tag, special=tags_special, normalized=False) for tag in tags])
    fast.add_tokens([AddedToken("  ", normalized=False), AddedToken("photosynthesis")])  # ordinary text, though added
    return fast


def metaspace(scheme: str = "first", template: str | None = INST) -> Any:
    """As Llama 2's and Mistral's: words begin with a mark for the space before them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = _fast(_without(tokenizer, bytes_), template, "</s>", "<unk>", bos_token="<s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]", *TAGS]})
    return fast


def unigram() -> Any:
    """As T5's: its control tokens are pieces of its vocabulary too."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((tag, 0.0) for tag in TAGS), ("[INST]", 0.0)]
    pieces += [("[/INST]", 0.0), *((chr(code), -5.0) for code in range(33, 127)), ("▁", -3.0), ("\n", -4.0)]
    pieces += [("▁the", -2.0), ("▁is", -2.0), ("hist", -6.0), ("ory", -6.0), ("▁answer", -2.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = _fast(tokenizer, INST, "</s>", "<unk>", bos_token="<s>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]", *TAGS]})
    return fast


def lowered() -> Any:
    """Its normalizer folds cases and widths, and its tags are searched for in the normalized text."""
    from tokenizers import AddedToken as Added
    from tokenizers import normalizers

    fast = byte_level()
    fast.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    fast.add_tokens([Added("<note>", normalized=True)])
    return fast


def words(template: str | None = TEMPLATE) -> Any:
    """Whole words, all others unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<unk>", "<|pad|>", "<|im_end|>", "<|im_start|>"]
    known = dict.fromkeys([*special, "user", "assistant", *" ".join(TEXTS).split()])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _fast(tokenizer, template, "<|im_end|>", "<|pad|>", unk_token="<unk>")


def word_pieces() -> Any:
    """As BERT's: lower case, and signs apart from words."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["<unk>", "<|pad|>", "<|im_end|>", "<|im_start|>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    return _fast(tokenizer, TEMPLATE, "<|im_end|>", "<|pad|>", unk_token="<unk>")


def without_unknown() -> Any:
    """Byte pairs of letters, which drop what they don't know without a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<|pad|>", "<|im_end|>", "<|im_start|>"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    return _fast(tokenizer, TEMPLATE, "<|im_end|>", "<|pad|>")


def in_python() -> Any:
    """No Rust behind it: ByT5's."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *TAGS]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _without(tokenizer: Any, tokens: list[str]) -> Any:
    """The tokenizer with these as ordinary entries of its vocabulary."""
    import json

    from tokenizers import Tokenizer

    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"] not in tokens]
    return Tokenizer.from_str(json.dumps(parts))


KINDS: dict[str, Callable[[], Any]] = {
    "byte level": byte_level,
    "byte level, special tags": lambda: byte_level(tags_special=True),
    "byte level, no template, BOS": lambda: byte_level(None, ["<s>", "$A"]),
    "byte level, no template, BOS and EOS": lambda: byte_level(None, ["<s>", "$A", "<|im_end|>"]),
    "metaspace, first": metaspace,
    "metaspace, always": lambda: metaspace("always"),
    "metaspace, no template": lambda: metaspace(template=None),
    "unigram": unigram,
    "lowered": lowered,
    "in Python": in_python,
}
