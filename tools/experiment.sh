#!/usr/bin/env bash
# Both training phases and the evaluation of each, archived in experiments/. Names carry the time, so that it can be run again.
set -euo pipefail
cd "$(dirname "$0")/.."
qvision=${BIN:-.venv/bin}/qvision
stamp=${RUN_STAMP:-$(date +%Y%m%d-%H%M%S)}
[ -f data/minicoco/SHA256SUMS ] || $qvision data minicoco data/minicoco
$qvision run train -p phase 1 -p name "phase1-$stamp"
$qvision run evaluate -p run "phase1-$stamp" -p name "phase1-$stamp-val2017"
$qvision run train -p phase 2 -p start "phase1-$stamp" -p name "phase2-$stamp"
for split in val2017 novel2017 shifted2017; do
    $qvision run evaluate -p run "phase2-$stamp" -p split $split -p name "phase2-$stamp-$split"
done
$qvision runs
