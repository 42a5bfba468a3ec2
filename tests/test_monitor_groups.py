"""A group side by side and one round of it, with and without a tokenizer; files that are old, break, change or go."""

from __future__ import annotations

import json
import random
import shutil

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rl.evaluation.plots import context_over_time
from rl.monitor.groups import Groups, protocol_of
from rl.monitor.index import EpisodeIndex
from rl.monitor.runs import NotThere
from rl.monitor.tokens import Decoder, decoder_of
from rollout.store import read_episodes
from rollout.types import StopReason
from tests.stored import age, episode, run_of, segment, write

TEXTS = [
    "<think>\nfirst $x$\n</think><summary>so far: a=1, $x^2$</summary>",
    "<think>\nsecond\n</think><summary>so far: a=1, b=2</summary>",
    "<think>\nthird\n</think>It is \\boxed{7}.",
]
BROKEN = "<think>\nx\n</think><summary></summary>"


def made_up(question="What is $1+1$?", groups=(0, 1)):
    kinds = [(TEXTS, "answered"), ([TEXTS[0], BROKEN], "malformed"), ([], "failed"), (["<think>\nand"], "truncated")]
    return [
        episode(question, group, texts, StopReason(stop), 6, "7", error="no server" if stop == "failed" else None)
        for group in groups
        for texts, stop in kinds
    ]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text("protocol: {name: inftythink, max_rounds: 5}\n")
    write(
        tmp_path, "episodes/train_000003", 3, made_up(), [1.0, 0.0, None, 0.0] * 2, [1.0, 0.0, 0.0, 0.0] * 2, [0.5] * 8
    )
    return tmp_path


@pytest.fixture
def index():
    with EpisodeIndex() as index:
        yield index


def ready(index, folder):
    run = run_of(folder)
    index.load(run, 60, every=0)
    return Groups(index), run


