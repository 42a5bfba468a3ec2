"""Selection: each generation of each row is a trace, or is dropped with its reason."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest

from sft.data.contamination import Contamination
from sft.data.duplicates import Duplicates
from sft.data.select import Dropped, Selector, Trace
from sft.data.settings import DataSettings
from sft.data.sources import BadRow

LONG = (
    "A farmer keeps 12 hens and 7 ducks behind the old stone barn near the river, and every morning before breakfast "
    "his youngest daughter walks down the gravel path with a basket to collect the eggs that she finds there."
)
NEAR = LONG.replace("river", "lake")
WRONG = "answer does not verify"


def words(text):
    return len(text.split())


def text(thought, answer):
    return f"<think>\n{thought}\n</think>\nIt is \\boxed{{{answer}}}."


def row(question, answer="4", gold="4", thought="Two and two.", **more):
    return {"question": question, "answer": gold, "trace": text(thought, answer), **more}


def openr1(**more):
    """Generation 0 is wrong, 1 can't be read, 2 is right, 3 is right and shorter."""
    generations = [text("Five?", 5), "no thinking", text("Two and two is four.", 4), text("Easily four.", 4)]
    return {"problem": "2 + 2?", "answer": "4", "uuid": "r", "generations": generations, **more}


def selector(*, columns=None, duplicates=None, contamination=None, **settings):
    return Selector(DataSettings(**settings), columns or {}, words, duplicates, contamination)


def select(rows, **settings):
    return selector(**settings).select(list(enumerate(rows)))


def said(outcomes):
    return [outcome.reason if isinstance(outcome, Dropped) else "kept" for outcome in outcomes]


def database_of(tmp_path, name="questions.sqlite"):
    return sqlite3.connect(tmp_path / name)


def test_a_trace_holds_what_the_row_gives():
    (trace,) = select([row("2 + 2?", id="a7")])
    assert trace == Trace(0, 0, "a7", "2 + 2?", "4", "Two and two.", "\nIt is \\boxed{4}.", verified=True)
    assert select([row("2 + 2?")])[0].id == "0"


def test_answers_are_verified():
    rows = [row("a", r"\frac{8}{2}"), row("b", 5), row("c", "4.0"), {**row("d"), "trace": "<think>\nx\n</think>Done."}]
    outcomes = select(rows)
    assert said(outcomes) == ["kept", WRONG, "kept", WRONG]
    assert outcomes[1] == Dropped(1, 0, "1", WRONG, "\nIt is \\boxed{5}.")


JUDGED = [  # gold, the data set's flag -> where_possible, always, never
    ("4", None, "kept", "kept", "kept"),
    ("4", False, "kept", "kept", "kept"),
    ("5", None, WRONG, WRONG, "kept"),
    ("5", True, WRONG, WRONG, "kept"),
    ("$$", None, *["answer can't be judged: unparsable_gold"] * 2, "kept"),
    ("$$", False, *["answer can't be judged: unparsable_gold"] * 2, "kept"),
    ("$$", True, "kept", "kept", "kept"),
    (None, None, "kept", "no gold answer to verify it against", "kept"),
    (None, True, "kept", "kept", "kept"),
    (None, False, *["wrong by the data set's own flag"] * 2, "kept"),
]


@pytest.mark.parametrize("place", range(3), ids=["where_possible", "always", "never"])
def test_verify_with_and_without_the_data_sets_own_flag(place):
    rows = [row(f"question {n}", gold=gold, ok=flag) for n, (gold, flag, *_) in enumerate(JUDGED)]
    outcomes = select(rows, columns={"correct": "ok"}, verify=("where_possible", "always", "never")[place])
    assert said(outcomes) == [case[2 + place] for case in JUDGED]


@pytest.mark.parametrize(
    ("generations", "kept"), [("first", ["Two and two is four."]), ("shortest", ["Easily four."]), ("all", None)]
)
def test_which_of_several_generations(generations, kept):
    outcomes = select([openr1()], generations=generations)
    traces = [outcome for outcome in outcomes if isinstance(outcome, Trace)]
    assert [t.reasoning for t in traces] == (kept or ["Two and two is four.", "Easily four."])
    assert all((t.question, t.id, t.answer) == ("2 + 2?", "r", "4") for t in traces)
    others = {"another generation was chosen": 1} if kept else {}
    assert Counter(said(outcomes)) == {"kept": len(traces), "unreadable: no thinking": 1, WRONG: 1} | others


