#!/bin/bash
# test_serve.sh [NAME...] | --list - the server as its clients meet it: a real process, sockets of this machine, Python's own HTTP.
# MOXIE_BUILD says which build (default: build).
cd "$(dirname "$0")/.." || exit 1
if ! command -v python3 >/dev/null; then
	echo "skip all: there is no python3"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
fi
exec python3 -B tests/test_serve.py "$@"
