#!/usr/bin/env bash
# Runs the witnesses' Python (launch/test.sh makes its virtual environment): what ctest calls for tests/e2e/*_test.py.
# Exit code 77 (= skipped, ctest shows it) when there is none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
python=${FACETRAIN_PYTHON:-$FACETRAIN_PREFIX/venv/bin/python}
if ! [ -x "$python" ]; then
  say witness "SKIPPED: no $python; launch/test.sh makes it"
  exit 77
fi
exec "$python" "$@"
