#!/usr/bin/env bash
# Train both phases and evaluate each, archived in experiments/. Names carry the time, so that it can be run again.
set -euo pipefail
cd "$(dirname "$0")/.."
qvision=${BIN:-.venv/bin}/qvision
stamp=${RUN_STAMP:-$(date +%Y%m%d-%H%M%S)}
[ -f data/minicoco/SHA256SUMS ] || $qvision data minicoco data/minicoco
$qvision run train -p phase 1 -p name "phase1-$stamp"
$qvision run train -p phase 2 -p start "phase1-$stamp" -p name "phase2-$stamp"

# Scoring is one thread of Python and one of Java: two evaluations at a time, a core each.
evaluate() { OMP_NUM_THREADS=1 $qvision run evaluate -p run "$1-$stamp" -p split "$2" -p name "$1-$stamp-$2"; }
evaluate phase1 val2017 & other=$!
evaluate phase2 val2017
wait $other
evaluate phase2 novel2017 & other=$!
evaluate phase2 shifted2017
wait $other
$qvision runs
