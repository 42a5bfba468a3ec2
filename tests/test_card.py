"""The model card: front matter that the Hub's own loader takes, and code that runs as it stands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from jinja2 import Environment, meta
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.chains.task import questions
from rl.app.run_config import parse_config
from rl.evaluation.evaluate import format_table
from rl.exporting.card import TEMPLATE, write_card
from rl.exporting.export import export_model
from rl.exporting.run_facts import hub_id, license_of, run_facts, shown
from rollout.episodes import run_episodes
from rollout.hf_engine import TransformersEngine
from rollout.protocol import RoundProtocol, get_protocol
from rollout.types import Sampling, StopReason, Task
from tests.hub_server import HubServer, hub_environment

ROOT = Path(__file__).resolve().parents[1]
MAX_TOKENS = 32
CONFIG = {
    "name": "r",
    "seed": 7,
    "model": {"path": "Qwen/Qwen3-0.6B", "lora": {"r": 8}},
    "protocol": {"name": "inftythink", "segment_tokens": 12, "summary_tokens": 4, "max_rounds": 5},
    "data": {
        "traces": {"source": "open-thoughts/OpenThoughts-114k", "split": "train"},
        "questions": "/home/someone/questions.jsonl",
        "eval": {
            "math": "MATH-500",
            "mine": {"source": "me/sums", "name": "hard", "split": "test"},
            "local": "a.jsonl",
        },
    },
    "sft": {"learning_rate": 2e-5, "max_steps": 40},
    "rl": {"learning_rate": 1e-6, "num_generations": 8},
    "rewards": [{"fn": "answer"}, {"fn": "iteration_decay", "combine": "multiply"}],
    "export": {"license": "apache-2.0", "language": ["en"]},
}
SETTINGS = {"samples": 4, "temperature": 0.7, "top_p": 0.95, "max_tokens": MAX_TOKENS, "max_rounds": 5}


def row(stage, dataset, accuracy, **further):
    return {
        "stage": stage, "protocol": "inftythink", "dataset": dataset, "samples": 4, "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05], "rounds_mean": 2.0, "tokens_mean": 30.0,
        "peak_context_mean": 40.0, "stops": {"answered": 0.9, "truncated": 0.1}, **further,
    }  # fmt: skip


SUMMARY = [
    row("sft", "math", 0.25),
    row("rl", "math", 0.5, pass_at_k={"4": {"value": 0.75, "ci95": [0.7, 0.8]}}),
    row("rl", "mine", 0.125),
    row("rl", "local", 0.625),
]


@pytest.fixture
def run(tmp_path):
    """A run's folder, as far as the card reads it."""
    folder = tmp_path / "runs" / "r"
    (folder / "data").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(parse_config(CONFIG).to_dict()))
    lines = [{"stage": "sft", "step": 40}, {"stage": "rl", "step": 10}, {"stage": "rl", "step": 30}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "r')
    report = {
        "kept": 90,
        "traces": 100,
        "rounds": 250,
        "dropped": {"too_long": 10},
        "decontaminated": ["data.eval.math"],
    }
    (folder / "data/report.json").write_text(json.dumps({**report, "tokens": {"segment": {"median": 9, "max": 12}}}))
    return folder


def card(folder, **arguments):
    get_protocol(**CONFIG["protocol"]).save(folder)
    arguments = {"name": "me/r", "repo_id": "me/r", "summary": SUMMARY, "eval_settings": SETTINGS, **arguments}
    return ModelCard.load(write_card(folder, **arguments))


def test_front_matter_is_the_hubs_own_and_comes_back_whole(run, tmp_path):
    data = card(tmp_path, run=run_facts(run)).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "apache-2.0")
    assert data.base_model == "Qwen/Qwen3-0.6B" and data.datasets == ["open-thoughts/OpenThoughts-114k"]
    assert data.language == ["en"] and {"sawtooth", "inftythink", "grpo", "custom_generate"} <= set(data.tags)
    assert [(r.dataset_type, r.dataset_name, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("HuggingFaceH4/MATH-500", "math", "accuracy", 50.0), ("HuggingFaceH4/MATH-500", "math", "pass@4", 75.0),
        ("me/sums", "mine", "accuracy", 12.5), ("local", "local", "accuracy", 62.5),
    ]  # fmt: skip
    first, _, mine, _ = data.eval_results
    assert isinstance(first, EvalResult) and first.metric_name == "avg@4 (%, 95% interval 45.0 to 55.0)"
    assert first.metric_args == {"ci95": [45.0, 55.0], **SETTINGS}
    assert first.source_url == "https://huggingface.co/me/r/blob/main/eval_summary.json"
    assert (mine.dataset_config, mine.dataset_split) == ("hard", "test")
    again = tmp_path / "again.md"
    ModelCard.load(tmp_path / "README.md").save(again)
    assert ModelCard.load(again).data.to_dict() == data.to_dict()


def test_text_tells_how_it_was_made_and_nothing_of_the_machine(run, tmp_path):
    text = card(tmp_path, run=run_facts(run), pictures=[Path("somewhere/accuracy.png")]).text
    assert format_table(SUMMARY) in text and "4 samples per question, temperature 0.7, top-p 0.95; at most 5" in text
    for line in (
        "| rewards | `answer`, `iteration_decay` (combine multiply) |", "| LoRA (merged) | r 8 |", "| seed | 7 |",
        "| steps | 40 | 30 |", "| learning rate | 2e-05 | 1e-06 |", "| episodes per question | – | 8 |",
        "* 90 of 100 traces used, 250 rounds", "* RL questions: `questions.jsonl`", "![accuracy](accuracy.png)",
        "* How episodes ended on math: answered 90.0 %, truncated 10.0 %.", "2503.06692", "2602.06960",
    ):  # fmt: skip
        assert line in text, line
    assert "/home/" not in text and re.search(r"transformers \d+\.\d+", text)


def test_only_what_rls_model_reached_is_called_its_own(run, tmp_path):
    base = row("base", "math", 0.1, stops={"truncated": 1.0})
    found = card(tmp_path, summary=[*SUMMARY, base], run=run_facts(run))
    assert [r.metric_value for r in found.data.eval_results] == [50.0, 75.0, 12.5, 62.5]
    assert "truncated 100.0 %" not in found.text
    assert card(tmp_path, summary=[base], run=run_facts(run)).data.eval_results is None
    switched = row("rl", "math", 0.3, label="vanilla")
    _, _, theirs = card(tmp_path, summary=[*SUMMARY[1:2], switched], run=run_facts(run)).data.eval_results
    assert theirs.metric_name.endswith(", vanilla") and "max_tokens" not in theirs.metric_args


def test_a_plugins_paths_addresses_and_keys_stay_here(run, tmp_path):
    facts = run_facts(run)
    judge = {"fn": "/home/me/judge.py:score", "weight": 0.5, "url": "http://10.0.0.7:8000", "api_key": "sk1"}
    facts["config"]["rewards"] = [judge | {"headers": {"x": "sk2"}, "gate": {"min_accuracy": 0.5}}]
    facts["config"]["data"]["traces"] = "https://me:pw@host/a/b.jsonl?token=sk3"
    text = card(tmp_path, run=facts).text
    assert "`judge.py:score` (weight 0.5, gate {'min_accuracy': 0.5})" in text and "* traces: `b.jsonl`" in text
    assert not [secret for secret in ("sk1", "sk2", "sk3", "10.0.0.7", "pw@", "/home/") if secret in text]


def test_what_is_not_known_is_not_said(run, tmp_path):
    plain = card(tmp_path, summary=[], eval_settings={}, run=None, repo_id=None)
    assert plain.data.eval_results is None and plain.data.license is None and "grpo" not in plain.data.tags
    assert "Not evaluated." in plain.text and "No license has been chosen" in plain.text
    sft = card(tmp_path, summary=[], run=run_facts(run, stage="sft", step=20)).text
    assert "GRPO" not in sft and "| steps | 20 |" in sft and "at step 20. Not evaluated." in sft


def test_sources_and_licenses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id("GSM8K") == "openai/gsm8k" and hub_id({"source": "me/sums", "split": "x"}) == "me/sums"
    assert [hub_id(s) for s in ("data/a.jsonl", "task.py:rows", "lone", "/a/b", "")] == [None] * 5
    Path("me").mkdir()
    Path("me/sums").write_text("")
    assert hub_id("me/sums") is None  # a local file of that name comes first
    assert shown("/home/x/a.jsonl") == "a.jsonl" and shown({"source": "data/a.jsonl"}) == "data/a.jsonl"
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    config = parse_config({**CONFIG, "model": {"path": str(base)}, "export": {}}).to_dict()
    assert license_of(config) == "mit"
    assert license_of({**config, "model": {"path": "me/absent"}}) is None


@pytest.mark.parametrize("kind", ["inftythink", "vanilla", "delethink"])
def test_every_protocol_has_code(kind, tmp_path):
    (tmp_path / "config.json").write_text('{"dtype": "float32"}')
    (tmp_path / "chat_template.jinja").write_text("<think>")
    spoken = [{"role": "user", "content": 'it\'s {{ 2 }} \\ "é"?\n```'}]
    for chat, question in ((True, spoken), (True, "2 + 2 ?"), (False, "2 + 2 ?"), (False, spoken)):
        get_protocol(kind, chat=chat, segment_tokens=64, carry_tokens=8).save(tmp_path)
        path = write_card(tmp_path, name="me/r", repo_id="me/r", question=question)
        plain, vllm = code_of(tmp_path)
        for code in (plain, vllm):
            compile(code, "card", "exec")
            assert repr(question) in code and ("apply_chat_template" in code) == (chat or question is spoken)
        assert 'LLM("me/r", dtype="float32")' in vllm
        assert ('prompt = re.sub(r"<think>\\s*$", "", prompt)' in vllm) == (kind == "inftythink")
        body = re.search(r" -d (.*)", path.read_text())[1]
        said = subprocess.run(["sh", "-c", f"printf %s {body}"], capture_output=True, text=True).stdout
        messages = question if question is spoken else [{"role": "user", "content": question}]
        assert json.loads(said) == {"model": "me/r", "messages": messages}


def test_the_template_uses_no_unknown_variable(run, tmp_path, monkeypatch):
    """An unknown one is rendered as nothing."""
    given = {}
    monkeypatch.setattr(ModelCard, "from_template", lambda data, **kwargs: given.update(kwargs) or ModelCard("text"))
    card(tmp_path, run=run_facts(run))
    assert meta.find_undeclared_variables(Environment().parse(TEMPLATE.read_text())) <= {"card_data", *given}


@pytest.fixture(scope="module")
def exported(rounds_model, tmp_path_factory):
    """(exported folder, the answer that greedy rounds give to the card's question)."""
    tokenizer = AutoTokenizer.from_pretrained(rounds_model)
    engine = TransformersEngine(AutoModelForCausalLM.from_pretrained(rounds_model, dtype="float32"), tokenizer)
    asked = [r["question"] for r in questions(40, seed=3, steps=[3, 6])]
    protocol, sampling = RoundProtocol.load(rounds_model), Sampling(max_tokens=MAX_TOKENS, temperature=0.0)
    episodes = run_episodes([Task(q) for q in asked], engine, protocol, tokenizer, sampling)
    one = next(e for e in episodes if e.stop_reason == StopReason.ANSWERED and e.num_rounds >= 3)
    folder = export_model(
        Path(rounds_model), tmp_path_factory.mktemp("card") / "model", name="me/r", repo_id=None, summary=[],
        eval_settings={"temperature": 0.7, "max_tokens": MAX_TOKENS}, question=one.question,
    )  # fmt: skip
    return folder, protocol.parse(one.final_text).conclusion.strip()


def code_of(folder):
    return re.findall(r"```python\n(.*?)^```$", (folder / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def execute(code, folder, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment = kept | {"HF_HOME": str(folder.parent / "home")} | environment
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip().splitlines()[-1]


def test_transformers_code_gives_the_answer_of_our_rounds(exported):
    folder, answer = exported
    assert execute(code_of(folder)[0], folder) == answer


@pytest.mark.slow
def test_vllm_code_gives_the_answer_of_our_rounds(exported):
    folder, answer = exported
    eager = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1"}
    assert execute(code_of(folder)[1], folder, **eager) == answer


def test_transformers_code_loads_model_and_rounds_from_the_hub(exported, tmp_path):
    folder, answer = exported
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    question = json.loads(re.search(r"-d '(.*)'", (folder / "README.md").read_text())[1])["messages"][0]["content"]
    write_card(copy, name="me/r", repo_id="me/r", question=question)
    hub = HubServer(tmp_path / "server")
    try:
        environment = hub_environment(hub, tmp_path)
        upload = "import sys; from pathlib import Path; from rl.exporting.upload import upload; " \
                 "upload(Path(sys.argv[1]), 'me/r', tag='r')"  # fmt: skip
        subprocess.run([sys.executable, "-c", upload, str(copy)], env=environment, check=True, capture_output=True)
        del environment["PYTHONPATH"]
        assert hub.repos["models/me/r"].private
        assert execute(code_of(copy)[0], tmp_path, **environment) == answer
    finally:
        hub.stop()
