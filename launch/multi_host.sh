#!/usr/bin/env bash
# Trains on several hosts over ssh, without a scheduler: mpirun --hostfile HOSTS -np N facetrain train ARGUMENTS
#
#   launch/multi_host.sh hosts.txt configs/recognition/iresnet50_ms1mv3.yaml run=/shared/runs/b
#
# hosts.txt has one line a host: `node1 slots=8`. N is the sum of the slots. Wanted on every host: this checkout, built,
# under the same path; ssh without a password; the run folder and the data visible under the same path (checked at start).
# FACETRAIN_NETWORK=10.0.0.0/24 (or eth0) chooses the network when the hosts have several; FACETRAIN_RSH replaces ssh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$FACETRAIN_ROOT/launch/mpi.sh"
[ "${1:-}" != --help ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0; }
if [ $# -lt 2 ]; then
  echo "usage: launch/multi_host.sh HOSTFILE CONFIG [section.key=value ...]   (found: ${*:-nothing})" >&2; exit 2
fi
hosts=$1; shift
[ -r "$hosts" ] || die multi_host "cannot read the hostfile $hosts; wanted lines like: node1 slots=8"
ranks=$(sed 's/#.*//' "$hosts" | awk 'NF { n = 1; for (i = 2; i <= NF; i++) if ($i ~ /^slots=[0-9]+$/) n = substr($i, 7); total += n } END { print total + 0 }')
[ "$ranks" -gt 0 ] || die multi_host "$hosts names no host; wanted lines like: node1 slots=8"
program=$(find_program multi_host)
mpi_options+=(--hostfile "$hosts")
if [ -n "${FACETRAIN_NETWORK:-}" ]; then
  mpi_options+=(--mca oob_tcp_if_include "$FACETRAIN_NETWORK" --mca btl_tcp_if_include "$FACETRAIN_NETWORK")
fi
if [ -n "${FACETRAIN_RSH:-}" ]; then mpi_options+=(--mca plm_rsh_agent "$FACETRAIN_RSH"); fi
# ssh starts with an empty environment: what steers facetrain, NCCL and threads goes along.
while IFS= read -r name; do mpi_options+=(-x "$name"); done < <(compgen -e | grep -E '^(FACETRAIN_|NCCL_|OMP_)' || true)
run_mpi multi_host -np "$ranks" "$program" train "$@"