def test_the_first_of_equally_short_ones():
    rows = [openr1(generations=[text("One two.", 4), text("Two one.", 4)])]
    assert said(select(rows, generations="shortest")) == ["kept", "another generation was chosen"]


@pytest.mark.parametrize("generations", ["first", "shortest", "all"])
def test_every_generation_has_one_outcome_in_the_order_of_the_source(tmp_path, generations):
    rows = [openr1(), row("b"), BadRow("not JSON", "a.jsonl, line 3"), openr1(), row("c", 5), {"x": 1}, openr1()]
    duplicates, contamination = Duplicates(database_of(tmp_path)), Contamination({"AIME24": ["b"]})
    outcomes = select(rows, generations=generations, duplicates=duplicates, contamination=contamination)
    assert Counter(outcome.number for outcome in outcomes) == {0: 4, 1: 1, 2: 1, 3: 4, 4: 1, 5: 1, 6: 4}
    places = [(o.number, o.generation) for o in outcomes if o.generation is not None]
    assert len(set(places)) == len(places) and places == sorted(places)
    assert [o.number for o in outcomes] == sorted(o.number for o in outcomes)


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        (0.8, ["kept", "near duplicate", "kept", "exact duplicate", "exact duplicate"]),
        (None, ["kept", "kept", "kept", "exact duplicate", "exact duplicate"]),
    ],
)
def test_the_first_of_duplicates_stays(tmp_path, near, expected):
    rows = [row(LONG), row(NEAR), row("2 + 2?"), row(LONG.upper(), thought="Otherwise."), row("2  + 2?")]
    outcomes = select(rows, duplicates=Duplicates(database_of(tmp_path), near))
    assert said(outcomes) == expected
    assert outcomes[3].excerpt == LONG.upper()[-300:]
    assert said(select(rows, duplicates=None)) == ["kept"] * 5


def test_a_duplicate_of_what_was_not_kept_is_kept(tmp_path):
    bad = {"question": LONG, "trace": "no thinking"}
    duplicates, contamination = Duplicates(database_of(tmp_path)), Contamination({"set": ["1 + 1?"]})
    rows = [row(LONG, 5), bad, row("1 + 1?"), row("1 + 1?"), row(LONG), row(NEAR)]
    assert said(select(rows, duplicates=duplicates, contamination=contamination)) == [
        WRONG, "unreadable: no thinking", "question of set", "question of set", "kept", "near duplicate",
    ]  # fmt: skip


def test_all_generations_of_a_duplicate_are_dropped(tmp_path):
    outcomes = select([openr1(), openr1()], generations="all", duplicates=Duplicates(database_of(tmp_path)))
    reasons = Counter(said(outcomes))
    assert reasons == {"kept": 2, WRONG: 2, "unreadable: no thinking": 2, "exact duplicate": 2}


def test_contamination_names_the_set():
    contamination = Contamination({"MATH-500": [LONG], "AIME24": ["k=3 l+4 m*7 ?"]})
    rows = [row(f"So: {NEAR}"), row("K=3 l+4 m*7"), row("k=3 l+4 m*8"), row(LONG, 5)]
    assert said(select(rows, contamination=contamination)) == [
        "question of MATH-500", "question of AIME24", "kept", WRONG,
    ]  # fmt: skip


def test_unreadable_rows_are_counted_with_what_they_are():
    rows = [BadRow("not UTF-8", "a.jsonl, line 1"), {"x": "é" * 999}, {**row("q"), "trace": "no thinking"}, [1]]
    outcomes = select(rows)
    assert said(outcomes) == [
        "unreadable: not UTF-8", "unreadable: no known format: columns x", "unreadable: no thinking",
        "unreadable: row is not a dict",
    ]  # fmt: skip
    assert [o.generation for o in outcomes] == [None] * 4
    assert outcomes[0].excerpt == "a.jsonl, line 1"
    assert outcomes[1].excerpt.startswith('{"x": "\\u00e9') and len(outcomes[1].excerpt) == 300
    assert "no thinking" in outcomes[2].excerpt


