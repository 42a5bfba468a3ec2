"""Rows of files and functions: in order, from any one on, and what can't be read said in one line."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.errors import InputError
from rollout.store import read_episodes
from sft.data.sources import MOST_ROWS, BadRow, Source, load_rows, open_source

ROWS = [{"question": f"q{n} é 漢", "answer": str(n)} for n in range(5)]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def parquet(path, rows, group=2):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return str(path)


def rows_of(spec, start=0, **settings):
    return list(open_source(spec, **settings).rows(start))


FILES = ["jsonl", "jsonl.gz", "list.json", "data.json", "parquet", "csv"]


@pytest.fixture(params=[*FILES, "list.py", "generator.py"])
def spec(request, tmp_path):
    """ROWS in each form that a source may have."""
    path = tmp_path / f"rows.{request.param}"
    body = f"import json\nROWS = json.loads({json.dumps(ROWS)!r})\ndef rows():\n    "
    lines = ["question,answer", *(f"{row['question']},{row['answer']}" for row in ROWS)]
    data = {
        "jsonl": jsonl(ROWS),
        "jsonl.gz": gzip.compress(jsonl(ROWS)),
        "list.json": json.dumps(ROWS, indent=1),
        "data.json": json.dumps({"version": 2, "data": ROWS}),
        "csv": "\n".join(lines),
        "list.py": f"{body}return ROWS\n",
        "generator.py": f"{body}yield from ROWS\n",
    }
    if request.param == "parquet":
        return parquet(path, ROWS)
    return write(path, data[request.param]) + (":rows" if path.suffix == ".py" else "")


def test_each_form_gives_the_same_rows_from_any_one_on(spec):
    source = open_source(spec)
    assert (source.spec, source.columns) == (spec, {})
    for start in (0, 2, 4, 5, 9, 0):
        assert list(source.rows(start)) == ROWS[start:]
    known = spec.endswith((".jsonl", ".parquet", "list.py:rows"))
    assert source.length == (len(ROWS) if known else None)
    assert load_rows(spec) == ROWS


@pytest.mark.parametrize("spec", FILES, indirect=True)
def test_limit_holds_from_any_row_on(spec):
    source = open_source(spec, limit=3)
    assert source.length in (3, None)
    assert [list(source.rows(start)) for start in (0, 1, 3, 4)] == [ROWS[:3], ROWS[1:3], [], []]
    assert rows_of(spec, limit=9) == ROWS


def test_two_iterators_of_one_source_do_not_disturb_each_other(spec):
    source = open_source(spec)
    one, other = source.rows(), source.rows(1)
    assert [next(one), next(other), next(one), next(other)] == [ROWS[0], ROWS[1], ROWS[1], ROWS[2]]


def test_broken_lines_of_jsonl_are_rows_too(tmp_path):
    lines = [b'{"a": 1}', b"", b'{"a": ', b"  \t\r", b'{"a": "\xff"}', b"[1]", b"[" * 100_000, b'{"a": 2}']
    path = write(tmp_path / "a.jsonl", b"\n".join(lines))
    source = open_source(path)
    expected = [
        {"a": 1},
        BadRow("not JSON", f"{path}, line 3"),
        BadRow("not UTF-8", f"{path}, line 5"),
        BadRow("not a JSON object", f"{path}, line 6"),
        BadRow("not JSON", f"{path}, line 7"),
        {"a": 2},
    ]
    assert list(source.rows()) == expected and source.length == len(expected)
    assert list(source.rows(2)) == expected[2:]
    assert rows_of(write(tmp_path / "a.jsonl.gz", gzip.compress(b"\n".join(lines))))[0] == {"a": 1}
    with pytest.raises(ValueError, match=r"a.jsonl, line 3: not JSON"):
        load_rows(path)


def test_json_of_other_shapes(tmp_path):
    assert rows_of(write(tmp_path / "one.json", '{"a": 1}')) == [{"a": 1}]
    path = write(tmp_path / "mixed.json", '[{"a": 1}, 2]')
    assert rows_of(path) == [{"a": 1}, BadRow("not a JSON object", f"{path}, row 1")]


def test_csv_of_long_fields_and_a_byte_order_mark(tmp_path):
    long = 'x, "quoted"\n' * 41_667
    assert len(long) > 500_000
    quoted = long.replace('"', '""')
    path = write(tmp_path / "a.csv", f'\ufeffquestion,trace\r\nq,"{quoted}"\r\n\r\nr,\r\ns\r\nt,1,2\r\n'.encode())
    *rows, last = rows_of(path)
    assert rows == [
        {"question": "q", "trace": long}, {"question": "r", "trace": ""}, {"question": "s", "trace": None},
    ]  # fmt: skip
    assert (last.reason, last.where.startswith(f"{path}, line ")) == ("more fields than columns", True)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"", "a.json is not JSON"),
        ("a.json", b'{"a": 1}\n{"a": 2}\n', r"is not JSON: .* \(for one object per line, use .jsonl\)"),
        ("a.json", b'[{"a": "\xff"}]', "a.json is not JSON"),
        ("a.csv", b"a,b\n1,\xff\n", "a.csv is not a CSV file in UTF-8"),
        ("a.parquet", b"PAR1", "a.parquet is not Parquet"),
        ("a.jsonl.gz", b'{"a": 1}\n', "a.jsonl.gz is a truncated or invalid gzip file"),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS))[:-12], "a.jsonl.gz is a truncated or invalid gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(jsonl(ROWS))[:10] + b"\xff" * 30,
            "a.jsonl.gz is a truncated or invalid gzip file",
        ),
    ],
    ids=["empty", "lines", "bytes", "csv", "parquet", "plain gz", "short gz", "wrong gz"],
)
def test_a_damaged_file_is_one_line(tmp_path, name, data, message):
    path = write(tmp_path / name, data)
    with pytest.raises(ValueError, match=message) as error:
        rows_of(path)
    assert "\n" not in str(error.value)


def test_patterns_are_read_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.jsonl", "a/10.jsonl", "a/1.jsonl"):
        write(tmp_path / name, jsonl([{"name": name}] * 2))
    source = open_source(f"{tmp_path}/*/*.jsonl")
    names = [row["name"] for row in source.rows()]
    assert names == ["a/1.jsonl"] * 2 + ["a/10.jsonl"] * 2 + ["b/2.jsonl"] * 2
    assert source.length == 6 and [row["name"] for row in source.rows(3)] == names[3:]
    assert len(rows_of(f"{tmp_path}/**/[12].jsonl")) == 4
    for n in range(2):
        parquet(tmp_path / f"{n}.parquet", ROWS)
    assert rows_of(f"{tmp_path}/?.parquet") == ROWS * 2 and open_source(f"{tmp_path}/?.parquet").length == 10
    with pytest.raises(ValueError, match=r"no data file matches .*/\*\.csv"):
        open_source(f"{tmp_path}/*.csv")


def test_a_files_own_brackets_are_no_pattern(tmp_path):
    assert rows_of(write(tmp_path / "rows[1].jsonl", jsonl(ROWS))) == ROWS


def function(tmp_path, text):
    return write(tmp_path / "plugin.py", text) + ":rows"


def test_functions_take_their_own_arguments_and_run_again_for_a_second_reading(tmp_path):
    calls = tmp_path / "calls"
    spec = function(
        tmp_path,
        f"def rows(count, limit=9):\n    with open({str(calls)!r}, 'a') as file:\n        file.write('x')\n"
        "    return ({'n': n, 'limit': limit} for n in range(count))\n",
    )
    source = open_source(spec, count=4, limit=2)
    assert [row["n"] for row in source.rows(1)] == [1, 2, 3] and calls.read_text() == "x"
    assert [row["n"] for row in source.rows(1)] == [1, 2, 3] and calls.read_text() == "xx"
    assert list(source.rows(3)) == [{"n": 3, "limit": 2}]


def test_a_function_that_returns_no_rows(tmp_path):
    with pytest.raises(ValueError, match=r"plugin.py:rows' returned None; it must return rows"):
        open_source(function(tmp_path, "def rows():\n    pass\n"))


def test_settings_that_can_not_be(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl(ROWS))
    with pytest.raises(ValueError, match="takes no 'count'; known: name, split, streaming, limit, columns"):
        open_source(path, count=3)
    for limit in (0, -1, 1.5, "9", True):
        with pytest.raises(ValueError, match=f"limit is {limit!r}; it must be a whole number of at least 1"):
            open_source(path, limit=limit)
    with pytest.raises(ValueError, match=r"columns is \['question'\]; write"):
        open_source(path, columns=["question"])
    assert rows_of(path, limit=None, columns=None) == ROWS


def test_columns_are_named_beside_the_sources_own(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"problem": "p", "answer": "long", "final": "4"}\n')
    row = {"problem": "p", "answer": "long", "final": "4"}
    assert load_rows(path, columns={"question": "problem", "answer": "final"}) == [
        {**row, "question": "p", "answer": "4"}
    ]
    swapped = load_rows(path, columns={"final": "answer", "answer": "final"})
    assert swapped == [{"problem": "p", "answer": "4", "final": "long"}]
    assert rows_of(path, columns={"question": "problem"}) == [row]  # the data stage's reader takes `Source.columns`
    with pytest.raises(ValueError, match="has no column 'gold'; it has problem, answer, final"):
        load_rows(path, columns={"answer": "gold"})


def test_missing_and_empty_sources(tmp_path):
    with pytest.raises(ValueError, match=r"data file .*nowhere.jsonl does not exist"):
        load_rows(str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=r"folder.jsonl is not a readable file"):
        load_rows(str(tmp_path / "folder.jsonl"))
    for name, data in [("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.csv", "a,b\n"), ("b.csv", "")]:
        with pytest.raises(ValueError, match="is empty: there is nothing to train or evaluate on"):
            load_rows(write(tmp_path / name, data))
    with pytest.raises(ValueError, match="is empty"):
        load_rows(function(tmp_path, "def rows():\n    return []\n"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.jsonl.gz"])
def test_rows_are_streamed(tmp_path, name):
    path, row = tmp_path / name, {"question": "q" * 100, "trace": "t" * 9_900}
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        if path.suffix == ".csv":
            file.write(b"question,trace\n")
        line = ",".join(row.values()).encode() + b"\n" if path.suffix == ".csv" else jsonl([row])
        for _ in range(2_000):
            file.write(line)
    tracemalloc.start()
    count = sum(item == row for item in open_source(str(path)).rows())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 2_000
    assert peak < 5_000_000  # of 20 MB


def test_row_groups_of_parquet_are_streamed(tmp_path):
    rng = random.Random(0)
    rows = [{"trace": rng.randbytes(5_000).hex()} for _ in range(2_000)]
    source = open_source(parquet(tmp_path / "a.parquet", rows, group=100))
    before = pa.total_allocated_bytes()
    peak = max(pa.total_allocated_bytes() - before for _ in source.rows())
    assert peak < 10_000_000  # of 20 MB


def test_a_length_from_a_card_that_is_out_of_date_cuts_nothing_off():
    assert len(list(Source("hub", lambda start: iter(range(start, 10)), 6).rows(2))) == 8


def test_a_small_file_of_very_many_rows_is_not_read(tmp_path):
    rows = pa.repeat(pa.scalar("q"), MOST_ROWS + 1).dictionary_encode()
    path = tmp_path / "many.parquet"
    pq.write_table(pa.table({"question": rows, "answer": rows}), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"many.parquet' has 5,000,001 rows; at most 5,000,000 .* set `limit`$"):
        load_rows(str(path))
    assert len(load_rows(str(path), limit=3)) == 3
    with pytest.raises(ValueError, match="5,000,001 rows; at most 2,097,152 episodes"):
        read_episodes(tmp_path)
