#!/usr/bin/env bash
# Trains on this machine with N ranks: mpirun -np N build/release/facetrain train ARGUMENTS
#
#   launch/local.sh 2 configs/recognition/iresnet18_synth.yaml run=runs/a
#   launch/local.sh 2 --resume runs/a trainer.steps=2000
#
# Ctrl-C and SIGTERM ask for a checkpoint; the exit code is then 85 (= start me again with --resume).
# FACETRAIN_PRESET chooses another build (default release).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$FACETRAIN_ROOT/launch/mpi.sh"
[ "${1:-}" != --help ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0; }
if [ $# -lt 2 ] || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh RANKS CONFIG [section.key=value ...]   (found: ${*:-nothing})" >&2; exit 2
fi
ranks=$1; shift
program=$(find_program local)
mpi_options+=(--quiet)  # mpirun's own messages on an exit code; run_mpi says it in one line
if [ "$ranks" -gt "$(nproc)" ]; then mpi_options+=(--oversubscribe --mca mpi_yield_when_idle 1); fi
run_mpi local -np "$ranks" "$program" train "$@"
