"""The lm-evaluation-harness adapter: one of the harness's tasks on a real engine, and each request as an episode."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from transformers import AutoTokenizer

from examples.chains.task import questions
from rewards.answer import boxed_answers
from rl.evaluation import harness, harness_cli
from rl.evaluation.harness import SawtoothLM
from rollout.episodes import run_episodes
from rollout.protocol import RoundProtocol
from rollout.types import Sampling, StopReason, Task
from rollout.vllm_engine import VLLMEngine
from tests.conftest import ScriptedEngine
from tests.quiet import as_a_user, foreign

REPO = Path(__file__).resolve().parents[1]
TASK = """
include: {gsm8k}
task: gsm8k_chains
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{train: {data}, test: {data}}}}}
doc_to_text: "{{{{question}}}}"
num_fewshot: 0
"""
SETTINGS = {"dtype": "float32", "max_model_len": 160, "max_num_seqs": 64, "kv_cache_memory_bytes": 1 << 27}
TOKENS = 40  # of a round


@pytest.mark.slow
def test_gsm8k_on_local_questions_counts_what_run_episodes_gives(rounds_model, tmp_path):
    rows = questions(60, seed=9, steps=[1, 6])
    data = tmp_path / "chains.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gsm8k = Path(lm_eval.__path__[0]) / "tasks" / "gsm8k" / "gsm8k.yaml"
    (tmp_path / "task.yaml").write_text(TASK.format(gsm8k=gsm8k, data=data))
    environment = as_a_user(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    settings = [f"{key}={value}" for key, value in SETTINGS.items()]
    command = [
        *(sys.executable, "-m", "rl.app.cli", "lm-eval", rounds_model, "--tasks", str(tmp_path / "task.yaml")),
        *("--output_path", str(tmp_path / "results.json"), "--gen_kwargs", f"max_gen_toks={TOKENS}"),
        *("--model_args", *settings),
    ]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not foreign(done.stderr)
    (file,) = tmp_path.glob("results_*.json")
    results = json.loads(file.read_text())

    engine = VLLMEngine(rounds_model, **SETTINGS)
    try:
        episodes = run_episodes(
            [Task(row["question"]) for row in rows],
            engine,
            RoundProtocol.load(rounds_model),
            AutoTokenizer.from_pretrained(rounds_model),
            Sampling(max_tokens=TOKENS, temperature=0.0),
        )
    finally:
        engine.close()
    ended = [e.stop_reason == StopReason.ANSWERED for e in episodes]
    right = [
        ok and boxed_answers(e.final_text)[-1:] == [row["answer"]]
        for ok, e, row in zip(ended, episodes, rows, strict=True)
    ]
    assert 0 < sum(right) < len(rows), sum(right)
    assert results["results"]["gsm8k_chains"]["exact_match,flexible-extract"] == pytest.approx(sum(right) / len(rows))

    numbers = results["config"]["sawtooth"]["episodes"]["gsm8k_chains"]
    assert numbers["episodes"] == len(rows)
    assert numbers["episode/rounds/mean"] == pytest.approx(sum(e.num_rounds for e in episodes) / len(rows))
    assert numbers["episode/stop/answered"] == pytest.approx(sum(ended) / len(rows))
    assert f"gsm8k_chains: {len(rows)} episodes, " in done.stdout


class Recording(ScriptedEngine):
    """Keeps how each request samples."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sampled = []

    def submit(self, request_id, prompt_ids, sampling):
        self.sampled.append(sampling)
        super().submit(request_id, prompt_ids, sampling)


@pytest.fixture
def make(tiny_model, tokenizer, monkeypatch):
    def build(scripts, **arguments) -> tuple[SawtoothLM, Recording]:
        engine = Recording(tokenizer, scripts)
        monkeypatch.setattr(harness, "make_engine", lambda *_, **__: engine)
        return SawtoothLM(tiny_model, protocol="inftythink", max_rounds=2, **arguments), engine

    return build


def request(context, task="chains", **generation) -> Instance:
    return Instance("generate_until", {}, (context, generation), 0, (task, 0, 1))


