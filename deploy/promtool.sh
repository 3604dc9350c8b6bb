#!/usr/bin/env bash
# Prints where promtool is, which tests the alert rules (deploy/prometheus); gets it where it is missing.
#
# On Debian and Ubuntu it comes in the package of Prometheus itself, which would start a server when it is
# installed. So the package is downloaded, and only promtool is taken out of it, into build/promtool/: nothing
# of the system changes, and nobody has to be root. Elsewhere: Homebrew's package starts nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

own=build/promtool/promtool

find_promtool() {
  command -v promtool || { [ -x "$own" ] && echo "$PWD/$own"; }
}

# The lists of packages may be missing, or too old, and only root may write the system's.
download() {
  apt-get download -q prometheus && return
  mkdir -p lists/partial cache/archives/partial
  local own_lists=(-o Dir::State::Lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User="")
  apt-get "${own_lists[@]}" -q update
  apt-get "${own_lists[@]}" -q download prometheus
}

get_from_debian() {
  local dir
  dir=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$dir'" EXIT
  # APT complains where its own user may not enter.
  chmod 755 "$dir"
  (cd "$dir" && download && dpkg-deb -x prometheus_*.deb unpacked) >&2
  mkdir -p "$(dirname "$own")"
  # Whole or not at all, for two may do this at once.
  mv "$dir/unpacked/usr/bin/promtool" "$own.$$"
  mv "$own.$$" "$own"
}

if ! find_promtool; then
  if [ "${1:-}" = --find ]; then exit 1; fi
  if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    get_from_debian
  elif command -v brew >/dev/null; then
    brew install prometheus >&2
  else
    echo "promtool is missing: install Prometheus (https://prometheus.io/download) so that it is on PATH" >&2
    exit 1
  fi
  hash -r
  find_promtool
fi
