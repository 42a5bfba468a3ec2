"""The data stage as a whole: its tables, its going on, its report, its way to SFT."""

from __future__ import annotations

import json
import random
import time

import pyarrow.parquet as pq
import pytest

from rollout.protocol import get_protocol
from sft.data.card import write_card
from sft.data.contamination import Contamination
from sft.data.parts import BATCH
from sft.data.prepare import DataStage
from sft.data.report import make_report
from sft.data.settings import DataSettings, SummarizerSettings
from sft.data.show import show_rounds
from sft.data.sources import Source
from sft.data.writers import FunctionWriter
from sft.tokens import encode_round, fingerprint_of, read_rounds, tokenize_rounds
from tests.bpe_model import build_tokenizer

PROTOCOL = get_protocol("inftythink", segment_tokens=64, summary_tokens=24, max_rounds=8)


def make_stage(rows, folder, protocol, tokenizer, summarize, settings=None, concurrency=1, contamination=None, **asked):
    settings, summarizer = settings or DataSettings(), SummarizerSettings(fn="f", **asked)
    source = rows if isinstance(rows, Source) else Source("made up", lambda start: iter(rows[start:]), len(rows))
    return DataStage(
        source, folder, protocol, tokenizer, settings, summarizer,
        lambda say: summarize and FunctionWriter(summarize, "f", concurrency), contamination, concurrency, seed=0,
    )  # fmt: skip


def make_data(rows, folder, protocol, tokenizer, summarize, settings=None, **further):
    stage = make_stage(rows, folder, protocol, tokenizer, summarize, settings, **further)
    stage.run()
    stage.join()
    return make_report(folder, protocol.max_rounds, None)


def tables(folder):
    return {
        "rounds": pq.read_table(folder / "dataset/rounds").to_pylist(),
        "vanilla": pq.read_table(folder / "dataset/vanilla").to_pylist(),
        "traces": pq.read_table(folder / "traces.parquet").to_pylist(),
    }


def made_up(count, seed=0, paragraphs=12):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        lines = [
            f"Step {n}: take {rng.randrange(1000)} and add {rng.randrange(1000)}. Fine." for n in range(paragraphs)
        ]
        text = "\n\n".join(lines)
        question = f"What is number {number} of {rng.randrange(10**6)}?"
        rows.append(
            {"question": question, "answer": str(number), "trace": f"<think>\n{text}\n</think>\n\\boxed{{{number}}}"}
        )
    return rows


def short(question, previous, segment):
    return f"after {previous or 'nothing'}"[:20] + segment.split(":")[0][-10:]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("bpe"), [row["trace"] for row in made_up(50)], 400)


def write_some_card(data):
    report = json.loads((data / "report.json").read_text())
    write_card(
        data / "dataset", report, name="n", load="n", source="s", model="m", eta=64, gamma=24, summarizer="f",
        license="mit",
    )  # fmt: skip


def test_an_interrupted_stage_goes_on_and_any_concurrency_gives_the_same(bpe, tmp_path):
    rows = made_up(3 * BATCH + 10, paragraphs=6)
    calls, limit = [], [10**6]

    def slow(question, previous, segment):
        if len(calls) >= limit[0]:
            raise KeyboardInterrupt
        calls.append((question, previous))
        time.sleep(random.random() / 2000)
        return short(question, previous, segment)

    whole = make_data(rows, tmp_path / "whole", PROTOCOL, bpe, slow)
    asked = len(calls)
    calls.clear()
    limit[0] = 700
    with pytest.raises(KeyboardInterrupt):
        make_stage(rows, tmp_path / "again", PROTOCOL, bpe, slow).run()
    limit[0] = 10**6
    assert len(list((tmp_path / "again/parts").glob("traces-*.parquet"))) >= 1, "a finished batch is on disk"
    again = make_data(rows, tmp_path / "again", PROTOCOL, bpe, slow, concurrency=16)
    assert tables(tmp_path / "again") == tables(tmp_path / "whole")
    assert again == whole and whole["kept"] == len(rows)
    assert len(calls) == asked, "no summary was made twice"


