"""Whose mistake it is: the user's is one line, ours keeps its traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rewards.call import RewardError
from rl.app import rewards_cli
from rl.app.cli import main
from rl.app.disk import WriteError
from rl.exporting.upload import UploadError
from rl.settings.schema import ConfigError
from rollout.errors import NoServerError, UserError


@pytest.mark.parametrize("kind", [ConfigError, RewardError, UploadError, WriteError, NoServerError])
def test_a_users_mistake_is_one_line(kind, monkeypatch, capsys):
    def refuse(*_):
        raise kind("there is no such thing: name another")

    assert issubclass(kind, UserError)
    monkeypatch.setattr(rewards_cli, "run_command", refuse)
    assert main(["rewards", "test", "f.py:f"]) == 2
    assert capsys.readouterr().err == "sawtooth: there is no such thing: name another\n"


@pytest.mark.parametrize(
    "bug",
    [
        lambda: list(zip([1], [2, 3], strict=True)),
        lambda: int("x"),
        lambda: Path("/nowhere/at/all").read_text(),
        lambda: iter(range(3)).__next__.missing,
    ],
)
def test_a_bug_of_ours_keeps_its_traceback(bug, monkeypatch):
    monkeypatch.setattr(rewards_cli, "run_command", lambda *_: bug())
    with pytest.raises((ValueError, OSError, AttributeError)) as error:
        main(["rewards", "test", "f.py:f"])
    assert not isinstance(error.value, UserError)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import os\nLEVEL = os.environ['NO_SUCH_LEVEL']\n", "KeyError: 'NO_SUCH_LEVEL' (mine.py, line 2)"),
        ("def paid(:\n", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import sys\nsys.exit('no card')\n", "SystemExit: no card (mine.py, line 2)"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines (mine.py, line 1)"),
    ],
)
def test_a_plug_in_that_fails_as_it_is_loaded_is_one_line_with_its_place(text, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    assert main(["rewards", "test", "mine.py:paid"]) == 2
    assert capsys.readouterr().err == f"sawtooth: 'mine.py:paid' failed to load: {why}\n"


def test_a_reader_of_the_output_that_goes_early():
    command = f"{sys.executable} -P -m rl.app.cli rewards draw --help | true"
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=root, capture_output=True, text=True)
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
