#!/usr/bin/env bash
# Builds one unit-test program with sanitizers and runs it: what ctest's label `sanitize` calls.
#
#   launch/sanitize.sh asan comm_test [gtest arguments]      address and undefined-behaviour sanitizer
#   launch/sanitize.sh tsan data_test [gtest arguments]      thread sanitizer
#
# Exit code 77 (= skipped, ctest shows it) when FACETRAIN_TEST_DEADLINE, in seconds since 1970, leaves too little time.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
case ${1:-} in asan | tsan) ;; *) echo "usage: launch/sanitize.sh asan|tsan PROGRAM [arguments]" >&2; exit 2 ;; esac
preset=$1; program=${2:?usage: launch/sanitize.sh asan|tsan PROGRAM [arguments]}; shift 2

skip() { say sanitize "SKIPPED: $preset $program: $*"; exit 77; }
# limited COMMAND...: runs it within the time that is left; 77 when that runs out.
limited() {
  local left=3000 status=0
  if [ -n "${FACETRAIN_TEST_DEADLINE:-}" ]; then left=$((FACETRAIN_TEST_DEADLINE - $(date +%s))); fi
  [ "$left" -gt 60 ] || skip "$left s are left of FACETRAIN_CI_MINUTES"
  timeout --kill-after=10 "$left" "$@" || status=$?
  if [ "$status" = 124 ] || [ "$status" = 137 ]; then skip "FACETRAIN_CI_MINUTES ran out in: $*"; fi
  return "$status"
}

limited "$FACETRAIN_ROOT/launch/build.sh" "$preset" -- "$program"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# LibTorch itself is not instrumented: its one-time leaks and its threads are none of ours.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:${ASAN_OPTIONS:-}
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS:-}
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:suppressions=$FACETRAIN_ROOT/tests/support/tsan.supp:${TSAN_OPTIONS:-}
# Thread sanitizer maps fixed addresses, which too much address randomisation takes from it.
limited setarch "$(uname -m)" --addr-no-randomize "$FACETRAIN_ROOT/build/$preset/tests/$program" "$@"
