"""Export and its way to the Hub, against a server on loopback that speaks the Hub's commit protocol."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rl.export import export_model
from rl.plots import context_over_time, pick_saw
from rollout.protocol import get_protocol

SUMMARY = [
    {"stage": stage, "dataset": "held_out", "accuracy": accuracy, "accuracy_ci95": [0.1, 0.2], "rounds_mean": 2.0,
     "tokens_mean": 30.0, "peak_context_mean": 40.0}
    for stage, accuracy in (("sft", 0.125), ("rl", 0.75))
]  # fmt: skip


@pytest.fixture
def exported(tiny_model, tokenizer, tmp_path):
    source = tmp_path / "final"
    source.mkdir()
    for path in Path(tiny_model).iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    get_protocol("inftythink", segment_tokens=8, summary_tokens=4, max_rounds=3).save(source)
    settings = {"samples": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 16}
    return export_model(
        source, tmp_path / "model", name="demo", summary=SUMMARY, eval_settings=settings, question="a=1 b+2 ?"
    )


def test_card_holds_the_measured_numbers(exported):
    card = (exported / "README.md").read_text()
    assert "| held_out | rl | 75.0 (10.0 to 20.0) | 2.00 | 30.0 | 40.0 |" in card
    assert "4 samples a question, temperature 1.0" in card
    assert json.loads((exported / "protocol.json").read_text())["max_rounds"] == 3


class Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes]
    created: list[dict]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            answer = {"url": f"http://{self.headers['Host']}/me/demo"}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        elif self.path.endswith("/preupload/main"):
            paths = [f["path"] for f in json.loads(body)["files"]]
            answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
        elif self.path.endswith("/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            answer = {"commitUrl": f"http://{self.headers['Host']}/me/demo/commit/1", "commitOid": "1", "success": True}
        else:
            self.send_error(404, self.path)
            return
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_push_sends_every_file(exported):
    Hub.files, Hub.created = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "import sys; from pathlib import Path; from rl.export import push_model; " \
           "push_model(Path(sys.argv[1]), 'me/demo', True)"  # fmt: skip
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_test", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", code, str(exported)], env=environment, capture_output=True, text=True
    )
    server.shutdown()
    assert result.returncode == 0, result.stderr[-1500:]
    assert Hub.created[0]["visibility"] == "private", Hub.created
    assert Hub.files == {p.name: p.read_bytes() for p in exported.iterdir()}


def test_the_saw_drops_to_the_prompt_and_the_single_context_does_not():
    rounds = [{"prompt_ids": [1] * 4, "completion_ids": [2] * 6}, {"prompt_ids": [1] * 5, "completion_ids": [2] * 3}]
    generated, saw, single = context_over_time(rounds)
    assert list(zip(generated, saw, single, strict=True)) == [(0, 4, 4), (0, 4, 4), (6, 10, 10), (6, 5, 10), (9, 8, 13)]
    episodes = [
        {"stop_reason": "answered", "num_rounds": n, "num_tokens": n, "rounds": [n]} for n in (1, 3, 2)
    ] + [{"stop_reason": "max_rounds", "num_rounds": 9, "num_tokens": 9, "rounds": [9]}]  # fmt: skip
    assert pick_saw(episodes) == [3]
    assert pick_saw(episodes[:1]) is None
