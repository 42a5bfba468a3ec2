"""Upload of an export: the real client against a Hub on loopback, cut, killed, refused, and gone on with."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys

import pytest

from rl.exporting.upload import tag_name
from tests.hub_large import LargeHub
from tests.hub_server import hub_environment

_UPLOAD = """
import json, sys
from pathlib import Path
from rl.exporting.upload import UploadError, upload
try:
    print(upload(Path(sys.argv[1]), **json.loads(sys.argv[2])))
except UploadError as error:
    print(error)
    sys.exit(2)
"""


@pytest.fixture
def hub(tmp_path):
    server = LargeHub(tmp_path / "server", part_bytes=1_500_000)
    yield server
    server.stop()


@pytest.fixture
def folder(tmp_path):
    """As an export looks: some text, and two shards, of which the second goes up in several parts."""
    path = tmp_path / "model"
    (path / "custom_generate").mkdir(parents=True)
    (path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# Demo\n")
    (path / "custom_generate/generate.py").write_text("def generate(model, **kwargs):\n    return None\n")
    for number, size in ((1, 900_000), (2, 4_000_000)):
        (path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"\0" * 9 + random.Random(size).randbytes(size))
    return path


def start(hub, folder, repo_id="me/demo", environment=None, **settings):
    command = [sys.executable, "-W", "ignore", "-c", _UPLOAD, str(folder), json.dumps({"repo_id": repo_id, **settings})]
    env = hub_environment(hub, folder.parent) | (environment or {})
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code=0):
    """What it printed; its last line is the address, or why it stopped."""
    out, error = process.communicate(timeout=100)
    assert process.returncode == code, out + error[-3000:]
    return out.splitlines()


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def oids(folder):
    return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.safetensors"))]


def test_a_killed_and_a_cut_upload_end_whole_and_send_no_file_twice(hub, folder):
    first, second = oids(folder)
    hub.fail_uploads_after(1_200_000, n_objects=1, times=99)  # in the second file, when the first has arrived
    killed = start(hub, folder, tag="demo")
    assert hub.broken.wait(60), killed.communicate()
    killed.kill()
    killed.communicate()
    assert hub.files("me/demo", "model") == {} and hub.arrived == [first]

    hub.fail_uploads_after(1_200_000)  # one cut more: this time the client lives, and sends the part again by itself
    url = finish(start(hub, folder, tag="demo"))[-1]
    assert url == f"{hub.url}/me/demo/tree/demo"
    assert hub.broken.is_set() and hub.files("me/demo", "model", "demo") == content(folder)
    assert hub.arrived == [first, second] and hub.puts(first) == 1
    repo = hub.repos["models/me/demo"]
    assert repo.private and repo.refs["tags/demo"] == repo.refs["heads/main"]

    commits, lines = len(repo.commits), finish(start(hub, folder, tag="demo"))
    assert len(repo.commits) == commits and len(hub.arrived) == 2
    assert lines[-2:] == ["upload: done, already in the repo", url]


def test_a_tag_moves_only_when_told_and_old_shards_go(hub, folder):
    finish(start(hub, folder, tag="demo"))
    before = content(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "model.safetensors").write_bytes(b"\0" * 2000)
    mine = {"LICENSE": b"mine", "onnx/model.safetensors": b"mine"}
    hub.add("me/demo", "model", mine)
    assert finish(start(hub, folder, tag="demo"), 2)[-1] == (
        "the tag 'demo' of me/demo is on a different model.safetensors: delete it there, name another one (export.tag) "
        "or move it (export.move_tag: true)"
    )
    assert hub.files("me/demo", "model") == before | mine  # it stopped before it began
    finish(start(hub, folder, tag="demo-step-20"))
    assert hub.files("me/demo", "model", "demo") == before
    assert hub.files("me/demo", "model", "demo-step-20") == content(folder) | mine
    finish(start(hub, folder, tag="demo", move_tag=True, revision="next"))
    assert hub.files("me/demo", "model", "demo") == hub.files("me/demo", "model", "next")
    assert hub.files("me/demo", "model", "next") == content(folder) | mine


def test_a_public_repo_is_refused_unless_told(hub, folder):
    hub.add("me/open", "model", {"a.txt": b"a"})
    line = finish(start(hub, folder, "me/open"), 2)[-1]
    assert line == "me/open is public: make it private there, or allow it (export.private: false)"
    finish(start(hub, folder, "me/open", private=False))
    assert hub.files("me/open", "model") == content(folder) | {"a.txt": b"a"}


@pytest.mark.parametrize(
    ("status", "path", "line"),
    [
        (401, "/repos/create", "the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN to"),
        (403, "/commit/", "the token may not write to me/demo (403: read only): it needs write access to me"),
        (503, "/refs", "the Hub returned 503 (read only); uploaded files are kept; run the same command again"),
    ],
)
def test_a_refusal_is_one_line(hub, folder, status, path, line):
    hub.refuse(status, path, message="read only")
    assert finish(start(hub, folder, tag="demo"), 2)[-1].startswith(line)


def test_a_server_that_stumbles_is_asked_again(hub, folder):
    """By the Hub's own client."""
    for path in ("/preupload/", "/objects/batch"):
        hub.refuse(500, path, times=1, message="busy")
    finish(start(hub, folder))
    assert hub.files("me/demo", "model") == content(folder)


@pytest.mark.parametrize(
    ("repo_id", "environment", "line"),
    [
        ("demo", {}, "repo_id is 'demo': write user/name"),
        ("me/a b", {}, "repo_id: Repo id must use alphanumeric"),
        ("me/demo", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("me/demo", {"HF_TOKEN": "", "HF_TOKEN_PATH": "/nowhere"}, "no Hugging Face token found"),
        ("me/demo", {"HF_ENDPOINT": "http://127.0.0.1:1"}, "the connection to the Hub failed ("),
    ],
)
def test_what_is_wrong_here_is_one_line(hub, folder, repo_id, environment, line):
    lines = finish(start(hub, folder, repo_id, environment), 2)
    assert lines[-1].startswith(line) and hub.repos == {}


def test_tags_are_names_that_git_takes():
    assert tag_name("demo") == "demo" and tag_name("demo", 20) == "demo-step-20"
    assert tag_name("run 2: lr=1e-6~b..x.lock") == "run-2-lr=1e-6-b-x" and tag_name("é") == "run"
