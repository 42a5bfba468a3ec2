"""Questions by name from a Hub on loopback, from files and functions; prompts; what is refused."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest
from hub_server import HubServer, hub_environment

from rl.evaluation.sets import BOXED, LETTER, ask, load_set, load_sets
from sft.data.contamination import EVAL_SETS

_GPQA_COLUMNS = ["Record ID", "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2",
                 "Incorrect Answer 3", "Writer's Difficulty Estimate"]  # fmt: skip

_LOAD = """
import json, sys
from dataclasses import asdict
from rl.evaluation.sets import load_set
print(json.dumps([asdict(load_set(name)) for name in sys.argv[1:]]))
"""


def lines(*rows: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def config(name: str, split: str, path: str) -> bytes:
    entry = f"{{config_name: {name}, data_files: [{{split: {split}, path: {path}}}]}}"
    return f"---\nconfigs:\n- {entry}\n---\n".encode()


def gpqa(*numbers: int) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_GPQA_COLUMNS)
    for n in numbers:
        writer.writerow([f"rec{n}", f"Which is right, {n}?", f"right {n}", "wrong a", "wrong b ", "wrong c", "Hard"])
    return text.getvalue().encode()


FILES = {
    "MATH-500": {"test.jsonl": lines(
        {"problem": "What is 1+1?", "solution": "…", "answer": "2", "subject": "Algebra", "level": 3, "unique_id": "a"}
    )},
    "AIME24": {"data/train-0.jsonl": lines({"id": 60, "problem": "Find n.", "solution": "…", "answer": "033",
                                            "url": "u", "year": "2024"})},
    "AIME25": {"test.jsonl": lines({"problem": "Find m.", "answer": "70", "id": "0"})},
    "AMC23": {"README.md": config("default", "test", "test.jsonl"),
              "test.jsonl": lines({"id": 0, "answer": 27.0, "url": "u", "question": "How far?"})},
    "GPQA-diamond": {"README.md": config("gpqa_diamond", "train", "gpqa_diamond.csv"),
                     "gpqa_diamond.csv": gpqa(*range(12))},
    "GSM8K": {"README.md": config("main", "test", "main/test.jsonl"),
              "main/test.jsonl": lines({"question": "How many?", "answer": "<<2*600=1200>>1200\n#### 1,200"})},
}  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Every set by name, in lower case, through the real client."""
    hub = HubServer(tmp_path_factory.mktemp("hub"))
    for name, files in FILES.items():
        hub.add(EVAL_SETS[name].hub_id, "dataset", files)
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-W", "ignore", "-c", _LOAD, *(name.lower() for name in FILES)]
    done = subprocess.run(
        command, env=hub_environment(hub, home), cwd=home, capture_output=True, text=True, timeout=200
    )
    hub.stop()
    assert done.returncode == 0, done.stderr[-2000:]
    return {one["name"]: one for one in json.loads(done.stdout.splitlines()[-1])}


def test_every_set_loads_by_name_with_its_prompt_and_gold_answers(named):
    assert list(named) == list(FILES)
    first = {name: one["rows"][0] for name, one in named.items()}
    assert first["MATH-500"] == {
        "level": 3, "difficulty": 3, "answer": "2", "question": BOXED.replace("{question}", "What is 1+1?"),
    }  # fmt: skip
    assert first["AIME24"] == {"answer": "033", "question": BOXED.replace("{question}", "Find n.")}
    assert (first["AIME25"]["answer"], first["AMC23"]["answer"], first["GSM8K"]["answer"]) == ("70", "27", "1200")
    assert first["AMC23"]["question"].startswith("How far?\n") and first["GSM8K"]["question"].startswith("How many?\n")
    assert {name: one["verifier"] for name, one in named.items() if one["verifier"]} == {"GPQA-diamond": "choice"}


def test_choices_are_shuffled_by_the_row_and_the_letter_is_gold(named):
    rows = named["GPQA-diamond"]["rows"]
    assert len({row["answer"] for row in rows}) == 4 and {row["difficulty"] for row in rows} == {"Hard"}
    for number, row in enumerate(rows):
        lettered = dict(line.split(") ", 1) for line in row["question"].splitlines() if line[1:3] == ") ")
        assert sorted(lettered) == list("ABCD") and lettered[row["answer"]] == f"right {number}"
        assert set(lettered.values()) == {f"right {number}", "wrong a", "wrong b", "wrong c"}
        assert row["question"].endswith(LETTER.removeprefix("{question}"))


def test_local_files_functions_and_mappings(tmp_path):
    path = tmp_path / "mine.v1.jsonl"
    path.write_bytes(lines({"q": "2+2", "a": 4, "level": 1}, {"q": "2+3", "a": 5, "level": 2}))
    columns = {"question": "q", "answer": "a"}
    one = load_set({"source": str(path), "columns": columns}, prompt="{question} \\boxed{}")
    assert one.name == "mine" and [row["difficulty"] for row in one.rows] == [1, 2]
    assert one.rows[0]["question"] == "2+2 \\boxed{}" and one.rows[0]["answer"] == 4
    chains = {"source": "examples/chains/task.py:questions", "count": 9, "label": "chains", "difficulty": "steps"}
    chains, again, more = load_sets([(None, chains), ("held_out", chains), (None, chains)], limit=5)
    assert (chains.name, again.name, more.name) == ("chains", "held_out", "chains-2")
    assert len(chains.rows) == 5 and chains.rows[0]["difficulty"] == chains.rows[0]["steps"]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    asked = ask(messages, "{question}!")
    assert [m["content"] for m in asked] == ["a", "b", "c!"] and messages[2]["content"] == "c"
    with pytest.raises(ValueError, match="has no user message"):
        ask(messages[1:2], "{question}!")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing.jsonl", "does not exist"),
        ({"label": "x"}, "has no source"),
        ({"source": "examples/chains/task.py:questions", "cuont": 3}, "unexpected keyword argument 'cuont'"),
        ({"source": "examples/chains/task.py:traces", "count": 1, "prompt": "hm"}, "must contain {question}"),
        ({"source": "examples/chains/task.py:questions", "count": 1, "difficulty": "stepz"}, "no column 'stepz'"),
    ],
)
def test_mistakes_are_one_line(spec, message):
    with pytest.raises(ValueError, match=message):
        load_set(spec)


def test_a_row_without_an_answer_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines({"question": "a", "answer": "1"}, {"question": "b"}))
    with pytest.raises(ValueError, match=r"row 2: no answer; name its column"):
        load_set(str(path))
