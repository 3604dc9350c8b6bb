#!/usr/bin/env bash
# Trains one model anew: deploy/train.sh MODEL --data DIR [options of its train.sh]
# What training needs and makes is in models/MODEL/train/.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:-}
script=models/$model/train/train.sh
if [ -z "$model" ] || [ ! -f "$script" ]; then
  echo "usage: npm run train -- MODEL --data DIR" >&2
  echo "models: $(ls models/*/train/train.sh 2>/dev/null | cut -d/ -f2 | tr '\n' ' ')" >&2
  exit 2
fi
shift
exec bash "$script" "$@"
