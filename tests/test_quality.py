"""Duplicates of a stream's questions, and their overlap with evaluation sets."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sft.data.contamination import EVAL_SETS, Contamination
from sft.data.duplicates import Duplicates, normalize, words

ROOT = Path(__file__).resolve().parents[1]
LONG = (
    "A farmer keeps 12 hens and 7 ducks behind the old stone barn near the river, and every morning before breakfast "
    "his youngest daughter walks down the gravel path with a basket to collect the eggs that she finds there."
)  # 40 words


@pytest.fixture
def database(tmp_path):
    database = sqlite3.connect(tmp_path / "state.sqlite")
    yield database
    database.close()


def kind(database: sqlite3.Connection, earlier: str, later: str) -> str | None:
    duplicates = Duplicates(database)
    duplicates.add(0, earlier)
    return duplicates.find(1, later)


@pytest.mark.parametrize(
    "later",
    ["Find x if 2x + 3 = 7.", "FIND X if 2x + 3 = 7.", "  Find x\n if\t2x + 3 = 7. ", "Ｆｉｎｄ x if ２x + 3 = 7."],
)
def test_exact_duplicates_ignore_case_spacing_and_width(database, later):
    assert kind(database, "Find x if 2x + 3 = 7.", later) == "exact duplicate"


@pytest.mark.parametrize(
    ("old", "new"), [("river", "lake"), ("near the", "near"), ("barn near", "barn, near"), ("with a", "with his")]
)
def test_a_long_question_with_a_word_changed_is_a_near_duplicate(database, old, new):
    assert len(LONG.split()) == 40
    assert kind(database, LONG, LONG.replace(old, new)) == "near duplicate"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("Find x if 2x+3=7", "Find x if 2x+3=9"),
        ("Find x if 2x+3=7", "Find y if 2y+3=7"),
        ("k=3 l+4 m*7 n-1 ?", "k=3 l+4 m*7 n+1 ?"),
        (LONG, LONG.replace("12", "15")),
        (LONG, LONG.replace("12", "7").replace("and 7", "and 12")),
        (LONG, LONG.replace("7 ducks", "7.5 ducks")),
        (LONG.replace("his", "their two"), LONG.replace("his", "their three")),
        (f"{LONG} Let x = y + z.", f"{LONG} Let x = y - z."),
        (f"{LONG} Let x = y + z.", f"{LONG} Let x = y + w."),
    ],
)
def test_another_number_operator_or_variable_is_another_question(database, earlier, later):
    assert kind(database, earlier, later) is None


def test_a_short_question_is_near_only_with_the_same_words(database):
    assert kind(database, "What is the largest prime factor of 91?", "What is the least prime factor of 91?") is None
    assert Duplicates(database).find(1, r"What is the largest prime factor of \(91\)") == "near duplicate"


def test_questions_without_words(database):
    assert kind(database, "", "?!") is None
    assert Duplicates(database).find(1, " ") == "exact duplicate"


def test_half_a_surrogate_pair_is_text_too(database):
    assert kind(database, f"{LONG} \ud83d", f"{LONG} \ud83d") == "exact duplicate"
    assert Contamination({"broken": [f"{LONG} \ud83d"]}).find("\ud83d") is None


def test_only_smaller_numbers_count(database):
    duplicates = Duplicates(database)
    duplicates.add(301, LONG)
    duplicates.add(302, LONG.replace("river", "lake"))
    assert duplicates.find(300, LONG) is None
    assert duplicates.find(301, LONG) is None
    assert duplicates.find(302, LONG.replace("river", "lake")) == "near duplicate"
    assert duplicates.find(303, LONG) == "exact duplicate"


def test_a_resumed_run_finds_what_the_first_one_found(database):
    texts = [
        LONG,
        LONG.replace("river", "lake"),
        "Find x if 2x+3=7",
        LONG.replace("12", "15"),
        LONG,
        "find x if 2x+3=7",
    ]
    duplicates = Duplicates(database)

    def run(start: int) -> list[str | None]:
        found = []
        for number in range(start, len(texts)):
            found.append(duplicates.find(number, texts[number]))
            duplicates.add(number, texts[number])
        return found

    first = run(0)
    assert first == [None, "near duplicate", None, None, "exact duplicate", "exact duplicate"]
    tables = [
        database.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("duplicate_questions", "duplicate_bands")
    ]
    assert run(0) == first and run(2) == first[2:]
    assert tables == [
        database.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("duplicate_questions", "duplicate_bands")
    ]


def test_what_was_not_committed_is_gone_whole(tmp_path):
    path = tmp_path / "state.sqlite"
    database = sqlite3.connect(path)
    duplicates = Duplicates(database)
    duplicates.add(0, "Find x.")
    database.commit()
    duplicates.add(1, LONG)
    database.close()  # as a kill would leave it
    resumed = Duplicates(sqlite3.connect(path))
    assert resumed.find(9, "find x.") == "exact duplicate"
    assert resumed.find(9, LONG) is None
    resumed.database.close()


def test_the_tables_are_read_by_another_process(tmp_path):
    path = tmp_path / "state.sqlite"
    script = (
        "import sqlite3, sys; from sft.data.duplicates import Duplicates; database = sqlite3.connect(sys.argv[1]); "
        "d = Duplicates(database); print(d.find(int(sys.argv[2]), sys.argv[3])); d.add(int(sys.argv[2]), sys.argv[3]); "
        "database.commit()"
    )
    texts = [LONG, LONG.replace("river", "lake"), LONG.upper(), LONG.replace("12", "15")]
    printed = []
    for number, text in enumerate(texts):
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        command = [sys.executable, "-c", script, str(path), str(number), text]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        printed.append(result.stdout.strip())
    assert printed == ["None", "near duplicate", "exact duplicate", "None"]


def test_other_settings_over_the_same_file_are_refused(database):
    Duplicates(database).add(0, LONG)
    for settings in ({"near": 0.7}, {"near": None}, {"num_perm": 64}):
        with pytest.raises(ValueError, match="start with a new file"):
            Duplicates(database, **settings)
    for settings in ({"near": 0.2}, {"near": 1.1}, {"num_perm": 8}):
        with pytest.raises(ValueError, match="must be"):
            Duplicates(database, **settings)


def test_exact_duplicates_only(database):
    duplicates = Duplicates(database, near=None)
    duplicates.add(0, LONG)
    assert duplicates.find(1, LONG.replace("river", "lake")) is None
    assert duplicates.find(1, LONG.lower()) == "exact duplicate"


@pytest.mark.parametrize("near", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_the_bands_find_pairs_at_the_threshold(database, near):
    duplicates = Duplicates(database, near=near)
    bands = duplicates.num_perm // duplicates.band_rows
    assert 1 - (1 - near**duplicates.band_rows) ** bands > 0.95
    assert len(duplicates._features(LONG).bands) == bands


def test_words():
    assert words("Find $x$, if (2x+3)=7.  Then: k=3 l+4 m*7 n-1 ?") == (
        ["find", "x", "if", "2x+3)=7", "then", "k=3", "l+4", "m*7", "n-1"]
    )
    assert words(r"So \(x\) is $x$; \[ -3 \] is 5%.") == ["so", "x", "is", "x", "-3", "is", "5%"]
    assert words("求 x 的值。") == ["求", "x", "的", "值"]
    assert normalize(" Straße\n２ ") == "strasse 2"


EIGHT = "one red two blue three green four white"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (EIGHT, "colors"),
        (f"Before it stands: {EIGHT.upper()}, and more.", "colors"),
        ("one red two blue three green four", None),
        ("one red two blue three green four black", None),
        ("k=3 l+4 m*7 n-1 ?", "chains"),
        ("  K=3 l+4 m*7 n-1", "chains"),
        ("k=3 l+4 m*7 n-2 ?", None),
        ("k=3 l+4 m*7 n+1 ?", None),
        ("k=3 l+4 m*7 n-1 o+2 ?", None),
        ("First k=3 l+4 m*7 n-1 ?", None),
        ("?", None),
        ("", None),
    ],
)
def test_contamination(question, expected):
    contamination = Contamination({"colors": [EIGHT], "chains": ["k=3 l+4 m*7 n-1 ?", "..."]})
    assert contamination.find(question) == expected
    assert contamination.sizes == {"colors": 1, "chains": 2}


def test_the_first_of_several_sets_is_named():
    contamination = Contamination({"a": iter([EIGHT]), "b": [f"{EIGHT} nine ten"]})
    assert [contamination.find(q) for q in (f"{EIGHT} nine ten", "red two blue three green four white nine")] == [
        "a",
        "b",
    ]


def test_contamination_settings():
    with pytest.raises(ValueError, match="at least 1"):
        Contamination({"a": [EIGHT]}, n=0)
    with pytest.raises(ValueError, match="'a' contains no questions"):
        Contamination({"a": []})
    assert all(s.hub_id.count("/") == 1 for s in EVAL_SETS.values())


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_traces_of_math500_are_contaminated(shared_data):
    contamination = Contamination({"MATH-500": (row["question"] for row in read(shared_data / "math500.jsonl"))})
    assert contamination.sizes == {"MATH-500": 500}
    traces = read(shared_data / "traces.jsonl")
    found = Counter(row["benchmark"] for row in traces if contamination.find(row["question"]))
    assert found["math500"] == Counter(row["benchmark"] for row in traces)["math500"] == 109
    assert found.total() - found["math500"] <= 5  # AMC: "m and n are relatively prime", "in the xy-plane", ...
    assert [
        row["id"] for row in read(shared_data / "gsm8k_train_1000.jsonl") if contamination.find(row["question"])
    ] == []


@pytest.mark.parametrize("name", ["math500.jsonl", "gsm8k_train_1000.jsonl"])
def test_real_questions_are_no_duplicates_of_each_other(shared_data, database, name):
    duplicates = Duplicates(database)
    for number, row in enumerate(read(shared_data / name)):
        assert duplicates.find(number, row["question"]) is None, row["question"]
        duplicates.add(number, row["question"])
