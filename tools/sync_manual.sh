#!/bin/bash
# sync_manual.sh [BUILD_DIR] - writes what the option table knows into docs/moxie.1 and packaging/moxie.bash.
set -eu
cd "$(dirname "$0")/.."
moxie=${1:-build}/moxie
"$moxie" completion >packaging/moxie.bash
new=$(mktemp)
trap 'rm -f "$new"' EXIT
sed '/^\.\\" options begin/,/^\.\\" options end/ { /options begin/!{ /options end/!d } }' docs/moxie.1 |
	sed "/options begin/r "<("$moxie" mdoc-options) >"$new"
cat "$new" >docs/moxie.1