def test_a_batch_that_is_late_holds_up_none_after_it(bpe, tmp_path):
    """Batches are written as they end: a stage that was stopped with a gap fills it."""
    rows = made_up(3 * BATCH, paragraphs=6)
    make_data(rows, tmp_path, PROTOCOL, bpe, short)
    before = tables(tmp_path)
    for path in (tmp_path / "parts").glob("*-0000001.parquet"):
        path.unlink()
    stage = make_stage(rows, tmp_path, PROTOCOL, bpe, short)
    assert stage.parts.finished() == {0, 2}
    stage.run()
    stage.join()
    assert tables(tmp_path) == before


def test_every_trace_has_a_fate_and_the_report_counts_it(bpe, tmp_path):
    rows = made_up(8)
    rows[1]["answer"] = "999"
    rows[2] = {"text": "what is this"}
    rows[3]["trace"] = rows[3]["trace"].replace("</think>", "")
    rows[4] = dict(rows[0])
    rows[5]["trace"] = "<think>\nshort\n</think>\n\\boxed{5}"

    def sometimes(question, previous, segment):
        return "word " * 40 if "number 6 " in question else short(question, previous, segment)

    report = make_data(rows, tmp_path, PROTOCOL, bpe, sometimes)
    assert report["kept"] == 3 and report["traces"] == 8 and report["rounds_per_trace"]["1"] == 1
    assert report["dropped"] == {
        "answer does not verify": 1, "unreadable: no known format: columns text": 1,
        "unreadable: thinking not closed": 1, "exact duplicate": 1, "summary: over its limit": 1,
    }  # fmt: skip
    reasons = {row["row"]: row["reason"] for row in tables(tmp_path)["traces"]}
    assert all(reasons[row] for row in (1, 2, 3, 4, 6)) and not any(reasons[row] for row in (0, 5, 7))
    text = (tmp_path / "report.md").read_text()
    assert "| summary: over its limit | 1 |" in text and "what is this" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"lengths.png", "rounds.png", "dropped.png"}


def test_batches_of_different_sources_do_not_mix(bpe, tmp_path):
    rows = made_up(BATCH + 4, paragraphs=2)
    make_data(rows, tmp_path, PROTOCOL, bpe, short)
    (tmp_path / "parts/traces-0000000.parquet").unlink()
    stage = make_stage(Source("grown", lambda start: iter(rows), None, state="other"), tmp_path, PROTOCOL, bpe, short)
    with pytest.raises(ValueError, match="the source changed since this data stage began"):
        stage.run()
    evaluation = Contamination({"e": ["a question that nobody else ever asks in these rows"]})
    with pytest.raises(ValueError, match="the evaluation sets changed"):
        make_stage(rows, tmp_path, PROTOCOL, bpe, short, contamination=evaluation).run()
    with pytest.raises(ValueError, match="the summarizer changed"):
        make_stage(rows, tmp_path, PROTOCOL, bpe, lambda q, p, s: "x").run()
    assert make_data(rows, tmp_path, PROTOCOL, bpe, short)["kept"] == len(rows)


def test_a_failed_selection_leaves_no_half_question(bpe, tmp_path):
    class Breaks(Contamination):
        def find(self, question):
            if "number 2 " in question:
                raise MemoryError
            return super().find(question)

    rows = made_up(4)
    with pytest.raises(MemoryError):
        make_stage(rows, tmp_path, PROTOCOL, bpe, short, contamination=Breaks({})).run()
    stage = make_stage(rows, tmp_path, PROTOCOL, bpe, short)
    assert stage._questions.execute("SELECT count(*) FROM duplicate_questions").fetchone() == (0,)
    stage.run()


def test_what_this_model_can_not_take_is_dropped(bpe, tmp_path):
    rows = made_up(3, paragraphs=2)
    rows[0]["trace"] = rows[0]["trace"].replace("Step 1", "<|im_end|> Step 1")
    answer = {"role": "assistant", "content": rows[1]["trace"]}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is number 1?"}, answer]
    rows[1] = {"messages": turns, "answer": "1"}
    template = bpe.chat_template
    try:
        bpe.chat_template = (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template
        )
        report = make_data(rows, tmp_path, PROTOCOL, bpe, short)
    finally:
        bpe.chat_template = template
    assert report["kept"] == 1 and report["dropped"] == {
        "holds a special token of the tokenizer": 1, "the chat template refuses its messages": 1,
    }  # fmt: skip


def test_verified_is_what_the_verifier_found(bpe, tmp_path):
    rows = made_up(3, paragraphs=2)
    del rows[0]["answer"]
    assert make_data(rows, tmp_path / "a", PROTOCOL, bpe, short)["not_verified"] == 1
    assert make_data(rows, tmp_path / "b", PROTOCOL, bpe, short, DataSettings(verify="never"))["not_verified"] == 3


