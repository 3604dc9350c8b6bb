#!/usr/bin/env bash
# Makes the Python peers' virtual environments, one for each because their dependencies conflict, in
# build/python. What is there already is left alone. One that cannot be installed is reported, and the others
# go on; the benchmark measures those that are there.
#
#   bash bench/peers/python/setup.sh [NAME ...]     all, or some: the names of requirements/*.txt
set -euo pipefail
cd "$(dirname "$0")/../../.."

python=${PYTHON:-python3}
here=bench/peers/python root=build/python
say() { echo "setup: $*"; }

command -v "$python" >/dev/null || { say "there is no $python: no Python peer can be measured" >&2; exit 1; }
mkdir -p "$root"

names=("$@")
if [ ${#names[@]} = 0 ]; then
  for file in "$here"/requirements/*.txt; do names+=("$(basename "$file" .txt)"); done
fi

failed=()
for name in "${names[@]}"; do
  file=$here/requirements/$name.txt
  [ -f "$file" ] || { say "there is no $file" >&2; exit 2; }
  wanted="$(cksum <"$file") $("$python" --version)"
  stamp=$root/$name/.subito-setup
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then continue; fi
  say "$name: installing"
  rm -rf "${root:?}/$name"
  install=(install --no-input --disable-pip-version-check -r "$file")
  if "$python" -m venv "$root/$name" >"$root/$name.log" 2>&1 &&
    "$root/$name/bin/pip" "${install[@]}" >>"$root/$name.log" 2>&1; then
    echo "$wanted" >"$stamp"
  else
    say "$name: could not be installed ($root/$name.log):" >&2
    grep -E '^ERROR|^error|Error' "$root/$name.log" | tail -n 3 >&2 || true
    failed+=("$name")
  fi
done
if [ ${#failed[@]} -gt 0 ]; then
  say "not there: ${failed[*]}" >&2
  exit 1
fi
