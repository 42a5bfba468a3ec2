"""`sawtooth chat` over a scripted vLLM and a real one: what is shown and asked, Ctrl-C, hostile text."""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import sys
import time
import unicodedata
import zlib

import psutil
import pytest

from examples.chains.task import questions
from rl.serving.chat import add_arguments, run_command
from rollout.terminal import clean
from tests.chat_server import CONTEXT, ScriptedVLLM, build_folder
from tests.quiet import foreign
from tests.terminal import Terminal, screen

pytestmark = pytest.mark.slow

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e[red]no[/red]"
TAMED = "[2J]0;owned31m[red]no[/red]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    build_folder(path, max_rounds=3)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def server(tokenizer):
    scripted = ScriptedVLLM(tokenizer)
    yield scripted
    scripted.hold = None
    scripted.stop()


@pytest.fixture
def chat(folder, server, monkeypatch, capsys):
    """Runs the command on lines from a pipe, in this process. Returns exit code, output and what was said beside."""

    def run(*lines, arguments=(), model=folder):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        options, further = parser.parse_known_args([model, "--url", server.url, *arguments])
        text = "".join(line + "\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "utf-8"))
        capsys.readouterr()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run_command(options, further)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def command(model, *arguments):
    return [sys.executable, "-m", "rl.app.cli", "chat", str(model), *arguments]


def rounds(*texts, answer):
    """Replies of an episode: rounds with these (thinking, summary), then the answer."""
    return [f"<think>\n{t}\n</think><summary>{s}</summary>" for t, s in texts] + [f"<think>\nlast\n</think>{answer}"]


def test_rounds_and_answers_in_a_pipe(chat, server):
    server.replies += rounds(("one", "s1"), ("two", "s2"), answer="\n\nforty\ntwo\n")
    code, out, err = chat("what?", "", "/think", "/nonsense", "/save")
    assert code == 0 and "inftythink, at most 3 rounds, a context of 400 tokens" in err
    assert re.sub(r"\d+(\.\d+)?( tok/s| s\b| tokens|, )", r"N\2", out).splitlines() == [
        "round 1: thought N tokens", "round 1: summary: s1", "round 2: thought N tokens", "round 2: summary: s2",
        "round 3: thought N tokens", "forty", "two", "(3 rounds, N tokens, peak context N, N s)",
        "round 1", "one", "summary: s1", "round 2", "two", "summary: s2", "round 3", "last",
        "/nonsense is not a command; /help lists the commands", "/save needs a file name",
    ]  # fmt: skip
    written = sum(len(server.tokenizer.encode(reply)) + 1 for reply in server.served)
    assert f"(3 rounds, {written} tokens, peak context " in out


def test_later_turns_contain_the_answers_before_them(chat, server, tmp_path):
    server.replies += rounds(("secret thought", "secret summary"), answer="\nfirst answer\n")
    server.replies += ["<think>\n \n</think>second", "<think>\n \n</think>third"]
    lines = ["first?", " /second?", f"/save {tmp_path}/talk.json", "/new", "third?", f"/save {tmp_path}/no/such"]
    code, out, _ = chat(*lines, arguments=["--system", "Be brief.", "--seed", "7", "--temperature", "0.5"])
    assert code == 0 and f"saved to {tmp_path}/talk.json: 2 turns" in out and "No such file" in out
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "first?"}
    first = {"role": "assistant", "content": "first answer"}
    said = [system, user, first, {"role": "user", "content": "/second?"}]

    def prompt(messages):
        return server.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    asked = server.prompts()
    assert asked[0] == prompt([system, user])
    assert asked[1] == asked[0] + "<history>\nsecret summary\n</history>"
    assert asked[2] == prompt(said)
    assert asked[3] == prompt([system, {"role": "user", "content": "third?"}])
    # A conversation's turns draw from seeds of their own; those of the first turn are `run_episodes`' seeds.
    keys = ["7/0/0", "7/0/1", "7/1/0", "7/0/0"]
    assert [body["seed"] for body in server.asked] == [zlib.crc32(key.encode()) for key in keys]
    assert {body["temperature"] for body in server.asked} == {0.5}
    record = json.loads((tmp_path / "talk.json").read_text())
    assert record["messages"] == [*said, {"role": "assistant", "content": "second"}]
    assert record["turns"][0]["rounds"][0] == {"thinking": "secret thought", "summary": "secret summary"}


