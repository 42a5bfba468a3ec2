"""launch.sh where something is amiss: nvidia-smi, the interpreter, where it is called from, what it is called with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# `python -m venv` that makes stand-ins; all of them write into `calls` what they were asked, and where.
PYTHON = """
if [ "$1" != -m ]; then exec {python} "$@"; fi
echo "$*" >> {calls}; folder=${{!#}}; [[ $* != *--clear* ]] || rm -rf "$folder"; mkdir -p "$folder/bin"
for name in python sawtooth; do
  printf '#!/usr/bin/env bash\\necho "%s $* in $PWD" >> {calls}\\n' $name > "$folder/bin/$name"
  chmod +x "$folder/bin/$name"
done
"""


class Machine:
    """A checkout in a folder with a space, and the programs that it finds."""

    def __init__(self, folder):
        self.bin, self.checkout, self.calls = folder / "bin", folder / "check out", folder / "calls"
        self.elsewhere = folder / "else where"
        self.bin.mkdir()
        self.elsewhere.mkdir()
        shutil.copytree(ROOT / "requirements", self.checkout / "requirements")
        shutil.copytree(ROOT / "configs", self.checkout / "configs")
        shutil.copy(ROOT / "launch.sh", self.checkout)
        self.program("python3", PYTHON.format(python=sys.executable, calls=self.calls))
        self.program("nvidia-smi", "exit 127")

    def program(self, name, body):
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (self.bin / name).chmod(0o755)

    def launch(self, *arguments, script=None, cwd=None, **environment):
        """Returns the exit code, the lines on stderr, and the calls but those of pip."""
        self.calls.write_text("")
        hidden = ("SAWTOOTH_", "LOCAL_RANK")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        done = subprocess.run(
            [script or self.checkout / "launch.sh", *arguments],
            cwd=cwd or self.checkout, text=True, capture_output=True, timeout=60,
            env=kept | {"PATH": f"{self.bin}:/usr/bin:/bin"} | environment,
        )  # fmt: skip
        calls = [line for line in self.calls.read_text().splitlines() if "python -c" not in line]
        return done.returncode, done.stderr.splitlines(), calls

    def installed(self):
        stamp = self.checkout / ".venv/sawtooth.lock"
        return stamp.read_text().split()[0] if stamp.exists() else None


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("sleep 60", "cpu", "it does not answer"),
        ("echo 'NVIDIA-SMI has failed: no driver'; echo more; exit 9", "cpu", "NVIDIA-SMI has failed: no driver"),
        ("echo 'Unable to determine the handle for GPU 0000:01: GPU is lost'; exit 15", "cpu", "GPU is lost"),
        ("echo 'No devices were found'; exit 6", "cpu", "No devices were found"),
        ("exit 127", "cpu", None),
        ("echo 'WARNING: infoROM is corrupted'; echo 'GPU 0: H100'", "gpu", None),
        ("echo 'Unable to determine the handle'; echo 'GPU 1: H100'; exit 15", "gpu", None),
        ("echo 'GPU 0: A100'; echo '  MIG 1g.5gb Device 0: (UUID: MIG-1)'", "gpu", None),
    ],
)  # fmt: skip
def test_whatever_nvidia_smi_answers(machine, body, kind, said):
    machine.program("nvidia-smi", body)
    if body == "sleep 60":
        machine.program("timeout", 'exec /usr/bin/timeout -k 1 1 "${@:4}"')  # does not wait half a minute
    code, lines, _ = machine.launch("setup")
    assert code == 0 and machine.installed() == kind
    assert [said in line for line in lines] == ([True] if said else [])
    assert machine.launch("setup")[1:] == ([], [])  # said once, done once


def test_a_set_is_replaced_whole_and_never_because_a_card_is_out_of_sight(machine):
    """pip takes torch's CPU build for the one that the other lock names, so nothing of the old set may stay."""
    machine.program("nvidia-smi", "echo 'GPU 0: H100'")
    machine.launch("setup")
    machine.program("nvidia-smi", "exit 127")  # a login node, on the same disk
    code, (line,), calls = machine.launch("configs/demo.yaml")
    assert code == 0 and "keeps the gpu set" in line and machine.installed() == "gpu"
    assert [call.split(" in ")[0] for call in calls] == ["sawtooth run configs/demo.yaml"]
    for kind in ("cpu", "gpu"):
        _, (line,), calls = machine.launch("setup", SAWTOOTH_DEVICE=kind)
        assert "replacing" in line and "-m venv --clear .venv" in calls and machine.installed() == kind


def test_an_installation_that_was_stopped_is_done_again(machine):
    machine.launch("setup")
    machine.program("nvidia-smi", "echo 'GPU 0: H100'")
    body = (machine.bin / "python3").read_text()
    machine.program("python3", body.replace('echo "%s', 'echo "$*" | grep -q -- -r && exit 1; echo "%s'))
    assert machine.launch("setup")[0] != 0
    machine.program("nvidia-smi", "exit 127")
    machine.program("python3", body)
    assert "-m venv --clear .venv" in machine.launch("setup", SAWTOOTH_DEVICE="cpu")[2]
    moved = machine.checkout.with_name("moved")  # its scripts hold the folder's old name
    machine.checkout = machine.checkout.rename(moved)
    assert any("install" in call for call in machine.launch("setup")[2])


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SAWTOOTH_DEVICE": "GPU"}, "SAWTOOTH_DEVICE is 'GPU'; it must be cpu or gpu"),
        ({"SAWTOOTH_DEVICE": "cuda:0"}, "SAWTOOTH_DEVICE is 'cuda:0'; it must be cpu or gpu"),
        ({"SAWTOOTH_PYTHON": "python9"}, "python9 can't be run: Python 3.11 or later"),
        ({"SAWTOOTH_PYTHON": "old"}, "old is Python 3.9: 3.11 or later"),
        ({"LOCAL_RANK": "0"}, "started by a launcher (LOCAL_RANK is set)"),
    ],
)  # fmt: skip
def test_one_line_before_anything_is_installed(machine, environment, said):
    machine.program("old", "echo 3.9 False")
    code, (line,), calls = machine.launch(**environment)
    assert code == 1 and line.startswith(f"launch.sh: {said}") and not calls


