"""Models, variants and data sets become rows and files; engines change models. A fake engine, a real tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rl.evaluation import engines
from rl.evaluation.cache import digest_of
from rl.evaluation.engines import Engines
from rl.evaluation.measure import Evaluation, Plan, remarks
from rl.evaluation.models import EvalModel, open_models
from rl.evaluation.sets import DataSet
from rl.evaluation.variants import make_variants
from rollout.protocol import get_protocol
from rollout.types import Completion, Sampling

PROTOCOL = get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=2)


class Concluding:
    """Answers every question with the letter B. Refuses those that have a `z`."""

    def __init__(self, tokenizer, log=None):
        self.tokenizer, self.waiting, self.log = tokenizer, [], [] if log is None else log

    def submit(self, request_id, prompt_ids, sampling):
        self.waiting.append((request_id, "z" in self.tokenizer.decode(prompt_ids)))

    def poll(self):
        done, self.waiting = self.waiting, []
        ids = [*self.tokenizer.encode("<think>\nb:+1=2\n</think>\\boxed{B}"), self.tokenizer.eos_token_id]
        return [
            Completion(n, [], None, "error", "no z here") if refused else Completion(n, ids, None, "stop")
            for n, refused in done
        ]

    def sync_weights(self, weights):
        self.log.append(f"weights of {weights}")

    def close(self):
        self.log.append("closed")


def copy_of(model, folder, protocol=PROTOCOL) -> str:
    folder.mkdir(parents=True)
    for path in Path(model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    if protocol:
        protocol.save(folder)
    return str(folder)


@pytest.fixture
def models(tiny_model, tmp_path):
    return open_models([copy_of(tiny_model, tmp_path / "one/final"), copy_of(tiny_model, tmp_path / "two")], digest_of)


def evaluate(models, datasets, folder, tokenizer, variants=None, k=(1, 2)):
    plan = Plan(variants or make_variants({}), 2, Sampling(32, seed=0), 2, k, {"kind": "fake"})
    return Evaluation(plan, lambda *_: Concluding(tokenizer), lambda _: None, None, folder).run(models, datasets)


LETTERS = DataSet("letters", [{"question": q, "answer": "B"} for q in ("a ?", "z ?")], "f.jsonl", "choice")
NUMBERS = DataSet("num/bers", [{"question": "a ?", "answer": "2"}], "n.jsonl")


def test_rows_files_and_what_is_said_of_failures(models, tmp_path, tokenizer, capsys):
    variants = make_variants({"protocol": ["inftythink", "vanilla"]})
    rows = evaluate(models[:1], [LETTERS, NUMBERS], tmp_path / "out", tokenizer, variants)
    assert [(r["label"], r["dataset"], r["accuracy"], r["failed"]) for r in rows] == [
        ("inftythink", "letters", 0.5, 2), ("inftythink", "num/bers", 0.0, 0),
        ("vanilla", "letters", 0.5, 2), ("vanilla", "num/bers", 0.0, 0),
    ]  # fmt: skip
    names = {path.stem for path in (tmp_path / "out/episodes").iterdir()}
    assert {r["episodes"] for r in rows} == names and rows[0]["stage"] in rows[0]["episodes"]
    assert rows[3]["episodes"].endswith("_vanilla_num-bers") and rows[1]["episodes"].endswith("one_num-bers")
    said = capsys.readouterr().out
    assert (
        said.startswith("| data set | model | run as |")
        and said.count("counted as wrong") == 2
        and "unjudged" not in said
    )
    evaluate(models[:1], [LETTERS], tmp_path / "out", tokenizer)  # the others' files go, their rows are gone
    assert {path.stem for path in (tmp_path / "out/episodes").iterdir()} == {rows[0]["episodes"]}
    assert len(json.loads((tmp_path / "out/summary.json").read_text())) == 1
    assert remarks(rows)[0] == "latency: seconds per episode, with 4 episodes in flight"
    assert rows[0]["failures"] == {"no z here": 2} and remarks(rows)[-1] == "failed, 4 times: no z here"


def test_what_can_not_be_measured_is_said_before_anything_is_sampled(models, tiny_model, tmp_path, tokenizer):
    bare = open_models([copy_of(tiny_model, tmp_path / "bare", None)], digest_of)
    with pytest.raises(ValueError, match=r"has no protocol\.json: name a protocol, as --protocol vanilla"):
        evaluate([*models, *bare], [LETTERS], tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()
    rows = evaluate(bare, [LETTERS], tmp_path / "out", tokenizer, make_variants({"protocol": ["inftythink"]}))
    assert rows[0]["protocol"] == "inftythink"
    vanilla = [models[0].under(get_protocol("vanilla"))]
    with pytest.raises(ValueError, match="control summaries, but vanilla"):
        evaluate(vanilla, [LETTERS], tmp_path / "out", tokenizer, make_variants({"summarize_at": ["fixed:4"]}))
    with pytest.raises(ValueError, match="choise"):
        evaluate(models, [replace(LETTERS, verifier="choise")], tmp_path / "none", tokenizer)
    assert not (tmp_path / "none").exists()
    plan = Plan(make_variants({"summarizer": ["model", "some/model"]}), 2, Sampling(8), 2, (1,), {"kind": "server"})
    with pytest.raises(ValueError, match="the servers load one model at a time"):
        Evaluation(plan, None, None, None, tmp_path).run(models, [LETTERS])
    both = [{"url": f"http://{host}:1", "model": "m"} for host in "ab"]
    same = make_variants({"summarizer": ["model", *both]})
    with pytest.raises(ValueError, match=r"two rows have the same name '.*, inftythink, summarizer m'"):
        evaluate(models, [LETTERS], tmp_path / "none", tokenizer, same)
    with pytest.raises(ValueError, match="k is 3 with 2 samples"):
        evaluate(models, [LETTERS], tmp_path / "out", tokenizer, k=(3,))


def test_an_engine_changes_weights_where_only_they_differ_and_else_starts_anew(
    models, tokenizer, tmp_path, monkeypatch
):
    log: list[str] = []
    monkeypatch.setattr(engines, "_weights", lambda model: model.name)
    other = EvalModel("other", models[0].folder, PROTOCOL, "another hash")
    wide = EvalModel("wide", tmp_path, PROTOCOL, "a third hash")
    (tmp_path / "config.json").write_text('{"hidden_size": 4096}')
    monkeypatch.setattr(EvalModel, "tokenizer", lambda self: tokenizer)

    def start(model, _):
        log.append(f"started with {model.name}")
        return Concluding(tokenizer, log)

    made = Engines(start, exchange=True)
    beside = made.beside(other, tokenizer)
    assert made.of(models[0]) is made.of(models[0]) is made.of(other)
    beside.start()
    made.of(wide)
    made.close()
    assert log == [
        f"started with {models[0].name}", "weights of other", "started with other", "closed", "closed",
        "started with wide", "closed",
    ]  # fmt: skip
    log.clear()
    ending = tmp_path / "ending"
    copy_of(models[0].folder, ending)
    (ending / "generation_config.json").write_text('{"eos_token_id": [1, 5]}')  # the engine reads it as it starts
    made = Engines(start, exchange=True)
    made.of(models[0])
    made.of(EvalModel("ending", ending, PROTOCOL, "a fourth hash"))
    assert log == [f"started with {models[0].name}", "closed", "started with ending"]
    log.clear()
    mixture = tmp_path / "mixture"
    copy_of(models[0].folder, mixture)
    settings = json.loads((mixture / "config.json").read_text()) | {"num_experts": 8}
    (mixture / "config.json").write_text(json.dumps(settings))
    made = Engines(start, exchange=True)
    made.of(EvalModel("sparse", mixture, PROTOCOL, "a fifth hash"))
    made.of(EvalModel("trained", mixture, PROTOCOL, "a sixth hash"))
    assert log == ["started with sparse", "closed", "started with trained"]
    log.clear()
    servers = Engines(start, exchange=False)  # they read each model's folder for themselves
    servers.of(models[0])
    servers.of(other)
    assert log == [f"started with {models[0].name}", "closed", "started with other"]