def test_a_response_is_the_final_answer_up_to_its_stop_string(make):
    more = "<think>\nb:+1=2\n</think><summary>b=2</summary>"
    scripts = {
        "a=1": [more, "<think>\nc:end\n</think>\n\\boxed{2}\nQuestion: d"],
        "b=1": [("<think>\nc:+1=", "length")],
        "c=1": [more, more],
        "d=1": [("no such server", "error")],
    }
    lm, engine = make(scripts)
    kept = []
    lm.cache_hook.add_partial = lambda *arguments: kept.append(arguments)
    asked = [request(f"{name} ?", until=["Question:", "\n\n"], max_gen_toks=7) for name in scripts]
    assert lm.generate_until(asked, disable_tqdm=True) == ["\\boxed{2}\n", "", "", ""]
    assert {s.max_tokens for s in engine.sampled} == {7} and {s.temperature for s in engine.sampled} == {0.0}
    assert sorted(kept) == [
        ("generate_until", r.args, a) for r, a in zip(asked, ["\\boxed{2}\n", "", ""], strict=False)
    ]

    numbers = lm.get_model_info()["sawtooth"]["episodes"]["chains"]
    assert (numbers["episodes"], numbers["episode/rounds/max"]) == (4, 2)
    for reason in ("answered", "truncated", "max_rounds", "failed"):
        assert numbers[f"episode/stop/{reason}"] == 0.25
    assert numbers["failures"] == {"no such server": 1}


def test_a_sampled_response_depends_on_its_prompt_and_its_number(make):
    answer = "<think>\nx\n</think>1"

    def seeds(contexts):
        lm, engine = make({name: [answer] * 4 for name in ("a=1", "b=1")}, seed=3)
        lm.generate_until([request(f"{c} ?", do_sample=True, temperature=0.5, top_p=0.9) for c in contexts], True)
        assert {(s.temperature, s.top_p, s.max_tokens) for s in engine.sampled} == {(0.5, 0.9, 8192)}
        return [s.seed for s in engine.sampled]

    first, second, other = seeds(["a=1", "a=1", "b=1"])
    assert len({first, second, other}) == 3
    assert seeds(["b=1", "a=1", "a=1"]) == [other, first, second]


def test_requests_that_sample_differently_come_back_in_order(make):
    scripts = {name: [f"<think>\nx\n</think>{name}"] for name in ("a=1", "b=1", "c=1")}
    lm, _ = make(scripts)
    asked = [request("a=1 ?", "one"), request("b=1 ?", "two", max_gen_toks=9), request("c=1 ?", "one")]
    assert lm.generate_until(asked, disable_tqdm=True) == ["a=1", "b=1", "c=1"]
    assert {name: numbers["episodes"] for name, numbers in lm.statistics.items()} == {"one": 2, "two": 1}


def test_the_chat_template_is_applied_once(make, tokenizer):
    question = "a=1 b+1 ?"
    first, last = "<think>\nb:+1=2\n</think><summary>b=2</summary>", "<think>\nc:end\n</think>2"
    lm, engine = make({"a=1": [first, last, first, last]})
    prompt = lm.apply_chat_template([{"role": "user", "content": question}])
    protocol, *_ = lm._settings({})
    assert prompt == protocol.question_text(tokenizer, question)
    assert lm.generate_until([request(question), request(prompt)], disable_tqdm=True) == ["2", "2"]
    assert sorted(engine.prompts) == sorted(2 * [protocol.render_prompt(tokenizer, question, h) for h in (None, "b=2")])
    assert lm.chat_template(True) == tokenizer.chat_template
    with pytest.raises(ValueError, match="gen_prefix"):
        lm.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=False)
    with pytest.raises(ValueError, match="leave out the name"):
        lm.chat_template("tools")


def test_what_has_no_meaning_over_rounds_is_refused(make, tiny_model):
    lm, engine = make({})
    asked = [Instance("loglikelihood", {}, ("Q", " A"), 0, ("arc_challenge", 0, 1))]
    with pytest.raises(ValueError, match=r"^arc_challenge compares .* of type generate_until: arc_challenge_chat"):
        lm.loglikelihood(asked)
    with pytest.raises(ValueError, match=r"generation_kwargs.num_beams is not a setting"):
        lm.generate_until([request("a=1 ?", num_beams=4)])
    assert engine.sampled == []
    with pytest.raises(ValueError, match=r"no protocol.json: name a protocol"):
        SawtoothLM(tiny_model)
    with pytest.raises(ValueError, match=r"no setting 'max_toknes'"):
        SawtoothLM(tiny_model, protocol="vanilla", engine="transformers", max_toknes=3)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--limit", "3"], "--tasks is missing"),
        (["--model", "hf", "--tasks", "gsm8k"], "give the model as MODEL"),
    ],
)
def test_the_command_says_what_is_missing(further, message):
    with pytest.raises(ValueError, match=message):
        harness_cli.run_command(argparse.Namespace(model="m"), further)
