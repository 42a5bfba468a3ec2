"""Shards that two ranks under ZeRO-3 have left become the weights that they had together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rl.exporting.export import export_model
from rollout.protocol import get_protocol

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_shards_of_two_ranks_are_consolidated(tiny_model, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*launcher, "-m", "tests.rank_checkpoint", tiny_model, str(tmp_path), "3", "whole"],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    checkpoint, gathered = tmp_path / "checkpoint-2", load_file(tmp_path / "gathered.safetensors")
    assert not list(checkpoint.glob("*.safetensors"))
    get_protocol("inftythink").save(checkpoint)

    def export():
        return export_model(checkpoint, tmp_path / "model", name="zero", summary=[], eval_settings={}, question="a ?")

    weights = load_file(export() / "model.safetensors")
    assert weights.keys() == gathered.keys()
    assert all(torch.equal(weights[name], gathered[name]) for name in gathered)
    assert not torch.equal(weights["lm_head.weight"], load_file(f"{tiny_model}/model.safetensors")["lm_head.weight"])
    assert {path.name for path in (tmp_path / "model").iterdir()}.isdisjoint({"latest", "zero_to_fp32.py"})

    next(checkpoint.glob("global_step2/*rank_1*_optim_states.pt")).unlink()
    with pytest.raises(ValueError, match=r"the ZeRO shards in .* are incomplete: Expected 2 of"):
        export()
