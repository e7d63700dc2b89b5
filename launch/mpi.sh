# shellcheck shell=bash
# Sourced by local.sh, multi_host.sh and slurm.sbatch: runs mpirun so that signals end a run well and nothing is left behind.
#   run_mpi SCRIPT mpirun-arguments...     leaves with mpirun's exit code
# mpirun follows SIGTERM with SIGKILL after a second and hides the ranks' exit codes, but forwards SIGUSR1 faithfully
# (reference/platform.md 6.5). So SIGTERM and Ctrl-C become SIGUSR1 here: the run writes a checkpoint at the next step
# boundary and exits with 85. A second Ctrl-C or SIGTERM ends it at once.

# The ranks cannot see what stands behind mpirun: a progress line is for a terminal only.
if [ -t 1 ]; then
  export FACETRAIN_TERMINAL=1 FACETRAIN_COLUMNS
  FACETRAIN_COLUMNS=$(tput cols 2>/dev/null || echo 0)
else
  export FACETRAIN_TERMINAL=0
fi
mpi_options=(--bind-to none)
# Waiting OpenMP threads sleep instead of turning: on a busy machine they would take the time of those that work.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

run_mpi() {
  local script=$1; shift
  local signals=0 interrupted status
  # A session of its own: the terminal's Ctrl-C reaches this script only, and leftovers are found by the session's number.
  setsid mpirun "${mpi_options[@]}" "$@" &
  local job=$!
  forward() {
    interrupted=1
    signals=$((signals + 1))
    if [ "$signals" = 1 ]; then
      say "$script" "SIG$1: asking the run for a checkpoint (again: end it at once)" >&2
      kill -USR1 "$job" 2>/dev/null || true
    else
      say "$script" "SIG$1 again: ending the run" >&2
      kill -TERM "$job" 2>/dev/null || true
    fi
  }
  trap 'forward TERM' TERM
  trap 'forward INT' INT
  trap 'forward USR1' USR1
  while :; do  # a signal ends `wait`, not the job
    interrupted=
    status=0
    wait "$job" || status=$?
    [ -n "$interrupted" ] || break
  done
  trap - TERM INT USR1
  if pgrep -s "$job" >/dev/null 2>&1; then  # ranks that outlived mpirun
    sleep 2
    pkill -KILL -s "$job" 2>/dev/null || true
  fi
  if [ "$status" = 85 ]; then
    say "$script" "checkpointed (exit code 85): go on with --resume" >&2
  elif [ "$status" -gt 128 ]; then
    say "$script" "a rank was ended by signal $((status - 128)) (9 is often the kernel, out of memory: see dmesg)" >&2
  elif [ "$status" != 0 ]; then
    say "$script" "the run failed with exit code $status" >&2
  fi
  return "$status"
}

# find_program SCRIPT: prints the path of the built program.
find_program() {
  local program=$FACETRAIN_ROOT/build/${FACETRAIN_PRESET:-release}/facetrain
  [ -x "$program" ] || die "$1" "no $program: run launch/setup.sh and launch/build.sh first"
  command -v mpirun >/dev/null || die "$1" "no mpirun: run launch/setup.sh first"
  printf '%s' "$program"
}
