#!/usr/bin/env bash
# One end-to-end test file under the witnesses' Python: run.sh test_training.py. Skipped (77) where that is not made yet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python=${FACETRAIN_PYTHON:-${FACETRAIN_PREFIX:-${XDG_CACHE_HOME:-$HOME/.cache}/facetrain}/venv/bin/python}
[ -x "$python" ] || { echo "skipped: no $python; launch/test.sh makes it"; exit 77; }
exec "$python" -m pytest -q -rs -p no:cacheprovider "$@"
