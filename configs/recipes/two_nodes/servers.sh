#!/usr/bin/env bash
# A rollout server on each card of this machine, on ports 8000 and up; ends when they end.
#   servers.sh MODEL [arguments of vLLM's server]
# SAWTOOTH_CARDS=8   how many servers; without it, as many as nvidia-smi lists cards
# SAWTOOTH_HOST=...  the address to listen on (default: all of them; the network has to be a private one)
set -euo pipefail
model=$1
shift
cards=${SAWTOOTH_CARDS:-$(nvidia-smi -L | grep -c '^GPU ')}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((card = 0; card < cards; card++)); do
  CUDA_VISIBLE_DEVICES=$card sawtooth serve-rollouts "$model" \
    --host "${SAWTOOTH_HOST:-0.0.0.0}" --port $((8000 + card)) "$@" &
done
wait
