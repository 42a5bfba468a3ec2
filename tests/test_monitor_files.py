"""Files of episodes that come, change, break and go while the index holds them."""

from __future__ import annotations

import math
import random
import shutil
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl.monitor.episode_files import EpisodeReader, Unreadable
from rl.monitor.episodes import episodes, sources
from rl.monitor.index import EpisodeIndex
from tests.stored import age, episode, run_of, write


def opened(folder):
    index, run = EpisodeIndex(), run_of(folder)
    looked(index, run)
    return index, run


def looked(index, run):
    index.load(run, 60, every=0)


ONE = [episode("q", group, tokens=group + 1) for group in range(200)]


def test_a_half_written_file_is_said_and_read_once_it_is_whole(tmp_path):
    write(tmp_path, "episodes/train_000001", 1, ONE[:3])
    path = write(tmp_path, "episodes/train_000002", 2, ONE)
    whole = path.read_bytes()
    index, run = opened(tmp_path)
    with index:
        assert episodes(index, run)["total"] == 203
        for size in [0, 1, 4, 5, *range(7, len(whole), len(whole) // 40), len(whole) - 1]:
            path.write_bytes(whole[:size])
            looked(index, run)
            answer = episodes(index, run)
            assert answer["total"] == 3, size
            assert [f["file"] for f in answer["faults"]] == ["episodes/train_000002.parquet"]
            assert "half-written" in answer["faults"][0]["reason"] and "\n" not in answer["faults"][0]["reason"]
            assert answer["indexing"] == {"files": 2, "of": 2}
        path.write_bytes(whole)
        looked(index, run)
        assert episodes(index, run)["total"] == 203 and index.faults(run) == []


def test_damage_inside_a_file_is_said(tmp_path):
    path = write(tmp_path, "episodes/train_000000", 0, ONE)
    whole = path.read_bytes()
    index, run = opened(tmp_path)
    with index:
        for place in range(4, len(whole) - 8, len(whole) // 60):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) * 9 + whole[place + 9 :])
            looked(index, run)  # a fault, or rows where the damage is in what is not read
            answer = episodes(index, run)
            assert answer["total"] == 200 or len(answer["faults"]) == 1
            episodes(index, run, text="x")


def columns(**changes):
    base = {"step": [1], "episode": [0], "group": ["0"], "question": ["q"], "num_rounds": [1], "num_tokens": [3]}
    return {k: v for k, v in (base | {"rounds": [[{"text": "t"}]]} | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"a": [1]}, "is not a file of episodes"),
        (columns(episode=None), "is not a file of episodes (Constraint Error: NOT NULL"),
        (columns(rounds=None), None),
        (columns(step=["x"]), "Could not convert string 'x' to INT32 when casting from source column step"),
        (columns(step=[None]), "NOT NULL constraint failed: part.step"),
        (columns(step=[2**40]), "value 1099511627776 can't be cast"),
        (columns(question=[{"a": 1}]), "is not a file of episodes"),
        (columns(filename=["x"]), "is not a file of episodes"),
        (columns(), None),
        (columns(rounds=["text"], num_rounds=[0]), None),
        (columns(stop_reason=["gave up"], reward=[math.nan], correct=[math.inf], group=[17]), None),
        (columns(question=["\x00 nul"], answer=pa.array(["a"]).dictionary_encode()), None),
    ],
)
def test_foreign_parquet(tmp_path, table, reason):
    write(tmp_path, "episodes/train_000000", 0, ONE[:2])
    pq.write_table(pa.table(table), tmp_path / "episodes" / "train_000001.parquet")
    index, run = opened(tmp_path)
    with index:
        answer = episodes(index, run)
        if reason:
            assert answer["total"] == 2 and reason in answer["faults"][0]["reason"]
        else:
            assert answer["total"] == 3 and not answer["faults"] and answer["rows"][0]["reward"] is None
            assert answer["rows"][0]["correct"] is None
            assert answer["rows"][0]["stop_reason"] in ("gave up", "unknown")
        episodes(index, run, text="t")


def test_files_of_other_kinds_and_names(tmp_path):
    folder = tmp_path / "episodes"
    write(tmp_path, "episodes/train_000000", 0, ONE[:2])
    shutil.copy(folder / "train_000000.parquet", folder / "mine.parquet")
    (folder / "train_000001.tmp").write_bytes(b"half")
    (folder / "train_000002.parquet").mkdir()
    (folder / "train_000003.parquet").symlink_to("nowhere.parquet")
    (folder / "train_000004.parquet").write_text("<html>")
    index, run = opened(tmp_path)
    with index:
        faults = {fault["file"].removeprefix("episodes/"): fault["reason"] for fault in index.faults(run)}
        assert episodes(index, run)["total"] == 2
        assert faults.keys() == {"mine.parquet", "train_000002.parquet", "train_000004.parquet"}
        assert "named neither" in faults["mine.parquet"]


def test_files_change_and_go(tmp_path):
    for step in range(3):
        write(tmp_path, f"episodes/train_{step:06d}", step, ONE[:10])
    index, run = opened(tmp_path)
    with index:
        assert episodes(index, run)["total"] == 30
        write(tmp_path, "episodes/train_000002", 2, [episode("another", 0)] * 4)  # a resumed run rolled it out again
        (tmp_path / "episodes" / "train_000000.parquet").unlink()
        write(tmp_path, "episodes/train_000007", 7, ONE[:1])
        looked(index, run)
        answer = episodes(index, run)
        assert answer["total"] == 15 and answer["rows"][0]["step"] == 7 and answer["indexing"]["of"] == 3
        assert {row["question"] for row in answer["rows"] if row["step"] == 2} == {"another"}
        assert episodes(index, run, step_to=0)["total"] == 0
        shutil.rmtree(tmp_path / "episodes")
        looked(index, run)
        assert episodes(index, run)["total"] == 0 and sources(index, run)["sources"] == []


def test_a_run_that_is_deleted_stays_in_sight_and_one_that_never_was_is_empty(tmp_path):
    write(tmp_path / "a", "episodes/train_000000", 0, ONE[:10])
    index, run = opened(tmp_path / "a")
    with index:
        shutil.rmtree(tmp_path / "a")
        looked(index, run)
        assert episodes(index, run)["total"] == 10
        found = episodes(index, run, text="boxed")
        assert found["total"] == 0 and "no longer exists" in found["faults"][0]["reason"]
        other = run_of(tmp_path / "nowhere")
        other.id = "other"
        assert episodes(index, other)["total"] == 0 and episodes(index, other)["indexing"] == {"files": 0, "of": 0}


def test_runs_are_kept_apart(tmp_path):
    write(tmp_path / "a", "episodes/train_000000", 0, ONE[:10])
    write(tmp_path / "b", "episodes/train_000000", 0, ONE[:7])
    index, a = opened(tmp_path / "a")
    b = run_of(tmp_path / "b")
    b.id = "b"
    with index:
        looked(index, b)
        assert (episodes(index, a)["total"], episodes(index, b)["total"]) == (10, 7)
        assert sources(index, b)["sources"][0]["episodes"] == 7
        (tmp_path / "a" / "episodes" / "train_000000.parquet").unlink()
        looked(index, a)
        assert (episodes(index, a)["total"], episodes(index, b)["total"]) == (0, 7)


def test_an_old_run_without_verdicts(tmp_path):
    path = write(tmp_path, "episodes/train_000000", 0, ONE[:10], [1.0] * 10)
    age(path)
    index, run = opened(tmp_path)
    with index:
        assert episodes(index, run, correct="unknown")["total"] == 10
        assert sources(index, run)["sources"][0]["graded"] == 0


def test_the_first_page_comes_before_all_is_read(tmp_path):
    for step in range(60):
        write(tmp_path, f"episodes/train_{step:06d}", step, ONE[:20])
    run = run_of(tmp_path)
    with EpisodeIndex() as index:
        answer = episodes(index, run, limit=20)
        assert [row["step"] for row in answer["rows"]] == [59] * 20  # the newest first
        assert answer["total"] % 20 == 0 and answer["indexing"]["of"] == 60
        looked(index, run)
        assert episodes(index, run)["total"] == 1200


def test_a_full_index_says_what_it_leaves_out(tmp_path):
    for step in range(30):
        write(tmp_path, f"episodes/train_{step:06d}", step, ONE)
    run = run_of(tmp_path)
    with EpisodeIndex(most=500) as index:
        looked(index, run)
        answer = episodes(index, run)
        assert answer["total"] == 800 and answer["rows"][0]["step"] == 29  # the newest are in
        assert answer["faults"][0]["reason"].startswith("is not indexed: the index is full (")
        assert len(answer["faults"]) == 21 and answer["indexing"] == {"files": 30, "of": 30}
        shutil.rmtree(tmp_path / "episodes")
        looked(index, run)
        write(tmp_path, "episodes/train_000003", 3, ONE)
        looked(index, run)
        assert episodes(index, run)["total"] == 200  # there is room again
    big = [episode(f"{place} {'x' * 30_000}", place) for place in range(400)]
    for step in range(4):
        write(tmp_path, f"episodes/train_{step:06d}", step, [*ONE, *big[100 * step : 100 * step + 100]])
    with EpisodeIndex(memory="12MB") as index:
        looked(index, run)
        assert any("can't be indexed: Out of Memory" in fault["reason"] for fault in index.faults(run))
        assert index.progress(run) == {"files": 4, "of": 4}


def test_readers_never_see_half_of_a_file(tmp_path):
    """Files are rewritten with more and fewer episodes while others ask: each answer is one of whole files."""
    rng = random.Random(1)
    for step in range(6):
        write(tmp_path, f"episodes/train_{step:06d}", step, ONE[:100])
    index, run = opened(tmp_path)
    wrong, done = [], threading.Event()

    def ask():
        while not done.is_set():
            try:
                counts = index.query("SELECT step, count(*) AS n FROM episodes GROUP BY step")
                wrong.extend(row for row in counts if row["n"] % 50)
                episodes(index, run, sort="-tokens")
                episodes(index, run, text="boxed", limit=200)
                sources(index, run)
            except Exception as error:
                wrong.append(error)

    with index:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(25):
            write(tmp_path, f"episodes/train_{rng.randrange(6):06d}", rng.randrange(6), ONE[: rng.choice([50, 100])])
            index.load(run, every=0)
            time.sleep(0.02)
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_only_the_row_groups_that_hold_the_asked_rows_are_read(tmp_path):
    """The first one is overwritten: its rows can't be read, those of a later one can."""
    path = tmp_path / "train_000001.parquet"
    table = pa.table({"episode": range(400), "rounds": [[{"output": f"{n} " * 500}] for n in range(400)]})
    pq.write_table(table, path, row_group_size=100)
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    reader = EpisodeReader()
    assert [row["episode"] for row in reader.rows(path, [301, 300])] == [300, 301]
    with pytest.raises(Unreadable):
        reader.rows(path, [3])
    reader.close()
