#!/usr/bin/env bash
# Fuzzes the native code with libFuzzer, under AddressSanitizer and UndefinedBehaviorSanitizer; needs clang.
#
#   native/fuzz/run.sh [SECONDS] [TARGET...]  60 seconds each of decode, encode, plan and entries
#   native/fuzz/run.sh pack [TARGET...]       puts the least set of inputs that reaches as much into corpus/
#
# It begins with what corpus/ has. What it finds interesting is kept in native/build/fuzz/corpus and begun
# with the next time. An input that ends a target is written to native/build/fuzz, with the command that
# repeats it, and the exit code is 1.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} = 0 ]; then targets=(decode encode plan entries); fi

if ! command -v clang++ >/dev/null; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "fuzz: clang++ is missing; install the package clang" >&2
    exit 1
  fi
  echo "fuzz: clang++ is missing: apt-get install clang"
  apt-get install -y --no-install-recommends clang >/dev/null
fi

out=native/build/fuzz
mkdir -p "$out"
failed=0
pack() {
  local least
  least=$(mktemp -d)
  "$out/$1" -merge=1 -max_len=4096 "$least" "$out/corpus/$1" 2>"$out/$1.log"
  mkdir -p native/fuzz/corpus
  # The same inputs make the same file.
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=0644 -C "$least" -c . |
    gzip -9n >"native/fuzz/corpus/$1.tar.gz"
  echo "fuzz: $1, $(find "$least" -type f | wc -l) inputs packed"
  rm -r "$least"
}

for target in "${targets[@]}"; do
  clang++ -std=c++17 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
    -o "$out/$target" "native/fuzz/$target.cc"
  if [ ! -e "$out/corpus/$target" ]; then
    mkdir -p "$out/corpus/$target"
    if [ -e "native/fuzz/corpus/$target.tar.gz" ]; then
      tar -xzf "native/fuzz/corpus/$target.tar.gz" -C "$out/corpus/$target"
    fi
  fi
  if [ "$seconds" = pack ]; then
    pack "$target"
    continue
  fi
  dictionary=()
  if [ -e "native/fuzz/$target.dict" ]; then dictionary=(-dict="native/fuzz/$target.dict"); fi
  seeds=()
  if [ -d "native/fuzz/seeds/$target" ]; then seeds=("native/fuzz/seeds/$target"); fi
  echo "fuzz: $target, $seconds seconds"
  options=(-max_total_time="$seconds" -max_len=4096 -timeout=10 -artifact_prefix="$out/$target-")
  inputs=("${dictionary[@]}" "$out/corpus/$target" "${seeds[@]}")
  if "$out/$target" "${options[@]}" "${inputs[@]}" >"$out/$target.log" 2>&1; then
    grep "^Done" "$out/$target.log" | sed "s/^/fuzz:   /"
  else
    tail -n 80 "$out/$target.log" >&2
    echo "fuzz: $target failed; repeat it with: $out/$target FILE (written beside it)" >&2
    failed=1
  fi
done
exit "$failed"
