"""Which checkpoint a stage goes on from, when the newest was cut off, lost a part, or is looked at by many ranks."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sft.checkpoints import DamagedCheckpoint, whole_folder
from sft.damage import find_damage, model_damage, write_sums
from sft.train import last_checkpoint


def whole(path, ranks=1):
    path.mkdir(parents=True)
    save_file({"a": torch.zeros(64), "b": torch.ones(8)}, path / "model.safetensors")
    for name in ("config.json", "counts.json"):
        (path / name).write_text("{}")
    for name in ["optimizer.pt", "scheduler.pt", *(f"rng_state_{r}.pth" for r in range(ranks) if ranks > 1)]:
        torch.save({"a": torch.zeros(64)}, path / name)
    if ranks == 1:
        torch.save({"a": torch.zeros(64)}, path / "rng_state.pth")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": int(path.name.rpartition("-")[2])}))
    write_sums(path)


def sharded(path):
    whole(path)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    save_file({"c": torch.zeros(64)}, path / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    write_sums(path)


def adapter(path):
    whole(path)
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text("{}")


def deepspeed(path):
    whole(path, ranks=2)
    folder = path / "global_step1"
    folder.mkdir()
    for rank in range(2):
        for kind in ("model", "optim"):
            torch.save({"a": torch.zeros(64)}, folder / f"zero_pp_rank_{rank}_mp_rank_00_{kind}_states.pt")
    (path / "optimizer.pt").unlink()
    (path / "latest").write_text("global_step1")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    """One byte of a tensor: no table says it."""
    data = bytearray(path.read_bytes())
    data[data.index(bytes(200)) + 100] ^= 0xFF
    path.write_bytes(data)


def nowhere(path):
    path.unlink()
    path.symlink_to("gone")


def folder(path):
    path.unlink()
    path.mkdir()


def of_json(text):
    def write(path):
        path.write_text(text)

    return write


DAMAGES = [
    *((whole, name, harm) for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
      for harm in (cut, empty, zeros, flip, nowhere, folder, Path.unlink)),
    *((whole, name, harm) for name in ("config.json", "counts.json") for harm in (empty, nowhere)),
    (whole, "counts.json", Path.unlink),
    *((whole, "trainer_state.json", of_json(text)) for text in ("{}", '{"global_step": 4}', '{"global_step": "x"}')),
    *((sharded, "model.safetensors.index.json", of_json(text)) for text in ("{}", "[]", '{"weight_map": 3}')),
    (sharded, "model-00001-of-00002.safetensors", flip),
    (adapter, "adapter_model.safetensors", cut),
    (adapter, "adapter_model.safetensors", Path.unlink),
    (adapter, "adapter_config.json", empty),
    (sharded, "model-00002-of-00002.safetensors", cut),
    (sharded, "model-00002-of-00002.safetensors", Path.unlink),
    (sharded, "model.safetensors.index.json", empty),
    (deepspeed, "global_step1/zero_pp_rank_1_mp_rank_00_optim_states.pt", cut),
    (deepspeed, "global_step1/zero_pp_rank_1_mp_rank_00_optim_states.pt", Path.unlink),
    (deepspeed, "global_step1/zero_pp_rank_0_mp_rank_00_model_states.pt", Path.unlink),
    (deepspeed, "rng_state_0.pth", Path.unlink),
    (deepspeed, "latest", Path.unlink),
]  # fmt: skip


@pytest.mark.parametrize("make", [whole, sharded, adapter, deepspeed])
def test_nothing_is_wrong_with_a_whole_one(tmp_path, make):
    make(tmp_path / "checkpoint-1")
    assert find_damage(tmp_path / "checkpoint-1") is None
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


@pytest.mark.parametrize(("make", "name", "harm"), DAMAGES)
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, capsys, make, name, harm):
    make(tmp_path / "checkpoint-9")
    make(tmp_path / "checkpoint-10")
    harm(tmp_path / "checkpoint-10" / name)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    (line,) = capsys.readouterr().out.splitlines()
    assert "checkpoint-10 is damaged (" in line and "resuming from checkpoint-9" in line
    assert Path(name).name in line
    assert (tmp_path / "damaged-checkpoint-10").is_dir() and not (tmp_path / "checkpoint-10").exists()


def test_without_a_whole_one_it_says_so_and_touches_nothing(tmp_path):
    whole(tmp_path / "checkpoint-10")
    cut(tmp_path / "checkpoint-10/model.safetensors")
    with pytest.raises(DamagedCheckpoint, match=r"be read \(checkpoint-10: model.safetensors is truncated") as error:
        last_checkpoint(tmp_path)
    assert "\n" not in str(error.value) and (tmp_path / "checkpoint-10").is_dir()


def test_half_written_ones_are_said_and_other_folders_left_alone(tmp_path, capsys):
    others = ["checkpoint-", "checkpoint--1", "checkpoint-007", "checkpoint-1e3", "checkpoint-best"]
    for name in others:
        (tmp_path / name).mkdir()
    whole(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-10/trainer_state.json").unlink()
    whole(tmp_path / "checkpoint-11")
    empty(tmp_path / "checkpoint-11/trainer_state.json")
    assert last_checkpoint(tmp_path) is None
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        str(tmp_path / "checkpoint-11"), "removed",
    ]  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == [*others, "damaged-checkpoint-11"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("gone")])
def test_what_only_has_the_name_of_a_checkpoint_makes_way(tmp_path, capsys, make):
    whole(tmp_path / "checkpoint-9")
    make(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert "checkpoint-10 is damaged (is not a folder)" in capsys.readouterr().out
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-9"]


def test_a_model_that_a_stage_has_saved(tmp_path):
    for make, name in ((whole, "model.safetensors"), (sharded, "model-00002-of-00002.safetensors")):
        for harm in (None, cut, empty, flip, nowhere, folder, Path.unlink):
            final = tmp_path / f"{name} {harm}-1"
            make(final)
            for other in ("protocol.json", "tokenizer_config.json"):
                (final / other).write_text("{}")
            if harm:
                harm(final / name)
            assert (name in (model_damage(final) or "")) == (harm is not None)
        (final / "protocol.json").unlink()
        assert model_damage(final)
    assert model_damage(tmp_path / "none") == "is missing"


def look(folder, together, found):
    together.wait()
    try:
        found.put(last_checkpoint(folder))
    except BaseException as error:
        found.put(repr(error))


@pytest.mark.slow
def test_eight_processes_at_once_find_the_same(tmp_path):
    fork = multiprocessing.get_context("fork")
    for trial in range(20):
        folder = tmp_path / str(trial)
        whole(folder / "checkpoint-10")
        half = folder / "checkpoint-20/global_step20"
        half.mkdir(parents=True)
        for rank in range(20):
            (half / f"zero_pp_rank_{rank}_optim.pt").write_bytes(b"x" * 1000)
        together, found = fork.Barrier(8), fork.Queue()
        ranks = [fork.Process(target=look, args=(folder, together, found)) for _ in range(8)]
        for rank in ranks:
            rank.start()
        results = {found.get(timeout=120) for _ in ranks}
        for rank in ranks:
            rank.join()
        assert results == {str(folder / "checkpoint-10")}


def test_a_folder_appears_whole_and_in_the_place_of_the_old_one(tmp_path):
    final = tmp_path / "final"
    for text in ("one", "two"):
        with whole_folder(final) as part:
            (part / "text").write_text(text)
            assert not final.exists() or (final / "text").read_text() == "one"
    with pytest.raises(KeyError), whole_folder(final) as part:
        (part / "text").write_text("half")
        raise KeyError
    assert (final / "text").read_text() == "two"
