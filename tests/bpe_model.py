"""A byte-pair tokenizer and a tiny Qwen3, made from given texts: for data that the demo's tokenizer can't read."""

from __future__ import annotations

from pathlib import Path

END = "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(path: Path, texts: list[str], vocabulary: int = 2000):
    """Trains and saves it. It has no `<summary>` and its kin yet, as a base model's has none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", END, "<|im_start|>", "<think>", "</think>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    return fast


def build_model(path: Path, texts: list[str], steps: int = 80) -> None:
    """A model beside the tokenizer of `path`, trained for seconds: it writes something like a sentence, and stops."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(path)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sentences = [s for text in texts for s in text.replace("\n", " ").split(". ") if 20 < len(s) < 100]
    for _ in range(steps):
        picked = [sentences[i] for i in torch.randint(len(sentences), (32,)).tolist()]
        rows = [tokenizer.encode(f"<|im_start|>assistant\n{s}.", add_special_tokens=False)[:48] for s in picked]
        rows = [[*row, tokenizer.eos_token_id] for row in rows]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
        loss = model(input_ids=ids, labels=labels, attention_mask=(labels != -100).long()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(path)