def test_a_config_of_the_checkout_runs_in_it_and_any_other_where_you_stand(machine):
    own = machine.elsewhere / "my own.yaml"
    own.write_text("name: x")
    link = machine.bin / "saw"
    link.symlink_to(machine.checkout / "launch.sh")
    demo = machine.checkout / "configs/demo.yaml"
    for arguments, run, where in [
        ([], "configs/demo.yaml", machine.checkout),
        (["configs/demo.yaml"], "configs/demo.yaml", machine.checkout),
        ([os.path.relpath(demo, machine.elsewhere)], "configs/demo.yaml", machine.checkout),
        (["--nproc", "2", "my own.yaml", "--a.b=1"], "my own.yaml --nproc 2 --a.b=1", machine.elsewhere),
        ([str(own), "--nproc=2"], f"{own} --nproc=2", machine.elsewhere),
        (["missing.yaml"], "missing.yaml", machine.checkout),
    ]:
        code, lines, calls = machine.launch(*arguments, script=link, cwd=machine.elsewhere, CDPATH=str(machine.bin))
        assert (code, lines, calls[-1]) == (0, [], f"sawtooth run {run} in {where}")


def test_reasoning_gym_is_installed_wherever_it_is_named(machine):
    def installs(*arguments):
        shutil.rmtree(machine.checkout / ".venv", ignore_errors=True)
        return any("gym.lock" in call for call in machine.launch(*arguments)[2])

    assert installs("--data.questions=reasoning_gym:chain_sum") and installs("configs/smollm2.yaml")
    assert not installs()
