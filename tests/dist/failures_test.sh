#!/bin/bash
# usage: failures_test.sh PROGRAM CASE [RANKS]     how a job ends when a rank goes wrong; PROGRAM is dist_misbehave.
# Checks exit code, time and what was printed. Every launch stands under `timeout`.
set -u
program=$1 how=$2 ranks=${3:-4}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

launch() { timeout --kill-after=5 60 mpirun -np "$ranks" --bind-to none --oversubscribe "$program" "$@" > "$out" 2>&1; }
fail() { echo "FAILED: $*"; echo "--- output"; cat "$out"; exit 1; }
expect_line() { grep -qE "$1" "$out" || fail "no line like: $1"; }
messages() { grep -cE '^\[rank [0-9]+\]' "$out"; }

start=$(date +%s%3N)
limit=10
case $how in
  throw_in_step|throw_while_others_compute|work_in_flight)
    launch "$how"; code=$?
    expect_line "^\[rank $((ranks - 1))\] tests/dist/failures/misbehave.cpp:[0-9]+: the last rank wanted a face, found none$"
    [ "$(messages)" = 1 ] || fail "wanted one message, found $(messages)" ;;
  throw_everywhere)
    launch "$how"; code=$?
    expect_line "^\[rank [0-9]\] tests/dist/failures/misbehave.cpp:[0-9]+: no rank can read the data$"
    [ "$(messages)" = 1 ] || fail "wanted one message, found $(messages)" ;;
  killed)
    launch "$how"; code=$?
    expect_line "^\[rank [0-9]+\] all_reduce #[0-9]+ of 1000 [A-Za-z]+ at tests/dist/failures/misbehave.cpp:[0-9]+ .*rank $((ranks - 1)) does not answer"
    [ "$(messages)" -le $((ranks - 1)) ] || fail "wanted at most one message a survivor, found $(messages)" ;;
  hangs)
    export FACETRAIN_DEADLINE_SECONDS=2
    launch "$how"; code=$?
    expect_line "^\[rank [0-9]\] all_reduce #[0-9]+ of 1000 [A-Za-z]+ at tests/dist/failures/misbehave.cpp:[0-9]+ did not complete within 2\.[0-9] s: rank $((ranks - 1)) is past all_reduce #[0-9]+ "
    [ "$(messages)" = 1 ] || fail "wanted one message, found $(messages)" ;;
  SIGUSR1|SIGTERM)
    # SIGUSR1 goes to mpirun, which forwards it. SIGTERM goes to the ranks: mpirun would follow its own with SIGKILL.
    timeout --kill-after=5 60 mpirun -np "$ranks" --bind-to none --oversubscribe "$program" until_signal > "$out" 2>&1 &
    child=$!
    for _ in $(seq 300); do grep -q running "$out" && break; sleep 0.1; done
    start=$(date +%s%3N)
    launcher=$(pgrep -P "$child" mpirun) || fail "no mpirun below timeout"
    if [ "$how" = SIGUSR1 ]; then kill -s USR1 "$launcher"; else pgrep -P "$launcher" | xargs kill -s TERM; fi
    wait "$child"; code=$?
    expect_line '^checkpointed$'
    [ "$code" = 85 ] || fail "wanted exit code 85, found $code" ;;
  no_gpu)
    [ -e /dev/nvidiactl ] && { echo "SKIPPED: this machine has a GPU"; exit 77; }
    ranks=1
    launch finishes cuda; code=$?
    expect_line '^\[rank 0\] comm/plugin_loader.cpp:[0-9]+: device: cuda wants ' ;;
  finishes)
    launch "$how"; code=$?
    [ "$code" = 0 ] || fail "wanted exit code 0, found $code" ;;
  *) echo "no such case: $how"; exit 1 ;;
esac
ended=$(date +%s%3N)
at=$(grep -oE '^at [0-9]+' "$out" | cut -d' ' -f2)  # when it went wrong; the start of the processes does not count
took=$((ended - ${at:-$start}))
[ "$code" != 0 ] || [ "$how" = finishes ] || fail "wanted a non-zero exit code"
[ "$code" != 124 ] && [ "$code" != 137 ] || [ "$how" = killed ] || fail "the job had to be ended from outside (code $code)"
[ "$took" -le $((limit * 1000)) ] || fail "wanted the end within $limit s, took $took ms"
echo "ok: $how with $ranks ranks ended with code $code after $took ms and $(messages) message(s)"
grep -E '^\[rank' "$out"
exit 0
