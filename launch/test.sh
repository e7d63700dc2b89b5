#!/usr/bin/env bash
# Every test: sets up, builds, makes the witnesses' virtual environment, runs ctest. Its last lines are ctest's summary.
#
#   launch/test.sh                   everything (labels unit dist e2e gpu fuzz style sanitize)
#   launch/test.sh --fast            for developers: no set-up, an incremental build, labels unit and style
#   launch/test.sh -- -L dist        the rest goes to ctest
#
# FACETRAIN_CI_MINUTES=40 limits the whole run: the demo and the sanitizer tests that no longer fit are skipped, visibly.
set -euo pipefail
started=$(date +%s)
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ "${1:-}" != --help ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0; }
fast=
if [ "${1:-}" = --fast ]; then fast=yes; shift; fi
if [ "${1:-}" = -- ]; then shift; elif [ $# -gt 0 ]; then
  echo "usage: launch/test.sh [--fast] [-- ctest arguments]   (found: $*)" >&2; exit 2
fi
if [ -n "${FACETRAIN_CI_MINUTES:-}" ]; then
  export FACETRAIN_TEST_DEADLINE=$((started + 60 * FACETRAIN_CI_MINUTES))
fi
cd "$FACETRAIN_ROOT"

# The witnesses' Python: made anew when launch/witnesses*.txt change; complete or absent.
make_witnesses() {
  export FACETRAIN_PYTHON=$FACETRAIN_PREFIX/venv/bin/python
  local mark
  mark=$(cat launch/witnesses.txt launch/witnesses_timm.txt | sha256sum | cut -c1-16)
  if [ "$(cat "$FACETRAIN_PREFIX/venv/complete" 2>/dev/null)" != "$mark" ]; then
    say test "making the witnesses' virtual environment in $FACETRAIN_PREFIX/venv"
    rm -rf "$FACETRAIN_PREFIX/venv"
    python3 -m venv "$FACETRAIN_PREFIX/venv" || die test "python3 -m venv failed: run launch/setup.sh"
    local pip=("$FACETRAIN_PYTHON" -m pip install --quiet --disable-pip-version-check)
    { "${pip[@]}" -r launch/witnesses.txt && "${pip[@]}" --no-deps -r launch/witnesses_timm.txt; } ||
      die test "could not install launch/witnesses.txt and launch/witnesses_timm.txt: is the network there?"
    printf '%s' "$mark" >"$FACETRAIN_PREFIX/venv/complete"
  fi
  dirname "$TORCH_DIR" >"$("$FACETRAIN_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/facetrain_torch.pth"
  "$FACETRAIN_PYTHON" -c 'import torch' || die test "the witnesses' Python ($("$FACETRAIN_PYTHON" --version)) cannot" \
    "import the torch in $TORCH_DIR: it was made for another Python; unset TORCH_DIR, or use that Python as python3"
}

if [ -z "$fast" ]; then
  launch/setup.sh --python
  make_witnesses
  launch/build.sh release
else
  if [ -x "$FACETRAIN_PREFIX/venv/bin/python" ]; then export FACETRAIN_PYTHON=$FACETRAIN_PREFIX/venv/bin/python; fi
  launch/build.sh release
  set -- -L 'unit|style' "$@"
fi

# ctest hides which cases inside a program were skipped: list them, just before its summary.
list_skipped() {
  awk '/^[0-9]+% tests passed/ { held = 1 }
       held { summary = summary $0 "\n"; next }
       { print; fflush() }
       END {
         while ((getline line < log_file) > 0)
           if (line ~ /^\[  SKIPPED \] .*\(/) printf "skipped inside a program: %s\n", substr(line, 14)
         printf "%s", summary
       }' log_file=build/release/Testing/Temporary/LastTest.log
}
set +e
ctest --test-dir build/release --output-on-failure --no-tests=error -j "$(nproc)" "$@" | list_skipped
exit "${PIPESTATUS[0]}"
