#!/bin/bash
# test_page.sh - the chat page of `moxie serve` in Chromium; skipped where there is no Chromium, Python or model.
# MOXIE_BUILD says which build (default: build); SHOTS=DIR keeps pictures of the page.
set -u
cd "$(dirname "$0")/.." || exit 1
MOXIE=$(realpath "${MOXIE_BUILD:-build}")/moxie
unset "${!MOXIE_@}" 2>/dev/null || true
T=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || kill $pid 2>/dev/null; rm -rf "$T"' EXIT
skip() {
	echo "    $*"
	echo "skip   page"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
}
fail() {
	echo "    $*"
	sed 's/^/    stderr: /' "$T/err" | head -20
	echo "FAILED page"
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
}
command -v chromium >/dev/null || skip "no chromium"
command -v python3 >/dev/null || skip "no python3"
[ -f models/wordmath/model.safetensors ] || skip "no models/wordmath"

MOXIE_API_KEY=a-key "$MOXIE" serve models/wordmath --port 0 >"$T/out" 2>"$T/err" &
pid=$!
for ((i = 0; i < 400; i++)); do
	[ ! -s "$T/out" ] || break
	kill -0 $pid 2>/dev/null || fail "the server ended"
	sleep 0.05
done
url=$(sed -n 's/^moxie: serving .* on \([^ ]*\) (page, .*)$/\1/p' "$T/out")
timeout 120 python3 tests/page.py "$url" a-key ${SHOTS:+"$SHOTS"} >"$T/page" 2>&1 || fail "$(tail -5 "$T/page")"
echo "ok     page"
echo "1 passed, 0 failed, 0 skipped"
