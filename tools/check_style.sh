#!/bin/bash
# check_style.sh - the rules a script can hold: include directions, forbidden calls, machine-local paths.  Any breach fails.
# Sizes of files and functions are reported, not judged.
set -u
cd "$(dirname "$0")/.." || exit 1
bad=0
breach() { # breach TITLE LINES...
	[ -n "$2" ] || return 0
	echo "$1:"
	printf '%s\n' "$2" | sed 's/^/    /'
	bad=$((bad + $(printf '%s\n' "$2" | wc -l)))
}
mapfile -t FILES < <(git ls-files -co --exclude-standard 2>/dev/null || find . -type f -not -path './build*' -not -path './.git/*' | sed 's|^./||')
# The files below a folder or matching a pattern, in which * crosses folders.
sources() {
	local f pat
	for f in "${FILES[@]}"; do
		for pat; do
			# shellcheck disable=SC2053
			if [[ $pat == . || $f == $pat || $f == $pat/* ]] && [[ -f $f ]]; then
				echo "$f"
				break
			fi
		done
	done
}
# Code without comments and strings, as file:line:code.
code() {
	sources "$@" | while read -r f; do
		awk -v f="$f" '
		{
			line = $0
			if (inside) {
				if (!(i = index(line, "*/"))) next
				line = substr(line, i + 2); inside = 0
			}
			gsub(/"([^"\\]|\\.)*"/, "\"\"", line)
			while (i = index(line, "/*")) {
				j = index(substr(line, i + 2), "*/")
				if (j) line = substr(line, 1, i - 1) " " substr(line, i + j + 3)
				else { line = substr(line, 1, i - 1); inside = 1 }
			}
			sub(/\/\/.*/, "", line)
			print f ":" FNR ":" line
		}' "$f"
	done
}

# ---- include directions: FOLDER may include only ALLOWED (first parts of the path) ----
includes() { # includes FOLDER ALLOWED_REGEX
	local lines
	lines=$(sources "$1" | grep -E '\.(c|h|cu|cuh)$' | xargs -r grep -nH '^#include "' | grep -vE "#include \"($2)" | grep -vE '#include "[^/]*"')
	breach "$1 includes what lies above it" "$lines"
}
includes src/base 'base/'
includes src/formats 'base/|formats/'
includes src/kernels/cpu 'base/|kernels/kernels\.h|kernels/cpu/'
includes src/kernels/cuda 'base/|kernels/kernels\.h|kernels/cuda/|device/'
includes src/moe 'base/|kernels/kernels\.h|moe/'
includes src/models 'base/|formats/|kernels/kernels\.h|moe/|models/'
includes src/engine 'base/|formats/|kernels/kernels\.h|moe/|models/|engine/'
includes src/serve 'base/|serve/'
includes src/client 'base/|client/'
includes cli 'bench/bench_(moe|ops|read|tokenizer)\.h|cli/|serve/serve\.h|client/client\.h'
includes examples 'moxie'
breach "cli sees moxie.h alone" "$(sources cli | xargs -r grep -nE '#include "moxie_(ops|route)\.h"')"
breach "below the engine, of the public headers only moxie_status.h (formats/chat: moxie.h; kernels/cuda: moxie_ops.h, moxie_route.h)" \
	"$(sources src/base src/formats src/kernels src/moe src/models | xargs -r grep -nE '#include "moxie(_ops|_route)?\.h"' |
		grep -vE '^src/formats/(chat|harmony)[^:]*:.*"moxie\.h"|^src/kernels/cuda/.*moxie_(ops|route)\.h')"
breach "CUDA headers outside src/kernels/cuda" \
	"$(sources src include cli bench examples | grep -vE '^src/kernels/cuda/|\.cu$' | xargs -r grep -nE '#include [<"](cuda|cublas|nccl)')"

# ---- forbidden in code ----
LIB=$(code 'src/*.c' 'src/*.h' 'src/*.cu' 'src/*.cuh')
ALL=$(code 'src/*' 'cli/*.[ch]' 'bench/*.[ch]' 'examples/*.c' 'include/*.h')
find_in() { printf '%s\n' "$1" | grep -E "$2"; }
breach "a library never exits, aborts or prints" \
	"$(find_in "$LIB" '[^a-zA-Z0-9_>.](exit|_exit|abort|printf|puts|putchar|perror)\(|[^a-zA-Z0-9_](fprintf|fputs|fputc)\((stderr|stdout)')"
breach "getenv outside cli" "$(find_in "$ALL" '[^a-zA-Z0-9_](secure_)?getenv\(' | grep -v '^cli/')"
breach "unbounded string calls" "$(find_in "$ALL" '[^a-zA-Z0-9_](strcpy|strcat|sprintf|vsprintf|gets|strtok)\(')"
breach "numbers read without a check" "$(find_in "$ALL" '[^a-zA-Z0-9_](atoi|atol|atof)\(' | grep -v '^bench/')"
breach "assert as an error path" "$(find_in "$ALL" '[^a-zA-Z0-9_]assert\(\s*!\s*"')"
breach "float atomics: results must not depend on the order of threads" \
	"$(find_in "$LIB" 'atomicAdd\(.*(float|half|bf16)'; sources src | xargs -r grep -nE '(red|atom)\.[a-z.:]*add[a-z.]*\.(f|bf)(16|32|64)')"
breach "fast-math" "$(sources Makefile '*.mk' src tools/*.sh | grep -v check_style | xargs -r grep -nE -e '-f(fast-math|associative-math)|-Ofast|--?use_fast_math')"
breach "notes to ourselves" "$(sources src cli include bench examples tests tools Makefile | grep -vE 'check_style|tests/vectors|\.jsonl?$' | xargs -r grep -nIE '\b(TODO|FIXME|XXX|HACK)\b')"
breach "paths of one machine" \
	"$(sources . | grep -vE 'check_style|^tests/vectors/|^tests/fuzz/corpus/|^models/' | xargs -r grep -nIE '(/home/[a-z]+/|/Users/|/root/|/work/|/mnt/[a-z])')"

# ---- sizes ----
echo "largest files (lines):"
sources 'src/*' 'cli/*' 'bench/*.[ch]' 'tests/*.c' 'include/*' | grep -E '\.(c|h|cu|cuh)$' | xargs -r wc -l | grep -v ' total$' | sort -rn | head -8 | sed 's/^/  /'
echo "longest functions (lines):"
sources 'src/*.c' 'cli/*.c' 'bench/*.c' | while read -r f; do
	awk -v f="$f" '
		/^[a-zA-Z].*\(/ && !/;$/ && !/^#/ { name = $0; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
		/^\{/ { start = FNR }
		/^\}/ && start { print FNR - start - 1, f ":" name; start = 0 }' "$f"
done | sort -rn | head -8 | sed 's/^/  /'

if ((bad)); then
	echo "style: $bad breaches"
	exit 1
fi
echo "style: ok"