def test_eta_is_drawn_for_each_trace(bpe, tmp_path):
    rows = made_up(20)
    make_data(rows, tmp_path / "range", PROTOCOL, bpe, short, DataSettings(segment_tokens_range=[40, 64]))
    etas = [row["eta"] for row in tables(tmp_path / "range")["traces"]]
    assert len(set(etas)) > 5 and set(etas) <= set(range(40, 65))
    make_data(rows[::-1], tmp_path / "turned", PROTOCOL, bpe, short, DataSettings(segment_tokens_range=[40, 64]))
    assert [row["eta"] for row in tables(tmp_path / "turned")["traces"]] == etas[::-1]
    make_data(rows, tmp_path / "choices", PROTOCOL, bpe, short, DataSettings(segment_tokens_choices=[40, 50]))
    assert {row["eta"] for row in tables(tmp_path / "choices")["traces"]} == {40, 50}


def test_other_protocols_keep_the_trace_whole(bpe, tmp_path):
    for name in ("vanilla", "delethink"):
        protocol = get_protocol(name, segment_tokens=64, carry_tokens=32)
        report = make_data(made_up(3), tmp_path / name, protocol, bpe, None)
        assert report["rounds"] == 3
        rounds = list(read_rounds(tmp_path / name, protocol))
        assert [r.completion for r in rounds] == [row["trace"] for row in made_up(3)]


def test_a_template_that_opens_the_thinking_gets_it_once(bpe, tmp_path):
    template = bpe.chat_template
    try:
        bpe.chat_template = template.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
        for name in ("vanilla", "inftythink"):
            protocol = get_protocol(name, segment_tokens=64, summary_tokens=24)
            make_data(made_up(2), tmp_path / name, protocol, bpe, short)
            for item in read_rounds(tmp_path / name, protocol):
                assert bpe.decode(encode_round(item, protocol, bpe)["input_ids"]).count("<think>") == 1
            for row in tables(tmp_path / name)["vanilla"]:
                assert (row["prompt"] + row["completion"]).count("<think>") == 1
        bpe.chat_template = template  # another model, on rounds that this one made
        protocol = get_protocol("vanilla")
        for item in read_rounds(tmp_path / "inftythink", protocol):
            assert bpe.decode(encode_round(item, protocol, bpe)["input_ids"]).count("<think>") == 1
    finally:
        bpe.chat_template = template


def test_no_summarizer_is_one_line(bpe, tmp_path):
    with pytest.raises(ValueError, match="summarizer is missing"):
        make_data(made_up(2), tmp_path, PROTOCOL, bpe, None)


def test_show_prints_rounds(bpe, tmp_path, capsys):
    make_data(made_up(2), tmp_path, PROTOCOL, bpe, short)
    show_rounds(tmp_path, 1)
    out = capsys.readouterr().out
    assert out.count("trace 1 ") == 1 and "trace 2" not in out
    assert "history:\n  after nothing" in out and "conclusion:\n  \\boxed{0}" in out
    with pytest.raises(ValueError, match="no finished data"):
        show_rounds(tmp_path / "nowhere", 1)


def test_rows_for_sft_are_made_once(bpe, tmp_path):
    make_data(made_up(4), tmp_path, PROTOCOL, bpe, short)
    name = fingerprint_of(tmp_path, PROTOCOL, bpe)
    first, _ = tokenize_rounds(read_rounds(tmp_path, PROTOCOL), PROTOCOL, bpe, None, tmp_path / "tokens", name)
    second, _ = tokenize_rounds(iter([]), PROTOCOL, bpe, None, tmp_path / "tokens", name)
    assert first.to_list() == second.to_list()
    assert fingerprint_of(tmp_path, PROTOCOL.replace(chat=False), bpe) != name
    lengths = sorted(map(len, first["input_ids"]))
    kept, too_long = tokenize_rounds(read_rounds(tmp_path, PROTOCOL), PROTOCOL, bpe, lengths[5])
    assert len(kept) == sum(n <= lengths[5] for n in lengths) == len(first) - too_long
    with pytest.raises(ValueError, match=r"longer than sft\.max_length=3"):
        tokenize_rounds(read_rounds(tmp_path, PROTOCOL), PROTOCOL, bpe, 3)
