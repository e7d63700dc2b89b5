#!/usr/bin/env bash
# docs/extending.md shows the files of tests/examples word for word. `--write` puts them in again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
page=docs/extending.md
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
# A marker, and after it the file in a fence; what stood in the fence before is dropped.
awk '
  fence { if ($0 == "```") fence = 0; next }
  after && $0 == "```cpp" { fence = 1; after = 0; next }
  { after = 0 }
  /^<!-- tests\/examples\/[a-z_]+\.cpp -->$/ {
    print; print "```cpp"
    while ((status = (getline line < $2)) > 0) print line
    if (status < 0) { print "no file " $2 > "/dev/stderr"; exit 1 }
    print "```"; after = 1; next
  }
  { print }' "$page" >"$fresh"
shown=$(grep -c '^<!-- tests/examples/' "$page")
files=$(find tests/examples -name '*.cpp' ! -name '*_test.cpp' | wc -l)
[ "$shown" = "$files" ] || { echo "$page shows $shown examples, tests/examples has $files"; exit 1; }
if [ "${1:-}" = --write ]; then cp "$fresh" "$page"; exit 0; fi
diff -u "$page" "$fresh" || { echo "$page does not show tests/examples as they are: run tests/style/examples.sh --write"; exit 1; }
echo "$shown examples shown as they are"
