"""Tokenizers and chat templates with which no round could be trained: one line before it, or it works."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from rollout.endings import agree, end_ids, template_end, turn_end
from rollout.protocol import SPECIAL_TOKENS, get_protocol
from rollout.tokenizer_check import changed_texts, check_tokenizer
from sft.reconstruct import Round
from sft.tokens import encode_round
from sft.vocabulary import add_round_tokens, refuse_tokens_without_rows
from tests.bpe_model import TEMPLATE
from tests.tokenizers_of_many_kinds import KINDS, byte_level, without_unknown, word_pieces, words

ROUNDS = get_protocol("inftythink", segment_tokens=64, summary_tokens=32, max_rounds=3)
OUTPUT = "<think>\nSo far 7.\nThen 12.\n</think><summary>The sum is 40: A.</summary>"


def model_for(tokenizer, rows=None):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": rows or len(tokenizer)}
    return Qwen3ForCausalLM(Qwen3Config(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=None))


@pytest.mark.parametrize("kind", KINDS)
def test_real_kinds_pass_and_their_rows_are_read_back(kind):
    tokenizer = KINDS[kind]()
    check_tokenizer(tokenizer, ROUNDS)
    row = encode_round(Round("What is 40?", "so far: b=3", OUTPUT), ROUNDS, tokenizer)
    text = tokenizer.decode([t for t in row["labels"] if t != -100], clean_up_tokenization_spaces=False)
    turn = ROUNDS.parse(text, ends=tokenizer.convert_ids_to_tokens(list(end_ids(tokenizer))))
    assert turn.kind == "summary" and turn.summary.lower() == "the sum is 40: a."
    line = changed_texts(tokenizer, [OUTPUT] * 3)
    assert (line is not None) == (kind == "lowered")
    if line:
        assert line.startswith("the tokenizer changes 3 of the first 3 outputs: ") and "'<think>so far" in line


@pytest.mark.parametrize("make", [words, word_pieces, without_unknown])
def test_a_tokenizer_that_loses_the_tags_is_refused(make):
    tokenizer = make()
    with pytest.raises(ValueError, match="the tokenizer does not round-trip <think>, which is decoded as "):
        check_tokenizer(tokenizer, ROUNDS)
    check_tokenizer(tokenizer, get_protocol("vanilla"), thinks=False)  # RL of a model that does not think
    tokenizer.add_tokens(["<think>", "</think>"])
    add_round_tokens(model_for(tokenizer), tokenizer)
    check_tokenizer(tokenizer, ROUNDS)
    assert changed_texts(tokenizer, [OUTPUT]) is not None  # words unknown to it, or spaces within them


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no') }}", "the chat template can't render this question: no"),
        ("{{ messages[0].content + 1 }}", "the chat template can't render this question: TypeError: "),
        ("{{ messages[5].content }}", "the chat template can't render this question: list object has no element 5"),
        ("{% for m in %}", "the chat template can't render this question: Expected"),
        ("{% if false %}{% endif %}", "the chat template drops the question: "),
        ("<|im_start|>assistant\n", "the chat template drops the question: "),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE, None),
        (TEMPLATE.replace("{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}", ""), None),
        (TEMPLATE + "<think>\n", None),
    ],
)  # fmt: skip
def test_a_template_takes_a_question_or_is_refused(template, said):
    tokenizer = byte_level(template)
    if said is None:
        check_tokenizer(tokenizer, ROUNDS)
        return
    with pytest.raises(ValueError) as error:
        check_tokenizer(tokenizer, ROUNDS)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
    check_tokenizer(tokenizer, ROUNDS.replace(chat=False))


def test_a_round_token_that_no_text_becomes_is_made_one():
    """It stands in the vocabulary of a byte-pair tokenizer, but no merge leads to it."""
    tokenizer = byte_level(unreachable=SPECIAL_TOKENS)
    model, numbers = model_for(tokenizer), tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS)
    before = model.get_input_embeddings().weight.detach().clone()
    assert add_round_tokens(model, tokenizer) == SPECIAL_TOKENS and add_round_tokens(model, tokenizer) == []
    weight = model.get_input_embeddings().weight
    for token, number in zip(SPECIAL_TOKENS, numbers, strict=True):
        assert tokenizer.encode(token, add_special_tokens=False) == [number]
        pieces = tokenizer.encode(token[1:-1], add_special_tokens=False)
        assert (weight[number] - before[pieces].mean(dim=0)).abs().max() < 1e-6
    others = [number for number in range(len(before)) if number not in numbers]
    assert (weight[others] == before[others]).all() and len(weight) == len(before)


def test_a_word_of_the_vocabulary_ends_no_turn():
    """It would end every turn that uses it. So would the token for all that is unknown."""
    tokenizer = byte_level(TEMPLATE.replace("<|im_end|>", " user"))
    assert len(tokenizer.encode("user", add_special_tokens=False)) == 1
    assert template_end(tokenizer)[0] is None and turn_end(tokenizer) == tokenizer.eos_token_id
    (line,) = agree(model_for(tokenizer), tokenizer)
    assert line.startswith("the chat template closes a turn with 'user', which is an ordinary word: rows end")
    tokenizer = words(TEMPLATE.replace("<|im_end|>", " <|eot|> "))
    assert turn_end(tokenizer) == tokenizer.eos_token_id != tokenizer.unk_token_id
    assert "which is not in the tokenizer's vocabulary" in agree(model_for(tokenizer), tokenizer)[0]


def test_a_tokenizer_without_eos_gets_what_ends_its_turns():
    tokenizer = byte_level()
    tokenizer.eos_token = tokenizer.pad_token = None
    (line,) = agree(model_for(tokenizer), tokenizer)
    assert "the tokenizer has no eos" in line and tokenizer.eos_token == "<|im_end|>"


def test_a_generation_config_with_no_ids():
    tokenizer, model = byte_level(), model_for(byte_level())
    for none in (-1, [-1], []):
        model.generation_config = GenerationConfig(eos_token_id=none)
        assert agree(model, tokenizer) == [] and model.generation_config.eos_token_id == tokenizer.eos_token_id
    model.generation_config.eos_token_id = "</s>"
    with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id is '</s>'; it must be a token id"):
        agree(model, tokenizer)


@pytest.mark.parametrize("name", ["pad_token", "eos_token"])
def test_a_token_that_the_model_has_no_row_for_is_refused(name):
    tokenizer = byte_level()
    model = model_for(tokenizer)
    refuse_tokens_without_rows(model, tokenizer)
    tokenizer.add_special_tokens({name: "<new>"})
    with pytest.raises(ValueError, match=rf"'<new>' is token {len(tokenizer) - 1}, for which the model has no row"):
        refuse_tokens_without_rows(model, tokenizer)
    add_round_tokens(model, tokenizer)  # as SFT does
    refuse_tokens_without_rows(model, tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_a_text_spells_ends_no_row(kind):
    """Rounds made with another model (`data.prepared`) may spell what ends a turn of this one."""
    tokenizer = KINDS[kind]()
    end = tokenizer.convert_ids_to_tokens(turn_end(tokenizer))
    row = encode_round(Round("q", None, f"<think>\nso {end} far\n</think>7"), ROUNDS, tokenizer)
    output = [token for token in row["labels"] if token != -100]
    assert [token in end_ids(tokenizer) for token in output] == [False] * (len(output) - 1) + [True]
    assert end in tokenizer.decode(output[:-1], clean_up_tokenization_spaces=False)
    assert tokenizer.convert_tokens_to_ids("</think>") in output  # its other control tokens are meant


def test_a_tokenizer_that_changed_is_read_anew():
    tokenizer = byte_level(TEMPLATE.replace("<|im_end|>", "<|eot|>"))
    assert turn_end(tokenizer) == tokenizer.eos_token_id
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot|>"]}, replace_extra_special_tokens=False)
    assert turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<|eot|>")


def test_named_templates():
    tokenizer = byte_level({"default": TEMPLATE, "tool_use": "{{ messages }}"})
    check_tokenizer(tokenizer, ROUNDS)
    assert template_end(tokenizer)[0] == tokenizer.eos_token_id
    tokenizer.chat_template = {"tool_use": TEMPLATE}
    with pytest.raises(ValueError, match="the chat template can't render this question: ValueError: "):
        check_tokenizer(tokenizer, ROUNDS)