def test_a_column_that_the_source_lacks_is_an_error():
    with pytest.raises(ValueError, match="no column 'gold'"):
        select([row("q")], columns={"answer": "gold"})


SYSTEM = {"role": "system", "content": "Be brief."}


def chat(question, system="Be brief."):
    asked = [{**SYSTEM, "content": system}, {"role": "user", "content": question}]
    return {"messages": [*asked, {"role": "assistant", "content": text("Two.", 4)}], "answer": "4"}


def test_chats_are_compared_by_what_the_user_asks(tmp_path):
    rows = [chat(LONG), chat(LONG, "Be long."), row(LONG), chat("2 + 2?"), chat("k=3 l+4 ?", LONG)]
    contamination = Contamination({"AIME24": ["2 + 2"]})
    outcomes = select(rows, duplicates=Duplicates(database_of(tmp_path)), contamination=contamination)
    assert said(outcomes) == ["kept", "exact duplicate", "exact duplicate", "question of AIME24", "kept"]
    assert outcomes[0].question == [SYSTEM, {"role": "user", "content": LONG}]
    assert outcomes[1].excerpt == LONG


def test_budgets_are_the_traces_own_length_rounded_up():
    rows = [row("a", thought="w " * 6), row("b", thought="w " * 7), row("c", thought="w " * 8), chat("d")]
    outcomes = select(rows, budget={"round_to": 5, "prompt": "({budget}) ", "choices": [9]})  # a conclusion: 3 words
    assert [trace.budget for trace in outcomes] == [10, 10, 15, 5]
    assert [trace.question for trace in outcomes[:3]] == ["(10) a", "(10) b", "(15) c"]
    assert outcomes[3].question == [SYSTEM, {"role": "user", "content": "(5) d"}]
    (trace,) = select(rows[:1], budget={"choices": [9]})
    assert (trace.budget, trace.question) == (100, "Use at most 100 tokens for this problem.\n\na")
    assert select(rows[:1])[0].budget is None


def test_budgets_do_not_hide_duplicates(tmp_path):
    rows = [row(LONG), row(LONG, thought="w " * 200)]
    outcomes = select(rows, budget={"choices": [9]}, duplicates=Duplicates(database_of(tmp_path)))
    assert said(outcomes) == ["kept", "exact duplicate"]


def test_without_its_repeats_a_trace_may_be_the_shortest():
    passage = "One two three four five six seven eight."
    generations = [text(f"{passage}\n\n{passage}\n\n{passage}", 4), text(f"{passage} Nine ten.", 4)]
    rows = [openr1(generations=generations)]
    (trace, _) = select(rows, generations="shortest", drop_repeats=True, budget={"round_to": 1, "choices": [9]})
    assert (trace.reasoning, trace.budget) == (passage, 8 + 3)
    assert said(select(rows, generations="shortest")) == ["another generation was chosen", "kept"]


def test_a_resumed_run_selects_the_same(tmp_path):
    batches = [[row(LONG), openr1(), row("x", 5)], [row(NEAR), row("x"), openr1()], [row("x"), BadRow("r", "w")]]
    numbered = [[(3 * place + n, item) for n, item in enumerate(batch)] for place, batch in enumerate(batches)]

    def run(batches):
        database = database_of(tmp_path)
        found = [selector(duplicates=Duplicates(database)).select(batch) for batch in batches]
        database.commit()
        database.close()
        return found

    first = run(numbered)
    assert said(first[1])[:2] == ["near duplicate", "kept"] and "exact duplicate" in said(first[1])
    assert said(first[2]) == ["exact duplicate", "unreadable: r"]
    assert run(numbered) == first
    assert run(numbered[:1]) == first[:1]
    assert run(numbered[1:]) == first[1:]


def test_a_trace_is_named_by_what_it_is():
    rows = [row("a"), row("b"), openr1(), chat("d")]
    forward = selector(generations="all").select(list(enumerate(rows)))
    backward = selector(generations="all").select(list(enumerate(rows[::-1], start=70)))
    keys = [{t.key for t in outcomes if isinstance(t, Trace)} for outcomes in (forward, backward)]
    assert keys[0] == keys[1] and len(keys[0]) == 5
    other = select([row("a", thought="Two and three.")])[0]
    assert other.key not in keys[0]


def test_no_rows():
    assert select([]) == []
