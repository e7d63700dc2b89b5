#!/usr/bin/env bash
# clang-format over all our C++ and CUDA sources: writes, or with --check only complains (exit code 1).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$FACETRAIN_ROOT"
case ${1:-} in
  "") mode=(-i) ;;
  --check) mode=(--dry-run --Werror --ferror-limit=3) ;;
  *) echo "usage: launch/format.sh [--check]   (found: $*)" >&2; exit 2 ;;
esac
command -v clang-format >/dev/null || die format "no clang-format: run launch/setup.sh"
find bench cli comm core data eval export kernels losses models tests trainer \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) -print0 | xargs -0 -P 2 -n 16 clang-format --style=file "${mode[@]}"