def byte_tokenizer():
    """One token a byte, and the summary tags: a character may take several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: n for n, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<summary>", "</summary>"])
    return tokenizer


def test_a_group_is_what_was_stored(folder, index):
    groups, run = ready(index, folder)
    answer = groups.group(run, "train", 3, "1")
    rows = [row for row in read_episodes(folder / "episodes") if row["group"] == "1"]
    assert (answer["source"], answer["step"], answer["group"], answer["answer"]) == ("train", 3, "1", "7")
    assert [part.get("tex") for part in answer["question"]] == [None, "1+1", None]
    assert answer["others"] == [{"source": "train", "step": 3, "group": "0"}]
    for told, row in zip(answer["episodes"], rows, strict=True):
        names = {"rounds_count": "num_rounds", "tokens": "num_tokens", "peak": "peak_context"}
        for name in ("episode", "stop_reason", "error", "correct", "reward", "advantage", "seconds", *names):
            assert told[name] == row[names.get(name, name)], name
        assert told["rewards"] == json.loads(row["rewards"]) and told["columns"] == {"level": 3}
        if row["rounds"]:
            saw = dict(zip(("generated", "rounds", "single"), context_over_time(row["rounds"]), strict=True))
            assert told["saw"] == saw
    json.dumps(answer)


def test_rounds_of_an_episode(folder, index):
    groups, run = ready(index, folder)
    solved, malformed, failed, truncated = groups.group(run, "train", 3, "0")["episodes"]
    assert failed["rounds"] == [] and failed["saw"] == {"generated": [], "rounds": [], "single": []}
    assert failed["error"] == "no server" and failed["reward"] == 0.0 and failed["correct"] is None
    first, second, third = solved["rounds"]
    assert [one["kind"] for one in solved["rounds"]] == ["summary", "summary", "conclusion"]
    assert (first["prompt_tokens"], first["question_tokens"], first["history_tokens"]) == (4, 4, 0)
    assert (third["prompt_tokens"], third["question_tokens"], third["history_tokens"]) == (7, 4, 3)
    assert (first["completion_tokens"], first["logprob_min"]) == (6, -3.0)
    assert first["logprob_mean"] == pytest.approx(-1.75) and first["thinking_chars"] == len("first $x$")
    assert first["summary_changes"] is None and [one["op"] for one in second["summary_changes"]] == [
        "same", "removed", "added",
    ]  # fmt: skip
    assert second["summary"] == [{"text": "so far: a=1, b=2"}] and first["summary"][1]["tex"] == "x^2"
    assert (
        third["summary"] is None and third["summary_changes"] is None and third["conclusion"][1]["tex"] == "\\boxed{7}"
    )
    assert "summary_tokens" not in first  # no tokenizer says how many
    assert (malformed["rounds"][1]["kind"], malformed["rounds"][1]["fault"]) == ("malformed", "empty_summary")
    assert truncated["rounds"][0]["fault"] == "open_thinking" and truncated["rounds"][0]["conclusion"] is None


def test_a_round_without_a_tokenizer_shows_ids_and_says_so(folder, index):
    groups, run = ready(index, folder)
    answer = groups.round(run, "train", 3, 0, 1)
    assert answer["prompt"] == [{"kind": "question", "text": "1 2 3 4"}, {"kind": "history", "text": "7 8 9"}]
    assert answer["tokens"][:2] == [{"text": "10", "logprob": -0.5}, {"text": "11", "logprob": -1.0}]
    assert "no tokenizer.json in rl/final, sft/final" in answer["note"]
    assert answer["output"] == TEXTS[1] and answer["thinking"] == [{"text": "second"}]
    assert len(groups.round(run, "train", 3, 0, 0)["prompt"]) == 1


def test_a_round_as_the_model_saw_it(tmp_path, index):
    tokenizer = byte_tokenizer()
    asked, history = "Wie groß?", "<history>\nä=1\n</history>"
    text = "<think>\nüber 🙂\n</think><summary>ä=2</summary>"

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    first, second = segment(text), segment(text, 1)
    first = type(first)(ids(asked), ids(text), [-1.0] * len(ids(text)), text, "stop", first.turn)
    second = type(second)(ids(asked + history), ids(text) + ids("é")[:1], None, text, "stop", second.turn)
    made = episode(asked, texts=[text, text])
    made.segments = [first, second]
    write(tmp_path, "eval/episodes/sft_held_out", 0, [made], [1.0])
    (tmp_path / "sft" / "final").mkdir(parents=True)
    tokenizer.save(str(tmp_path / "sft" / "final" / "tokenizer.json"))
    groups, run = ready(index, tmp_path)
    answer = groups.round(run, "eval/sft_held_out", 0, 0, 1)
    assert answer["prompt"] == [{"kind": "question", "text": asked}, {"kind": "history", "text": history}]
    assert answer["note"] is None and {token["logprob"] for token in answer["tokens"]} == {None}
    pieces = [token["text"] for token in answer["tokens"]]
    assert "".join(pieces) == text + "\ufffd" and "🙂" in pieces and len(pieces) == len(second.completion_ids)
    told = groups.group(run, "eval/sft_held_out", 0, "0")["episodes"][0]["rounds"]
    assert told[0]["summary_tokens"] == len(ids("ä=2"))
    assert told[1]["logprob_mean"] is None and told[1]["logprob_min"] is None


def test_which_tokenizer(tmp_path):
    assert "no tokenizer.json" in decoder_of(tmp_path).note
    for place in ("base", "rl/checkpoint-9", "rl/checkpoint-10", "sft/final", "rl/final"):  # the later, the sooner
        inner = tmp_path / place
        inner.mkdir(parents=True)
        tokenizer = byte_tokenizer()
        tokenizer.add_tokens([place])
        tokenizer.save(str(inner / "tokenizer.json"))
        assert decoder_of(tmp_path).text([258]) == place
    (tmp_path / "rl" / "final" / "tokenizer.json").write_text("{half")
    assert decoder_of(tmp_path).text([258]) == "sft/final"
    shutil.rmtree(tmp_path / "sft")
    shutil.rmtree(tmp_path / "base")
    for checkpoint in ("9", "10"):
        (tmp_path / "rl" / f"checkpoint-{checkpoint}" / "tokenizer.json").unlink()
    assert "rl/final/tokenizer.json can't be read" in decoder_of(tmp_path).note


def test_ids_that_no_tokenizer_knows():
    decoder, rng = Decoder(byte_tokenizer()), random.Random(0)
    assert decoder.pieces([]) == [] and decoder.text([]) == ""
    for ids in ([999_999, 65, 2**40, -1, 66], [rng.randrange(300) for _ in range(500)]):
        pieces = decoder.pieces(ids)
        assert len(pieces) == len(ids)
        assert isinstance(decoder.text(ids), str)


def test_an_old_file(folder, index):
    age(folder / "episodes" / "train_000003.parquet")
    groups, run = ready(index, folder)
    solved, malformed, *_ = groups.group(run, "train", 3, "0")["episodes"]
    assert solved["correct"] is None and solved["reward"] == 1.0 and len(solved["rounds"]) == 3
    assert malformed["rounds"][1]["fault"] == "empty_summary"  # read out of the text


def test_a_question_in_messages_and_a_foreign_protocol(tmp_path, index):
    messages = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "What is $x$?"}]
    write(tmp_path, "episodes/train_000000", 0, made_up(messages, [0]))
    groups, run = ready(index, tmp_path)
    answer = groups.group(run, "train", 0, "0")
    assert answer["question"][0] == {"text": "system: Brief.\n\nuser: What is "} and answer["question"][1]["tex"] == "x"
    assert answer["episodes"][0]["rewards"] == {} and answer["episodes"][0]["reward"] is None
    for text, name in [
        ("", "inftythink"),
        ("protocol: {name: vanilla, max_rounds: 3}", "vanilla"),
        ("protocol: {name: delethink, mine: 3}", "delethink"),
        ("protocol: {name: [a]}", "inftythink"),
        ("protocol: [", "inftythink"),
        ("protocol: 3", "inftythink"),
    ]:
        (tmp_path / "config.yaml").write_text(text)
        assert protocol_of(run_of(tmp_path)).name == name


def test_what_is_not_there(folder, index):
    groups, run = ready(index, folder)
    for asked, message in [
        (("train", 3, "9"), "it has no group 9 of train, step 3"),
        (("train", 4, "0"), "it has no group 0 of train, step 4"),
        (("' OR 1=1 --", 3, "0"), "it has no group 0 of ' OR 1=1 --"),
    ]:
        with pytest.raises(NotThere, match=r"^it has no") as error:
            groups.group(run, *asked)
        assert str(error.value).startswith(message)
    with pytest.raises(NotThere, match="no round 4 of episode 0 of train, step 3: it has 3"):
        groups.round(run, "train", 3, 0, 3)
    with pytest.raises(NotThere, match="no round 1 of episode 2 of train, step 3: it has 0"):
        groups.round(run, "train", 3, 2, 0)
    with pytest.raises(NotThere, match="no episode 99 of train"):
        groups.round(run, "train", 3, 99, 0)


def test_a_file_that_changed_broke_or_went(folder, index):
    groups, run = ready(index, folder)
    path = folder / "episodes" / "train_000003.parquet"
    write(folder, "episodes/train_000003", 3, made_up("another", [5, 0]))
    assert groups.group(run, "train", 3, "0")["question"] == [{"text": "another"}]
    whole = path.read_bytes()
    pq.write_table(pq.read_table(path).slice(0, 2), path)
    with pytest.raises(NotThere, match="no group 0 of train"):
        groups.group(run, "train", 3, "0")
    path.write_bytes(whole[:-50])
    with pytest.raises(NotThere, match="no group 0"):
        groups.group(run, "train", 3, "0")
    assert "half-written" in index.faults(run)[0]["reason"]
    path.write_bytes(whole)
    assert groups.group(run, "train", 3, "0")["question"] == [{"text": "another"}]
    shutil.rmtree(folder)
    with pytest.raises(NotThere, match=r"train_000003.parquet, which contained .*, no longer exists"):
        groups.group(run, "train", 3, "0")
