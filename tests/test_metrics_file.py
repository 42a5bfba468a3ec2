"""`metrics.jsonl` at a resume: what the stage repeats goes, and lines that are no logs stop nobody."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rl.exporting.run_facts import _steps
from rl.metrics_file import MetricsFile

NO_LOGS = [
    "null", "[]", "3", "\"sft\"", '{"step": 1}', '{"stage": "sft"}', '{"stage": "sft", "step": null}', '{"stage": "s',
    '{"stage": 5, "step": 1}', '{"stage": "sft", "step": NaN}', '{"stage": "sft", "step": [1]}', "[" * 100_000,
    '{"stage": "sft", "step": "two"}', "\x00\x00\x00", '{"stage": "sft", "step": 1e999}',
]  # fmt: skip


@pytest.mark.parametrize("line", NO_LOGS)
def test_lines_that_are_no_logs_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"stage": "sft", "step": 1, "loss": 2.0},
        {"stage": "sft", "step": 2, "loss": 1.0},
        {"stage": "sft", "step": 2, "train_runtime": 9.0},
        {"stage": "rl", "step": 7, "text": "a\u2028b"},
    ]
    before, *after = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join([before, line, *after]) + "\n", encoding="utf-8")
    assert _steps(path) == {"sft": 2, "rl": 7}
    state = SimpleNamespace(is_world_process_zero=True, global_step=1)
    MetricsFile(path, "sft").on_train_begin(None, state, None)
    assert path.read_text(encoding="utf-8") == f"{before}\n{after[-1]}\n"


def test_bytes_that_are_no_text_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"stage": "rl", "step": 1}\n\xff\xfe\n')
    state = SimpleNamespace(is_world_process_zero=True, global_step=0)
    MetricsFile(path, "sft").on_train_begin(None, state, None)
    assert path.read_bytes() == b'{"stage": "rl", "step": 1}\n'
