"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.atomic import atomic

ROOT = Path(__file__).resolve().parents[1]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "table.json"
    for text in ("old", "new"):
        with atomic(path) as part:
            part.write_text(text)
            assert path.exists() == (text == "new")  # nothing of it stands there yet
    with pytest.raises(KeyError), atomic(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["table.json"]


def test_permissions_are_kept_and_those_of_a_new_file_are_as_everywhere(tmp_path):
    path = tmp_path / "table.json"
    before = os.umask(0o027)
    try:
        with atomic(path) as part:
            part.write_text("a")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        with atomic(path) as part:
            part.write_text("b")
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    script = (
        "import sys; from pathlib import Path; from rollout.atomic import atomic\n"
        "print('ready', flush=True)\n"
        "for n in range(10**9):\n"
        "    with atomic(Path('table')) as part: part.write_text(str(n % 10) * 100_000)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        writer.stdout.readline()
        while not (tmp_path / "table").exists():
            assert writer.poll() is None
        writer.kill()
        writer.wait()
        text = (tmp_path / "table").read_text()
        assert len(text) == 100_000 and len({*text}) == 1
