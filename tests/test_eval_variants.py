"""Switches become rows: protocols of any model, ablations, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from rl.app.cli import main
from rl.app.run_config import EvalSection
from rl.evaluation.variants import make_variants, read_protocol, read_vote
from rollout.protocol import get_protocol

OWN = get_protocol("inftythink", segment_tokens=32, summary_tokens=4, max_rounds=5, chat=False)


def labels(**switches):
    return [variant.label(variant.protocol.name if variant.protocol else "own") for variant in make_variants(switches)]


def test_the_first_values_are_the_base_line_and_each_further_one_varies_its_switch_alone():
    assert labels() == ["own"]
    assert labels(
        protocol=["inftythink", "vanilla", "delethink"], summarize_at=["model", "fixed:16", "random:8-24"],
        summarizer=["model", "some/model"], max_thinking=["none", "64"],
    ) == [
        "inftythink", "vanilla", "delethink", "inftythink, summarize-at fixed:16",
        "inftythink, summarize-at random:8-24", "inftythink, summarizer some/model", "inftythink, thinking at most 64",
    ]  # fmt: skip
    assert labels(min_thinking=[10, 20]) == ["own, thinking at least 10", "own, thinking at least 20"]


def test_old_spellings_are_accepted_but_not_shown(capsys):
    for names in (("--summarizer", "--summarize-at"), ("--who", "--when")):
        given = [names[0], "model", "w.py:f", names[1], "fixed:3"]
        assert main(["eval", "m", "--data", "d.jsonl", *given, "--dry-run"]) == 0
        settings = yaml.safe_load(capsys.readouterr().out)
        assert settings["summarizer"] == ["model", "w.py:f"] and settings["summarize_at"] == ["fixed:3"]
        assert "who" not in settings
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    shown = capsys.readouterr().out
    assert "--summarize-at" in shown and "--who" not in shown and "--when" not in shown


def test_summaries_are_varied_where_there_are_any():
    assert labels(protocol=["vanilla", "inftythink"], summarize_at=["model", "fixed:16"]) == [
        "vanilla", "inftythink", "inftythink, summarize-at fixed:16",
    ]  # fmt: skip
    both = labels(protocol=["inftythink", "vanilla"], summarize_at=["fixed:16"])
    assert both == ["inftythink, summarize-at fixed:16", "vanilla"]
    with pytest.raises(ValueError, match="summarize_at controls summaries, but vanilla has none"):
        make_variants({"protocol": ["vanilla"], "summarize_at": ["fixed:16"]})


def test_any_model_runs_under_any_protocol():
    vanilla, most = read_protocol("vanilla").resolve(OWN, 48, 5)
    assert (vanilla.max_rounds, vanilla.chat, most) == (1, False, 5 * 48)  # as much as all rounds together
    assert read_protocol("vanilla:max_tokens=100").resolve(OWN, 48, 5)[1] == 100
    delethink, most = read_protocol({"name": "delethink", "carry_tokens": 8}).resolve(None, 48, 7)
    assert (delethink.segment_tokens, delethink.carry_tokens, delethink.keep_tokens) == (48, 8, 6)
    assert (delethink.max_rounds, most) == (7, 48)
    assert read_protocol("delethink").resolve(None, 8192, None)[0].carry_tokens == 4096
    chunks, most = read_protocol("delethink:segment_tokens=32").resolve(None, 48, 7)
    assert (chunks.segment_tokens, chunks.carry_tokens, most) == (32, 16, 32)  # a chunk is what a call may write
    again, most = read_protocol("inftythink").resolve(OWN, 48, 9)
    assert again == OWN.replace(max_rounds=9) and most == 48


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"protocol": ["inftythin"]}, "known protocols: inftythink"),
        ({"protocol": ["vanilla:max_tokens"]}, "write vanilla:key=number"),
        ({"protocol": [{"name": "delethink", "cary_tokens": 4}]}, "did you mean 'carry_tokens'"),
        ({"summarize_at": ["fixed"]}, "must be model, fixed:N or random:A-B"),
        ({"max_thinking": ["few"]}, "max_thinking is 'few'"),
        ({"min_thinking": [9], "max_thinking": [4]}, "max_thinking is 4"),
    ],
)
def test_mistakes_are_one_line(switches, message):
    with pytest.raises(ValueError, match=message):
        make_variants(switches)


def test_votes_and_the_section_of_a_run():
    assert (read_vote("16:2").most, read_vote(16).window, read_vote("2").window) == (16, 4, 2)
    assert read_vote(None) is None and read_vote("none") is None
    for wrong in ("few", "4:8", "0"):
        with pytest.raises(ValueError, match="vote is"):
            read_vote(wrong)
    with pytest.raises(ValueError, match="summarize_at is 'never'"):
        EvalSection(summarize_at="never")
    with pytest.raises(ValueError, match="k is 8 with 4 samples"):
        EvalSection(k=[8])
