"""Summaries by vLLM in this process, through the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.bpe_model import build_model, build_tokenizer
from tests.test_data_stage import made_up

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_vllm_in_process_summarizes(tmp_path):
    rows = made_up(24, paragraphs=150)  # long prompts: vLLM would take several of them in parts
    texts = [row["trace"] for row in rows]
    build_tokenizer(tmp_path / "model", texts, 400)
    build_model(tmp_path / "model", texts, steps=60)
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": {"path": str(tmp_path / "model"), "dtype": "float32"},
        "protocol": {"segment_tokens": 1500, "summary_tokens": 100, "max_rounds": 8},
        "data": {"traces": "traces.jsonl"},
        "summarizer": {
            "engine": "vllm", "model": str(tmp_path / "model"), "checks": ["shorter", "copy", "answer"],
            "settings": {"max_model_len": 4096, "max_num_seqs": 16, "kv_cache_memory_bytes": 1 << 28},
        },
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    for name in ("first", "second"):
        result = subprocess.run(
            [sys.executable, "-P", "-m", "rl.app.cli", "data", "config.yaml", f"--name={name}"], cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    first, second = (
        pq.read_table(tmp_path / f"runs/{name}/data/dataset/rounds").to_pylist() for name in ("first", "second")
    )
    assert first == second, "seeded: the same data again"
    report = json.loads((tmp_path / "runs/first/data/report.json").read_text())
    assert report["kept"] >= 20 and report["rounds"] == 2 * report["kept"]
    assert report["summarizer"]["prompt_tokens"] > 1500 * report["kept"]
