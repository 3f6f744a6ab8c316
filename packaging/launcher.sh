#!/bin/sh
# Installed as `forkd` and as `forkd-controller`. Starts the program of that name with the node on PATH. The Node.js of some
# distributions is too old, so its version is checked first.
set -eu

file=$(readlink -f "$0")
name=${file##*/}

fail() {
  echo "$name: forkd needs Node.js @NODE_MAJOR@.@NODE_MINOR@ or newer, and $1." >&2
  echo "Install a current release (https://nodejs.org/en/download), and put the directory of its node on PATH." >&2
  exit 1
}

node=$(command -v node) || fail "there is no node on PATH"
version=$(node --version)
release=${version#v}
major=${release%%.*}
rest=${release#*.}
minor=${rest%%.*}
if [ "$major" -lt @NODE_MAJOR@ ] || { [ "$major" -eq @NODE_MAJOR@ ] && [ "$minor" -lt @NODE_MINOR@ ]; }; then
  fail "$node is $version"
fi
exec "$node" "${file%/*}"/../lib/forkd/node_modules/@forkd/*/bundle/"$name.js" "$@"