def test_only_whole_answers_are_kept_and_the_others_explained(chat, server):
    server.replies += ["<think>\nx", *rounds(("x", "s"), ("x", "s"), ("x", "s"), answer="")[:3]]
    server.replies += ["<think>\n" + "x" * CONTEXT, *rounds(answer="done")]
    code, out, _ = chat("a", "b", "c", "d" * CONTEXT, "e")
    assert code == 0 and out.splitlines()[-2] == "done"
    assert len(server.asked) == 6 and server.prompts()[-1].count("<|im_start|>user") == 1
    server.replies += rounds(answer="cut")
    out += chat("f", arguments=["--max-tokens", "5"])[1]
    assert [body["max_tokens"] for body in server.asked[-2:]] == [CONTEXT - len(server.asked[-2]["prompt"]), 5]
    for reason in (
        "round 1 is malformed (open thinking)", "none in 3 rounds (--max-rounds)",
        f"the context of {CONTEXT} tokens is full (/new starts a new conversation)",
        "round 1 reached its limit of 5 tokens (--max-tokens)",
    ):  # fmt: skip
        assert out.count(f"no answer: {reason}; this turn is not kept in the conversation\n") == 1
    assert re.search(rf"this question has \d+ tokens, too many for the context of {CONTEXT}; /new", out)


@pytest.mark.parametrize("arguments", [(), ("--show-thinking",)])
def test_hostile_text_does_not_steer_the_terminal(chat, server, arguments):
    server.replies += rounds((HOSTILE, HOSTILE), answer=HOSTILE)
    _, out, _ = chat("q", "/think", "/" + HOSTILE.replace("\r", ""), arguments=arguments)
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in out.replace("\n", ""))
    assert f"summary: {TAMED}\n{'round 2: '}" in out and f"\n{TAMED}\n(2 rounds" in out
    assert out.count(TAMED) == (6 if arguments else 5)


def test_no_character_that_steers_is_shown():
    kept = clean("".join(map(chr, range(sys.maxunicode + 1))))
    assert {c for c in kept if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} == set("\n\t\u200c\u200d")
    assert clean("né 日本 👩\u200d🚀\tx\r\ny") == "né 日本 👩\u200d🚀\tx\ny"


def test_a_conversation_that_no_longer_fits(chat, server):
    server.replies += [*rounds(answer="x" * 200), *rounds(answer="again")]
    code, out, _ = chat("q" * 100, "r" * 100, "/new", "s" * 100)
    assert code == 0 and len(server.asked) == 2
    assert re.search(
        r"the conversation with this question has 4\d\d tokens, too many for the context of 400; /new", out
    )
    assert "again" in out


def test_other_protocols(chat, server, tmp_path):
    build_folder(tmp_path / "vanilla", "vanilla")
    server.replies += ["<think>\nhm\n</think>\nlong thought", "no thought at all"]
    _, out, _ = chat("q", "r", "/think", model=str(tmp_path / "vanilla"))
    assert re.sub(r"\d+", "N", out).splitlines()[:3] == [
        "thought N tokens", "long thought", "(N round, N tokens, peak context N, N.N s)",
    ]  # fmt: skip
    assert out.splitlines()[-3] == "no thought at all" and out.splitlines()[-1] == "(no thinking)"
    build_folder(tmp_path / "delethink", "delethink", segment_tokens=12, carry_tokens=6, keep_tokens=2)
    server.replies += ["<think>\nabcdefghijklmnop", "qrst\n</think>out"]
    _, out, _ = chat("q", model=str(tmp_path / "delethink"))
    assert [body["max_tokens"] for body in server.asked[2:]] == [12, 12]
    assert "\nout\n(2 rounds" in out


