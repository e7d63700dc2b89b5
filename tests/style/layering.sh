#!/usr/bin/env bash
# Who may include whom (docs/architecture.md): greps every root-relative include; prints each forbidden one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
allowed() {  # allowed FOLDER FILE: the folders whose headers FILE may include
  case $1 in
    core) echo core ;;
    kernels) case $2 in kernels/ops.*) echo core kernels ;; *) echo kernels ;; esac ;;
    comm) echo core comm ;;
    data) echo core data ;;
    models) echo core kernels models ;;
    losses) echo core kernels comm losses ;;
    eval) echo core kernels comm data eval ;;
    export) echo core models export ;;
    trainer) echo core kernels comm data models losses eval export trainer ;;
  esac
}
checked=0 forbidden=0
for folder in core kernels comm data models losses eval export trainer; do
  while read -r file; do
    while IFS=: read -r line included; do
      checked=$((checked + 1))
      case " $(allowed "$folder" "$file") " in
        *" $included "*) ;;
        *) echo "$file:$line: $folder/ must not include $included/"; forbidden=$((forbidden + 1)) ;;
      esac
    done < <(grep -nE '^ *# *include "' "$file" | sed -E 's/^([0-9]+):[^"]*"([^"/]*).*/\1:\2/')
  done < <(find "$folder" -name '*.h' -o -name '*.cpp' -o -name '*.cu' | sort)
done
echo "$checked includes of our own headers, $forbidden of them forbidden"
[ "$checked" -gt 200 ] && [ "$forbidden" = 0 ]
