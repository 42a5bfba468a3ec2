"""Loading from and pushing to a Hub, with the real client libraries in processes of their own."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer, hub_environment

_CARD = """---
configs:
- config_name: main
  default: true
  data_files:
  - {split: train, path: data/train-*.parquet}
  - {split: test, path: data/test.parquet}
- config_name: hard
  data_files: hard/*.parquet
---
# Sums
"""

_LINES = b"""---
configs:
- {config_name: easy, data_files: easy.jsonl}
- {config_name: hard, data_files: "hard/*.jsonl"}
---
"""

_LOAD = """
import itertools, json
from datasets import get_dataset_config_names, load_dataset
seen = {"configs": get_dataset_config_names("me/sums")}
seen["sizes"] = {split: len(rows) for split, rows in load_dataset("me/sums").items()}
seen["named"] = len(load_dataset("me/sums", "hard", split="train"))
seen["lines"] = load_dataset("me/lines", "hard", split="train")["answer"][:]
seen["bare"] = load_dataset("me/bare", split="train")["n"][:]
stream = load_dataset("me/sums", streaming=True)
seen["streamed"] = {split: sum(1 for _ in rows) for split, rows in stream.items()}
seen["skipped"] = [row["n"] for row in itertools.islice(stream["train"].skip(1500), 3)]
lines = load_dataset("me/lines", "hard", split="train", streaming=True)
seen["lines_skipped"] = [row["answer"] for row in lines.skip(3)]
for name, arguments in {"missing": ("me/missing",), "config": ("me/sums", "soft")}.items():
    try:
        load_dataset(*arguments, split="train", streaming=name == "missing")
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {error}"
print(json.dumps(seen))
"""

_UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/data", repo_type="dataset", private=True, exist_ok=True)
if sys.argv[2] == "large":
    api.upload_large_folder("me/data", sys.argv[1], repo_type="dataset", num_workers=1, print_report=False)
else:
    api.upload_folder(repo_id="me/data", folder_path=sys.argv[1], repo_type="dataset")
"""

_PUSH = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, snapshot_download
from rl.exporting.upload import upload
api, folder = HfApi(), Path(sys.argv[1])
seen = {"url": upload(folder, "me/model", log=lambda line: None)}
first = api.model_info("me/model")
upload(folder, "me/model", log=lambda line: None)
seen["again"] = api.model_info("me/model").sha == first.sha
api.create_tag("me/model", tag="v1")
(folder / "new.txt").write_text("new")
upload(folder, "me/model", log=lambda line: None)
seen["now"] = sorted(api.list_repo_files("me/model"))
seen["tagged"] = sorted(p.name for p in Path(snapshot_download("me/model", revision="v1")).iterdir())
seen["tags"] = [tag.name for tag in api.list_repo_refs("me/model").tags]
try:
    HfApi(token=False).model_info("me/model")
except Exception as error:
    seen["anonymous"] = type(error).__name__
print(json.dumps(seen))
"""


@pytest.fixture
def hub(tmp_path):
    server = HubServer(tmp_path / "server")
    yield server
    server.stop()


def _client(hub: HubServer, home: Path, code: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=hub_environment(hub, home), cwd=home, stdout=pipe, stderr=pipe, text=True)


def _finish(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error[-2000:]
    return out.splitlines()[-1] if out else ""


def _parquet(first: int, rows: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"n": range(first, first + rows)}), file, row_group_size=500)
    return file.getvalue()


def _noise(size: int) -> bytes:
    """A parquet file of about `size` bytes that does not compress."""
    file = io.BytesIO()
    pq.write_table(pa.table({"blob": [random.Random(0).randbytes(size)]}), file)
    return file.getvalue()


def test_real_loaders_read_configs_splits_and_streams(hub, tmp_path):
    hub.add("me/sums", "dataset", {
        "README.md": _CARD.encode(), "data/train-0.parquet": _parquet(0, 1200), "hard/a.parquet": _parquet(0, 5),
        "data/train-1.parquet": _parquet(1200, 800), "data/test.parquet": _parquet(0, 7),
    })  # fmt: skip
    rows = [json.dumps({"answer": str(n)}).encode() + b"\n" for n in range(5)]
    files = {"README.md": _LINES, "easy.jsonl": rows[0]}
    hub.add("me/lines", "dataset", files | {"hard/a.jsonl": rows[0] + rows[1], "hard/b.jsonl": b"".join(rows[2:])})
    hub.add("me/bare", "dataset", {"train.jsonl": b'{"n": 1}\n{"n": 2}\n'}, private=True)
    seen = json.loads(_finish(_client(hub, tmp_path, _LOAD)))
    assert seen["configs"] == ["main", "hard"]
    assert seen["sizes"] == seen["streamed"] == {"train": 2000, "test": 7}
    assert seen["named"] == 5 and seen["lines"] == list("01234") and seen["bare"] == [1, 2]
    assert seen["skipped"] == [1500, 1501, 1502] and seen["lines_skipped"] == ["3", "4"]
    assert seen["missing"].startswith("DatasetNotFoundError: ") and "me/missing" in seen["missing"]
    assert "soft" in seen["config"]


def test_a_killed_and_a_cut_upload_end_whole_and_send_each_object_once(hub, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    files = {"README.md": _CARD.encode(), "small.parquet": _parquet(0, 9), "big.parquet": _noise(4_000_000)}
    for name, data in files.items():
        (folder / name).write_bytes(data)

    hub.fail_uploads_after(1_000_000, n_objects=1, times=9)
    killed = _client(hub, tmp_path, _UPLOAD, str(folder), "whole")
    assert hub.broken.wait(60), killed.communicate()[1][-2000:]
    killed.kill()
    killed.communicate()
    assert hub.files("me/data", "dataset") == {} and len(hub.arrived) == 1

    hub.fail_uploads_after(2_000_000)  # this time the client lives and sends the object again by itself
    _finish(_client(hub, tmp_path, _UPLOAD, str(folder), "large"))
    assert hub.broken.is_set() and hub.files("me/data", "dataset") == files
    assert hub.repos["datasets/me/data"].private
    assert len(hub.arrived) == len(set(hub.arrived)) == 2
    puts = [path for method, path in hub.requests if method == "PUT"]
    assert puts.count(f"/objects/{hub.arrived[0]}") == 1 and puts.count(f"/objects/{hub.arrived[1]}") >= 3

    (folder / "more.parquet").write_bytes(_noise(3_000_000))
    _finish(_client(hub, tmp_path, _UPLOAD, str(folder), "whole"))
    assert hub.files("me/data", "dataset") == files | {"more.parquet": _noise(3_000_000)}
    assert len(hub.arrived) == len(set(hub.arrived)) == 3


def test_an_upload_is_private_and_repeatable(hub, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    files = {"README.md": b"---\nlibrary_name: transformers\n---\n# Demo\n", "model.safetensors": b"\0" * 3_000_000}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    seen = json.loads(_finish(_client(hub, tmp_path, _PUSH, str(folder))))
    assert seen["url"] == f"{hub.url}/me/model" and hub.repos["models/me/model"].private
    assert seen["again"] and seen["tags"] == ["v1"] and seen["tagged"] == sorted(files)
    assert hub.files("me/model", "model") == files | {"new.txt": b"new"} and seen["now"] == sorted([*files, "new.txt"])
    assert seen["anonymous"] == "RepositoryNotFoundError" and len(hub.arrived) == 1
