"""`generate(custom_generate=FOLDER)` runs the rounds of `run_episodes`, also where only transformers is installed."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    set_seed,
)

import rl.exporting
from examples.chains.task import questions
from rl.exporting.export import export_model
from rl.exporting.generation import most_tokens
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.protocol import RoundProtocol, get_protocol
from rollout.types import Sampling, Task

PACKAGE = Path(rl.exporting.__file__).parent
ASKED = [row["question"] for row in questions(5, seed=9, steps=[1, 7])]
MOST = 48


def load(path):
    spec = importlib.util.spec_from_file_location("exported_generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


own = load(PACKAGE / "custom_generate" / "generate.py")
PIECES = [
    "<think>", "</think>", "<summary>", "</summary>", "<history>", "\n", " ", "a=1", "\\boxed{1}", "<|im_end|>",
    "</s>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|x", "é",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_its_parser_agrees_with_the_protocol(text):
    for name in ("inftythink", "vanilla", "delethink"):
        turn = get_protocol(name).parse(text)
        assert own.parse(text, name) == (turn.kind, turn.summary), name


def test_its_bound_of_a_round_is_the_exports():
    for name in ("inftythink", "vanilla", "delethink"):
        assert own.most_tokens(vars(get_protocol(name))) == most_tokens(get_protocol(name))


@pytest.fixture(scope="module")
def folder(rounds_model, tmp_path_factory):
    settings = {"temperature": 0.7, "top_p": 0.9, "max_tokens": MOST}
    return export_model(
        Path(rounds_model), tmp_path_factory.mktemp("export") / "model", name="chains", summary=[],
        eval_settings=settings, question=ASKED[0],
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer


def batch(tokenizer, asked, side="left"):
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True)
        for q in asked
    ]
    return tokenizer(texts, add_special_tokens=False, padding=True, padding_side=side, return_tensors="pt")


def rounds_of(episode):
    return [(s.prompt_ids, s.completion_ids) for s in episode.segments]


def rolled_out(parts, protocol, asked=ASKED, **sampling):
    model, tokenizer = parts
    chosen = Sampling(**{"max_tokens": MOST, "temperature": 0.0} | sampling)
    return run_episodes([Task(q) for q in asked], TransformersEngine(model, tokenizer), protocol, tokenizer, chosen)


def generated(parts, folder, asked=ASKED, **settings):
    model, tokenizer = parts
    settings = {"do_sample": False, "return_dict_in_generate": True} | settings
    return model.generate(
        **batch(tokenizer, asked), tokenizer=tokenizer, custom_generate=str(folder), trust_remote_code=True, **settings
    )


PROTOCOLS = {
    "inftythink": None,
    "delethink": {"segment_tokens": 5, "carry_tokens": 3, "keep_tokens": 2, "max_rounds": 4},
    "vanilla": {},
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_batch_gives_the_tokens_of_run_episodes(parts, folder, name):
    given = PROTOCOLS[name]
    protocol = RoundProtocol.load(folder) if given is None else get_protocol(name, **given)
    most = 5 if name == "delethink" else MOST
    episodes = rolled_out(parts, protocol, max_tokens=most)
    settings = {} if given is None else {"protocol": vars(protocol), "max_new_tokens": most}
    output = generated(parts, folder, **settings)
    assert output.rounds == [rounds_of(episode) for episode in episodes]
    assert output.stop_reason == [str(episode.stop_reason) for episode in episodes]
    if name != "vanilla":
        assert max(map(len, output.rounds)) > 2
    inputs = batch(parts[1], ASKED)["input_ids"]
    assert torch.equal(output.sequences[:, : inputs.shape[1]], inputs)
    for row, episode in zip(output.sequences[:, inputs.shape[1] :].tolist(), episodes, strict=True):
        last = episode.segments[-1].completion_ids
        assert row == last + [parts[1].pad_token_id] * (len(row) - len(last))


def test_sampling_draws_as_the_engine_does(parts, folder):
    set_seed(3)
    episodes = rolled_out(parts, RoundProtocol.load(folder), temperature=0.7, top_p=0.9)
    set_seed(3)
    output = generated(parts, folder, do_sample=True)  # the rest from the folder's generation_config.json
    assert output.rounds == [rounds_of(episode) for episode in episodes]
    set_seed(3)
    twice = generated(parts, folder, ASKED[:2], do_sample=True, num_return_sequences=2, return_dict_in_generate=False)
    assert twice.shape[0] == 4 and torch.equal(twice[0, :5], twice[1, :5])


def test_a_template_that_opens_the_thinking_is_undone(parts, folder):
    model, tokenizer = parts
    opening = AutoTokenizer.from_pretrained(folder, padding_side="left")
    opening.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    assert "<think>" in opening.chat_template
    episodes = rolled_out((model, opening), RoundProtocol.load(folder))
    output = generated((model, opening), folder)
    assert output.rounds == [rounds_of(episode) for episode in episodes]
    assert all(3 not in prompt for rounds in output.rounds for prompt, _ in rounds)  # the id of <think>


def test_a_model_loaded_with_remote_code_generates_rounds_by_itself(folder, parts):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    inputs = batch(parts[1], ASKED)
    plain = model.generate(**inputs, tokenizer=parts[1], do_sample=False)
    assert torch.equal(plain, generated(parts, folder, return_dict_in_generate=False))
    inputs = batch(parts[1], ASKED, side="right")
    right = model.generate(**inputs, tokenizer=parts[1], do_sample=False, return_dict_in_generate=True)
    assert right.rounds == generated(parts, folder).rounds


def test_a_streamer_gets_the_question_and_all_rounds_as_one_stream(parts, folder):
    tokenizer = parts[1]
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=120)
    thread = threading.Thread(target=generated, args=(parts, folder, ASKED[:1]), kwargs={"streamer": streamer})
    thread.start()
    text = "".join(streamer)
    thread.join()
    rounds = generated(parts, folder, ASKED[:1]).rounds[0]
    assert len(rounds) > 1
    assert text == "".join(tokenizer.decode(ids) for _, ids in rounds)


class StopAt(StoppingCriteria):
    """Stops rows whose newest token is this one."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **_):
        return input_ids[:, -1] == self.token


