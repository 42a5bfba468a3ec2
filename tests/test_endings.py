"""What ends a turn: one answer for SFT rows, engines, episodes, the exported folder and serving."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rl.exporting.generation import set_generation
from rl.serving.model import load_model
from rollout.endings import agree, end_ids, template_end, turn_end
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.protocol import get_protocol
from rollout.types import Completion, Sampling, Task
from sft.reconstruct import Round
from sft.tokens import encode_round
from tests.conftest import build_model
from tests.tokenizers_of_many_kinds import byte_level, in_python, metaspace

ROUNDS = get_protocol("inftythink", segment_tokens=64, summary_tokens=32, max_rounds=3)
TURNS = (
    "{%% for m in messages %%}{%% if m.role == 'user' %%}%s{{ m.content }}%s{%% else %%}%s{{ m.content }}%s"
    "{%% endif %%}{%% endfor %%}{%% if add_generation_prompt %%}%s{%% endif %%}"
)


def with_template(template: str | None, *more: str, eos: str | None = "<|im_end|>"):
    tokenizer = byte_level(template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(more)}, replace_extra_special_tokens=False)
    tokenizer.eos_token = eos
    return tokenizer


CLOSES = {
    "as the eos": (TURNS % ("<q>", "<|im_end|>\n", "<a>", "<|im_end|>\n", "<a>"), "<|im_end|>"),
    "not as the eos": (TURNS % ("<q>", "<|eot|>", "<a>", "<|eot|>", "<a>"), "<|eot|>"),
    "after a space": (TURNS % ("<q> ", " <a>", " ", " <END><q>", ""), "<END>"),
    "behind a line": (TURNS % ("<q>", "\n", "<a>", "\n[EOS]\n", "<a>"), "[EOS]"),
    "only before the next question": (
        "{% for m in messages %}{% if m.role == 'user' %}{% if not loop.first %}<|eot|>{% endif %}<q>{{ m.content }}"
        "{% else %}<a>{{ m.content }}{% endif %}{% endfor %}",
        "<|eot|>",
    ),
    "with nothing: the next question begins": (TURNS % ("<q>", "\n", "<a>", "\n", "<a>"), None),
    "with a text": (TURNS % ("<q>", "\n", "<a>", "\n### stop\n", "<a>"), None),
    "never: it takes one question": ("{{ raise_exception('') if messages|length > 1 }}{{ messages[0].content }}", None),
    "never: it is broken": ("{{ messages[0].content if messages|length < 2 else messages[1].a.b }}", None),
}


@pytest.mark.parametrize("name", CLOSES)
def test_what_a_template_closes_a_turn_with_is_read_off(name):
    template, closing = CLOSES[name]
    tokenizer = with_template(template, "<q>", "<a>", "<|eot|>", "<END>", "[EOS]")
    number = None if closing is None else tokenizer.convert_tokens_to_ids(closing)
    assert template_end(tokenizer)[0] == number
    end = tokenizer.eos_token_id if number is None else number
    assert turn_end(tokenizer) == end
    row = encode_round(Round("q", None, "<think>\nx\n</think>7"), ROUNDS, tokenizer)
    assert row["labels"][-1] == row["input_ids"][-1] == end
    assert end_ids(tokenizer, [end, 7, tokenizer.eos_token_id]) == tuple(
        dict.fromkeys((end, tokenizer.eos_token_id, 7))
    )


def test_other_kinds_of_tokenizers():
    assert turn_end(metaspace()) == metaspace().eos_token_id
    assert turn_end(metaspace(template=None)) == metaspace().eos_token_id
    assert turn_end(in_python()) == in_python().eos_token_id


def test_without_an_end_it_is_refused_in_one_line():
    with pytest.raises(ValueError, match="closes a turn with '\\\\n### stop\\\\n', which is not one token; set"):
        turn_end(with_template(CLOSES["with a text"][0], "<q>", "<a>", eos=None))
    with pytest.raises(ValueError, match="neither an eos token nor a chat template"):
        turn_end(with_template(None, eos=None))
    tokenizer = with_template(CLOSES["not as the eos"][0], "<q>", "<a>", "<|eot|>", eos=None)
    assert turn_end(tokenizer) == turn_end(tokenizer, chat=False) == tokenizer.convert_tokens_to_ids("<|eot|>")


class Configured:
    def __init__(self, ends):
        self.generation_config = GenerationConfig(eos_token_id=ends)


def test_where_the_sources_disagree_it_is_said():
    tokenizer = with_template(CLOSES["not as the eos"][0], "<q>", "<a>", "<|eot|>")
    eot, eos = tokenizer.convert_tokens_to_ids("<|eot|>"), tokenizer.eos_token_id
    model = Configured(eos)
    (line,) = agree(model, tokenizer)
    assert line == (
        f"the chat template closes a turn with '<|eot|>' ({eot}), the tokenizer's eos is '<|im_end|>' ({eos}): "
        f"rows end with '<|eot|>' ({eot}), generation stops at '<|eot|>' ({eot}), '<|im_end|>' ({eos})"
    )
    assert model.generation_config.eos_token_id == [eot, eos]
    assert turn_end(tokenizer, chat=False) == eos and agree(Configured(eos), tokenizer, chat=False) == []
    (line,) = agree(Configured([7]), with_template(CLOSES["as the eos"][0], "<q>", "<a>"))
    assert line.startswith("the generation config ends only at") and "generation stops at '<|im_end|>' (2), " in line
    (line,) = agree(Configured(None), with_template(CLOSES["with a text"][0], "<q>", "<a>"))
    assert line.startswith("the chat template closes a turn with '### stop', which is not one token: rows end with")
    for ends in (None, 2, [2, 7]):
        assert agree(Configured(ends), with_template(CLOSES["as the eos"][0], "<q>", "<a>")) == []


class Scripted:
    """Writes a summary, then an answer, each with the end that it is told."""

    def __init__(self, tokenizer, end: int, ends: tuple[int, ...] = ()):
        self.tokenizer, self.end, self.ends, self.asked = tokenizer, end, ends, []
        self.texts = ["<think>\na\n</think><summary>s</summary>", "<think>\nb\n</think>7"]

    def submit(self, request_id, prompt_ids, sampling):
        self.asked.append((request_id, sampling))

    def poll(self):
        ids = [*self.tokenizer.encode(self.texts.pop(0), add_special_tokens=False), self.end]
        return [Completion(self.asked[-1][0], ids, [-1.0] * len(ids), "stop")]


@pytest.mark.parametrize("end", ["<|im_end|>", "<END>", "[EOS]", "<|eot|>", "photosynthesis"])
@pytest.mark.parametrize("named_by", ["template", "engine"])
def test_any_end_token_ends_a_summary(end, named_by):
    template = TURNS % ("<q>", "", "<a>", f"{end if named_by == 'template' else '<|im_end|>'}\n", "<a>")
    tokenizer = with_template(template, "<q>", "<a>", "<END>", "[EOS]", "<|eot|>")
    number = tokenizer.convert_tokens_to_ids(end)
    engine = Scripted(tokenizer, number, (number,) if named_by == "engine" else ())
    (episode,) = run_episodes([Task("q")], engine, ROUNDS, tokenizer, Sampling(64))
    assert [(s.turn.kind, s.text.partition("</think>")[2]) for s in episode.segments] == [
        ("summary", "<summary>s</summary>"), ("conclusion", "7"),
    ]  # fmt: skip
    assert all(number in (*sampling.stop_ids, tokenizer.eos_token_id) for _, sampling in engine.asked)


def test_parse_takes_the_texts_of_further_ends():
    text = "<think>a</think><summary>s</summary>"
    for end in ("<END>", "[EOS]", "<END>\n", " [EOS]"):
        assert ROUNDS.parse(text + end, ends=["<END>", "[EOS]"]).kind == "summary"
        assert ROUNDS.parse(text + end).kind == "malformed"


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """(folder of a model whose generation config lists a second end, the ids that it writes greedily, that end)."""
    folder = build_model(tmp_path_factory.mktemp("listed"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = ROUNDS.question_ids(tokenizer, "a=1 ?")
    ids = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0, len(prompt) :].tolist()
    other = next(token for token in ids if token != ids[0])
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    model.generation_config.save_pretrained(folder)
    return folder, ids, other


def test_the_transformers_engine_stops_at_the_generation_configs_list(listed):
    folder, ids, other = listed
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    engine = TransformersEngine(model, tokenizer)
    engine.submit(0, ROUNDS.question_ids(tokenizer, "a=1 ?"), Sampling(8, temperature=0.0))
    (completion,) = engine.poll()
    assert (completion.token_ids, completion.finish_reason) == (ids[: ids.index(other) + 1], "stop")
    assert set(load_model(folder, protocol="vanilla").defaults.stop_ids) == {other}


def test_a_template_that_closes_otherwise_reaches_export_and_serving(tmp_path):
    folder = build_model(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "</history>")  # some token
    closing, eos = tokenizer.convert_tokens_to_ids("</history>"), tokenizer.eos_token_id
    set_generation(model, tokenizer, ROUNDS, {})
    assert model.generation_config.eos_token_id == [closing, eos] and model.config.eos_token_id == closing
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == [closing, eos]
    assert load_model(folder, protocol="vanilla").defaults.stop_ids == (closing,)
    assert TransformersEngine(model, tokenizer).ends == (closing, eos)
