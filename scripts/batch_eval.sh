#!/usr/bin/env bash
# batch_eval.sh MODEL FOLDER [FLAGS...]: the metrics of one model over every TSV file of a folder.
#
# The model is loaded once; a JSON line a file on stdout, ready for jq:
#   scripts/batch_eval.sh /tmp/sim-en data/sim-en | jq -r '[.file, .pearson] | @tsv' | sort -k2 -g
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: batch_eval.sh MODEL FOLDER [FLAGS of run_reg...]" >&2
  exit 1
fi
model=$1 folder=$2
shift 2
find "$folder" -maxdepth 1 \( -name '*.tsv' -o -name '*.tsv.gz' \) | sort | paste -sd, - |
  { read -r files && [ -n "$files" ] || { echo "error: $folder: no .tsv file; check the folder" >&2; exit 1; }
    "${PYTHON:-python3}" "$(dirname "$0")/run_reg.py" --bert="$model" --eval_file="$files" "$@"; }
