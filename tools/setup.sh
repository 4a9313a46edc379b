#!/bin/sh
# setup.sh [fuzz] - installs the Debian packages a build needs and does not find.  When all are there it does nothing;
# nothing but packages is ever downloaded.  `fuzz` adds clang and libFuzzer.
set -eu
want=
need() { want="$want $*"; }
compiles() { printf '%s\n' "$2" | $1 -x c - -o /dev/null >/dev/null 2>&1; }

cc=${CC:-gcc}
compiles "$cc -fopenmp" '#include <stdio.h>
int main(void) { return 0; }' || need gcc libc6-dev
compiles "$cc -c" '#include <jansson.h>' || need libjansson-dev
compiles "$cc -c" '#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>' || need libpcre2-dev
compiles "$cc -c" '#include <event2/http.h>' || need libevent-dev
if [ "${1:-}" = fuzz ]; then
	compiles "clang -fsanitize=fuzzer,address" 'int LLVMFuzzerTestOneInput(void) { return 0; }' || need clang libclang-rt-14-dev
fi
[ -n "$want" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "moxie: missing packages (Debian's names):$want; there is no apt-get here, install them by hand" >&2
	exit 1
fi
root=
if [ "$(id -u)" != 0 ]; then
	root=sudo
	if ! command -v sudo >/dev/null; then
		echo "moxie: missing packages; become root and run: apt-get install$want" >&2
		exit 1
	fi
fi
echo "moxie: installing$want"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq "$@" >>"$log" 2>&1; }
apt update || echo "moxie: apt-get update failed, trying with the lists at hand" >&2
# shellcheck disable=SC2086
if ! apt install --no-install-recommends $want; then
	cat "$log" >&2
	echo "moxie: the packages could not be installed" >&2
	exit 1
fi
