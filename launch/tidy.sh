#!/usr/bin/env bash
# clang-tidy (.clang-tidy) over our C++ sources; exit code 1 when it complains. 20 s a file with LibTorch's headers, so
# not part of launch/test.sh: run it on what you changed.
#
#   launch/tidy.sh core/log.cpp trainer/run.cpp      these files
#   launch/tidy.sh --since origin/main               those that differ from a commit
#   launch/tidy.sh                                   all (half an hour on two cores)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ "${1:-}" != --help ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0; }
cd "$FACETRAIN_ROOT"
command -v clang-tidy-19 >/dev/null || die tidy "no clang-tidy-19: run launch/setup.sh"
[ -f build/release/compile_commands.json ] || die tidy "no build/release: run launch/build.sh first"

folders=(bench cli comm core data eval export kernels losses models trainer)
if [ "${1:-}" = --since ]; then
  git rev-parse --verify --quiet "${2:?usage: launch/tidy.sh --since COMMIT}^{commit}" >/dev/null || die tidy "no commit '$2'"
  mapfile -t files < <(git diff --name-only --diff-filter=d "$2" -- "${folders[@]/%//*.cpp}")
elif [ $# -gt 0 ]; then
  files=("$@")
else
  mapfile -t files < <(find "${folders[@]}" -name '*.cpp' | sort)
fi
[ ${#files[@]} -gt 0 ] || { say tidy "no file to look at"; exit 0; }

# The compile commands without a precompiled header of GCC, which Clang cannot read.
mkdir -p build/tidy
sed -E 's/-Winvalid-pch -include [^ ]*cmake_pch\.hxx//' build/release/compile_commands.json >build/tidy/compile_commands.json
say tidy "${#files[@]} files"
printf '%s\0' "${files[@]}" | xargs -0 -P "$(nproc)" -n 1 clang-tidy-19 -p build/tidy --quiet \
  2> >(grep -vE '^[0-9]+ warnings? (generated|treated)' >&2)
say tidy "nothing to complain about"
