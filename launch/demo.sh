#!/usr/bin/env bash
# From a bare machine to a trained, evaluated and exported face recogniser, on faces that it renders itself.
#
#   launch/demo.sh            sets up and builds what is missing, then about five minutes on two cores
#   launch/demo.sh FOLDER     puts everything there (default: a new folder below runs/)
#
# What it shows: rendering, training on two ranks, stopping by a signal and resuming, accuracy on people that it has never
# seen beside what raw pixels and a colour histogram reach, the exported file, and a page that reports the run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
[ "${1:-}" != --help ] || { sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0; }
[ $# -le 1 ] || { echo "usage: launch/demo.sh [FOLDER]   (found: $*)" >&2; exit 2; }
cd "$FACETRAIN_ROOT"

launch/setup.sh
launch/build.sh release -- facetrain
folder=${1:-runs/demo-$(date +%Y%m%d-%H%M%S)}
if [ -e "$folder" ] && [ -n "$(ls -A "$folder")" ]; then die demo "$folder is not empty; name a new folder"; fi
mkdir -p "$folder"
cd "$folder"
facetrain=$FACETRAIN_ROOT/build/release/facetrain
config=$FACETRAIN_ROOT/configs/recognition/iresnet18_synth.yaml
local=$FACETRAIN_ROOT/launch/local.sh
started=$SECONDS

say demo "1/6 rendering 500 people for training and 200 others for testing"
"$facetrain" shards synth --out sets/synth --identities 500 --images 20 --seed 1
"$facetrain" shards info sets/synth

say demo "2/6 training on two ranks"
"$local" 2 "$config" run=run &
job=$!
trap 'kill -TERM "$job" 2>/dev/null || true' EXIT
until [ "$(wc -l 2>/dev/null <run/metrics.jsonl || echo 0)" -ge 5 ]; do
  kill -0 "$job" 2>/dev/null || break
  sleep 0.2
done
say demo "3/6 stopping the run by a signal, as a cluster would"
kill -USR1 "$job" 2>/dev/null || true
status=0
wait "$job" || status=$?
trap - EXIT
[ "$status" = 85 ] || die demo "wanted the run to checkpoint and leave with exit code 85, found $status"
say demo "4/6 resuming it where it stopped"
"$local" 2 --resume run

say demo "5/6 people that it has never seen: pairs of sets/synth-test, same person or not"
test=(--images sets/synth-test --pairs sets/synth-test/pairs.csv)
accuracy() { "$facetrain" eval "$@" "${test[@]}" --json result.json | sed -n 's/^kfold accuracy \([0-9.]*\) std \([0-9.]*\).*/\1 +- \2/p'; }
pixels=$(accuracy baseline:pixels)
histogram=$(accuracy baseline:histogram)
trained=$(accuracy run)

say demo "6/6 exporting, reporting"
"$facetrain" export run --to safetensors -o model.safetensors
"$facetrain" export run --to onnx -o model.onnx --card model.md
exported=$(accuracy model.safetensors)
[ "$exported" = "$trained" ] || die demo "the exported file reaches $exported, the run $trained: they must be equal"
rm -f result.json
"$facetrain" report run -o report.html

seconds=$((SECONDS - started))
cat <<END

  accuracy on unseen people     raw pixels        $pixels
                                colour histogram  $histogram
                                trained network   $trained   (the exported file: the same)
  time                          $((seconds / 60)) min $((seconds % 60)) s without set-up and build

  training faces                $folder/sets/synth         test faces and pairs  $folder/sets/synth-test
  run: log and checkpoints      $folder/run                metrics               $folder/run/metrics.jsonl
  exported network              $folder/model.safetensors, model.onnx     model card  $folder/model.md
  report, for your browser      $folder/report.html

  Next: your own faces, one folder a person (README.md), or
    build/release/facetrain embed $folder/model.safetensors DIR -o embeddings.h5 data.fit=resize
END