class Count(LogitsProcessor):
    calls = 0

    def __call__(self, input_ids, scores):
        Count.calls += 1
        return scores


def test_criteria_and_processors_reach_every_round(parts, folder):
    tokenizer = parts[1]
    box = tokenizer.convert_tokens_to_ids("\\boxed{")
    free = generated(parts, folder)
    output = generated(
        parts, folder, stopping_criteria=StoppingCriteriaList([StopAt(box)]),
        logits_processor=LogitsProcessorList([Count()]),
    )  # fmt: skip
    assert "stopped" in output.stop_reason
    for before, rounds, reason in zip(free.rounds, output.rounds, output.stop_reason, strict=True):
        assert rounds[:-1] == before[: len(rounds) - 1]
        if reason == "stopped":
            last = before[len(rounds) - 1][1]
            assert rounds[-1][1] == last[: last.index(box) + 1]
    assert Count.calls >= max(sum(len(ids) for _, ids in rounds) for rounds in output.rounds)
    config = GenerationConfig(
        do_sample=False, return_dict_in_generate=True, max_new_tokens=MOST, stop_strings=["\\boxed{"]
    )  # fmt: skip
    words = parts[0].generate(
        **batch(tokenizer, ASKED), generation_config=config, tokenizer=tokenizer, custom_generate=str(folder),
        trust_remote_code=True,
    )  # fmt: skip
    assert config.stop_strings == ["\\boxed{"]
    assert words.rounds == output.rounds and words.stop_reason == output.stop_reason


def test_what_rounds_cannot_do_is_refused(parts, folder, tmp_path):
    model, tokenizer = parts
    for arguments, message in {
        ("max_length", 90): "`max_length` can't be used with rounds: it counts prompt and output",
        ("output_scores", True): "they are not kept across rounds",
        ("streamer", TextIteratorStreamer(tokenizer)): "a streamer takes one question at a time, not 5",
        ("tokenizer", None): "give `tokenizer=tokenizer` to generate",
    }.items():
        inputs = batch(tokenizer, ASKED) | {"tokenizer": tokenizer} | dict([arguments])
        with pytest.raises(ValueError, match=message):
            model.generate(**inputs, custom_generate=str(folder), trust_remote_code=True)
    elsewhere = AutoModelForCausalLM.from_config(copy.deepcopy(model.config))
    elsewhere.config._name_or_path = ""
    with pytest.raises(ValueError, match=r"the model's source '' has no protocol\.json"):
        generated((elsewhere, tokenizer), folder)
    assert generated((elsewhere, tokenizer), folder, protocol=str(folder), max_new_tokens=4).rounds
    with pytest.warns(UserWarning, match="leaves no room in a context of 192"):
        output = generated(parts, folder, ["a=1 " + "b+2 " * 100 + "?", ASKED[0]])
    assert output.stop_reason[0] == "failed" and output.rounds[0] == [] and output.rounds[1]


def closure(names):
    """Installed distributions that these need, by what they say of themselves."""
    found, waiting = {}, list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        needs = (need for need in found[name].requires or [] if "extra ==" not in need)
        waiting += [re.match(r"[\w.-]+", need).group() for need in needs]
    return found.values()


CLEAN = """
import importlib.util, runpy, sys
site, script, *arguments = sys.argv[1:]
sys.path.append(site)
present = [n for n in ("trl", "vllm", "peft", "accelerate", "rollout", "rl") if importlib.util.find_spec(n)]
assert not present, present
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""


def test_where_only_transformers_is_installed_the_tokens_are_ours(parts, folder, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for distribution in closure(["torch", "transformers"]):
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            target = site / name
            if not target.exists():
                target.symlink_to(distribution.locate_file(name))
    request = {"questions": ASKED, "max_tokens": MOST, "dtype": "float32", "batch_size": 64}
    answer = tmp_path / "answer.json"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CLEAN, site, PACKAGE / "plain_transformers.py", folder, answer],
        input=json.dumps(request), capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    theirs = [[tuple(part) for part in row["rounds"]] for row in json.loads(answer.read_text())]
    assert theirs == [rounds_of(episode) for episode in rolled_out(parts, RoundProtocol.load(folder))]