def test_an_engine_that_goes_is_a_line_and_an_exit_code(chat, server):
    code, out, _ = chat("q")  # it has no reply: status 500
    assert code == 1 and "no answer: round 1: vLLM returned 500" in out
    server.stop()
    with pytest.raises(ValueError, match="no server responds"):
        chat("q")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--temperature", "-1"], "--temperature is -1.0; it must be from 0 to 2"),
        (["--temperature", "nan"], "--temperature is nan; it must be from 0 to 2"),
        (["--top-p", "0"], "--top-p is 0.0; it must be above 0 and at most 1"),
        (["--max-tokens", "0"], "--max-tokens is 0; it must be at least 1"),
        (["--max-rounds", "0"], "--max-rounds is 0; it must be at least 1"),
        (["--seed", str(2**63)], "--seed is 9223372036854775808; it must be a 64-bit integer"),
        (["--dtype", "float32"], "--dtype is not an option of this command"),
    ],
)
def test_mistakes_are_one_line(chat, server, arguments, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        chat("q", arguments=arguments)


def test_models_that_can_not_chat(chat, server, tmp_path):
    tokenizer = build_folder(tmp_path / "raw", "vanilla")
    with pytest.raises(ValueError, match="--max-rounds is 2; the vanilla protocol has one round"):
        chat("q", arguments=["--max-rounds", "2"], model=str(tmp_path / "raw"))
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    tokenizer.save_pretrained(tmp_path / "raw")
    code, out, _ = chat("q", model=str(tmp_path / "raw"))
    assert code == 0 and "can't render this question: no system messages" in out
    (tmp_path / "raw" / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template, or was trained without it"):
        chat("q", model=str(tmp_path / "raw"))


def test_a_terminal(folder, server, tmp_path):
    server.hold = 12
    server.replies += rounds(("count on the fingers", "s1"), answer="\nsix")
    with Terminal(command(folder, "--url", server.url)) as terminal:
        terminal.wait_for("> ")
        terminal.type("three and three?\r")
        terminal.wait_for("round 1: thinking… ")
        assert not terminal.echoes()
        terminal.type("and one more\r/think\r")  # waits, unseen, for the prompt
        server.replies += rounds(answer="\nseven")
        server.hold = None
        terminal.wait_for("peak context")
        terminal.wait_for("seven")
        terminal.wait_for("last\x1b")  # of /think
        terminal.wait_for("> ")
        server.replies += rounds(answer="\neight")
        terminal.type("\x1b[200~pasted:\none question\x1b[201~\r")
        terminal.wait_for("eight")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    texts = [prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0] for prompt in server.prompts()]
    assert texts == ["three and three?"] * 2 + ["and one more", "pasted:\none question"]
    shown = re.sub(r"\d+ tokens(, \d+ tok/s)?|\(.*\)", "N", "\n".join(screen(terminal.output)))
    _, first, second, thoughts, *_ = shown.split("> ")
    assert first.splitlines() == [
        "three and three?", "round 1: thought N", "round 1: summary: s1", "round 2: thought N", "six", "N",
    ]  # fmt: skip
    assert second.splitlines() == ["and one more", "round 1: thought N", "seven", "N"]
    assert thoughts.splitlines()[:3] == ["/think", "round 1", "last"]


def test_ctrl_c_stops_a_round_and_keeps_the_session(folder, server):
    server.replies += [*rounds(answer="\nkept"), *rounds(("thinking", "s"), answer="\nlost"), *rounds(answer="\nlater")]
    with Terminal(command(folder, "--url", server.url)) as terminal:
        terminal.wait_for("> ")
        terminal.type("first?\r")
        terminal.wait_for("kept")
        terminal.wait_for("> ")
        server.hold = 10
        terminal.type("second?\r")
        terminal.wait_for("round 1: thinking… ")
        assert server.running == 1
        terminal.type("\x03")
        terminal.wait_for("stopped; this turn is not kept in the conversation")
        terminal.wait_for("> ")
        wait_until(lambda: server.running == 0)  # while the chat waits at its prompt
        assert server.dropped == 1 and len(server.asked) == 2
        server.hold = None
        server.replies.popleft()
        terminal.type("third?\r")
        terminal.wait_for("later")
        assert server.prompts()[-1] == server.prompts()[0].replace(
            "first?<|im_end|>\n",
            "first?<|im_end|>\n<|im_start|>assistant\nkept<|im_end|>\n<|im_start|>user\nthird?<|im_end|>\n",
        )
        terminal.wait_for("> ")
        assert terminal.end("\x03") == 0
    assert "Traceback" not in terminal.output


def test_sigterm_in_mid_round_leaves_terminal_and_engine_in_order(folder, server):
    server.hold = 10
    server.replies += rounds(answer="never")
    with Terminal(command(folder, "--url", server.url)) as terminal:
        terminal.wait_for("> ")
        terminal.type("q\r")
        terminal.wait_for("round 1: thinking… ")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        wait_until(lambda: server.running == 0)
        assert terminal.echoes() and terminal.output.rfind("\x1b[?25h") > terminal.output.rfind("\x1b[?25l")
    assert "Traceback" not in terminal.output


def test_a_real_vllm_is_started_talked_to_and_ended(rounds_model, tmp_path):
    """Of several questions most get an answer, and some take more than one round."""
    path = tmp_path / "talk.json"
    with Terminal(command(rounds_model, "--seed", "3"), patience=400) as terminal:
        begun = terminal.wait_for("starting vLLM") + terminal.wait_for("> ")
        assert not foreign(
            begun.removesuffix("> "), rf"starting vLLM for |vLLM is starting, |{re.escape(rounds_model)}: "
        )
        started = psutil.Process(terminal.process.pid).children(recursive=True)
        assert any("vllm" in " ".join(process.cmdline()) for process in started)
        shown, kept = "", []
        for row in questions(4, seed=2, steps=[4, 4]):
            terminal.type(row["question"] + "\r")
            shown += terminal.wait_for("peak context")
            terminal.wait_for("> ")
            terminal.type(f"/save {path}\r")
            terminal.wait_for("saved to")
            kept += json.loads(path.read_text())["turns"]
            terminal.type("/new\r")
            terminal.wait_for("a new conversation")
        terminal.type("/exit\r")
        assert terminal.end() == 0
    assert "round 1: thought" in shown and "round 2: thought" in shown and "boxed{" in shown
    assert any(len(turn["rounds"]) > 1 and turn["rounds"][0]["summary"] for turn in kept)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
