#!/usr/bin/env bash
# Configures and builds into build/<preset>.
#
#   launch/build.sh                          the release build: build/release/facetrain and its tests
#   launch/build.sh debug                    another preset: release debug asan tsan (CMakePresets.json)
#   launch/build.sh asan -- comm_test        only these targets
#   launch/build.sh release -- facetrain     only the program
#
# FACETRAIN_JOBS sets the number of compilers at once (default: cores, as far as the memory goes). The compiler is Clang 19
# where it is (setup.sh installs it), since it takes a third of GCC's time; CC and CXX name another, at the first build.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ "${1:-}" != --help ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0; }

preset=release
if [ $# -gt 0 ] && [ "$1" != -- ]; then preset=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; elif [ $# -gt 0 ]; then
  echo "usage: launch/build.sh [preset] [-- target...]   (found: $*)" >&2; exit 2
fi
case $preset in
  release | debug | asan | tsan) ;;
  *) echo "usage: launch/build.sh [release|debug|asan|tsan] [-- target...]   (found: $preset)" >&2; exit 2 ;;
esac
command -v cmake >/dev/null && command -v ninja >/dev/null || die build "cmake or ninja is missing: run launch/setup.sh first"

# A compiler takes 1.5 GB (LibTorch's headers): as many at once as cores and free memory allow.
jobs=${FACETRAIN_JOBS:-}
if [ -z "$jobs" ]; then
  free_mb=$(awk '/^MemAvailable/{print int($2 / 1024)}' /proc/meminfo)
  if [ -r /sys/fs/cgroup/memory.max ] && [ "$(cat /sys/fs/cgroup/memory.max)" != max ]; then
    limit_mb=$(( ($(cat /sys/fs/cgroup/memory.max) - $(cat /sys/fs/cgroup/memory.current)) / 1048576 ))
    if [ "$limit_mb" -lt "$free_mb" ]; then free_mb=$limit_mb; fi
  fi
  jobs=$(( free_mb / 1536 )); cores=$(nproc)
  if [ "$jobs" -gt "$cores" ]; then jobs=$cores; fi
  if [ "$jobs" -lt 1 ]; then jobs=1; fi
fi

if [ -z "${CXX:-}" ] && command -v clang++-19 >/dev/null; then export CC=clang-19 CXX=clang++-19; fi

cd "$FACETRAIN_ROOT"
mkdir -p build
exec 9>"build/$preset.lock"
flock -n 9 || { say build "waiting for another build of $preset"; flock 9; }

kind="incremental"
[ -f "build/$preset/build.ninja" ] || kind="clean"
started=$SECONDS
say build "$preset ($kind, $jobs jobs): configuring"
cmake --preset "$preset" -DTORCH_DIR="$TORCH_DIR" >"build/$preset.configure.log" 2>&1 || {
  tail -n 30 "build/$preset.configure.log" >&2
  die build "configuring failed (whole log: build/$preset.configure.log); launch/setup.sh installs what is needed"
}
tail -n 4 "build/$preset.configure.log" | sed -n 's/^-- \(facetrain .*\)/[build] \1/p'
ninja -C "build/$preset" -j "$jobs" "$@" 9>&-
seconds=$((SECONDS - started))
say build "$preset: done in $((seconds / 60)) min $((seconds % 60)) s ($kind build of ${*:-everything})"
