#!/usr/bin/env bash
# Trains next-track in a virtual environment of its own: train.sh --data DIR [--out DIR] [--quick]
# The environment is made on the first run (PyTorch is some gigabytes), in train/.venv or where VENV says.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${VENV:-$here/.venv}
# The stamp is written last: an installation that was cut short starts again.
stamp=$venv/installed-$(cksum <"$here/requirements.txt" | cut -d' ' -f1)
if [ ! -f "$stamp" ]; then
  echo "train: installing Python packages into $venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  touch "$stamp"
fi
exec "$venv/bin/python" "$here/train.py" "$@"
