#!/bin/bash
# test_ops_abi.sh - moxie_ops.h and moxie_route.h from outside: they compile alone as C11 and as C++, and the structs that
# examples/ops_ctypes.py declares are theirs, field by field.  No GPU, no CUDA toolkit.
set -u
cd "$(dirname "$0")/.." || exit 1
unset "${!MOXIE_@}" 2>/dev/null
CC=${CC:-gcc}
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
passed=0 failed=0 skipped=0
ok() { echo "ok     $1" && ((passed += 1)); }
bad() {
	echo "FAILED $1"
	sed 's/^/    /' "$T/log" | head -20
	((failed += 1))
}
skip() { echo "    $2" && echo "skip   $1" && ((skipped += 1)); }

WARN="-Iinclude -Wall -Wextra -Wpedantic -Werror -fsyntax-only"
for h in moxie_status.h moxie_route.h moxie_ops.h; do
	printf '#include "%s"\n#include "%s"\n' $h $h >"$T/h.c"
	cp "$T/h.c" "$T/h.cc"
	# shellcheck disable=SC2086
	if $CC -std=c11 $WARN "$T/h.c" >"$T/log" 2>&1; then ok "c11 $h"; else bad "c11 $h"; fi
	# shellcheck disable=SC2086
	if ! echo 'int x;' | $CC -x c++ -fsyntax-only - 2>/dev/null; then skip "c++ $h" "$CC has no C++"
	elif $CC -x c++ -std=c++11 $WARN "$T/h.cc" >"$T/log" 2>&1; then ok "c++ $h"; else bad "c++ $h"; fi
done

if ! command -v python3 >/dev/null; then
	skip ctypes "no python3"
else
	# The declarations of the example, without PyTorch: a C program that prints the same numbers as ctypes, or does not compile.
	cat >"$T/abi.py" <<'PY'
import ctypes as C
import importlib.util
import re
import sys
import types

sys.modules["torch"] = types.ModuleType("torch")  # only main() uses it
spec = importlib.util.spec_from_file_location("ops_ctypes", "examples/ops_ctypes.py")
ops = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ops)
structs = [v for v in vars(ops).values() if isinstance(v, type) and issubclass(v, C.Structure) and v is not C.Structure]
lines, prog = [], ['#include <stddef.h>', '#include <stdio.h>', '#include "moxie_ops.h"', '#define SIZE(t, f) (int)sizeof(((struct t *)0)->f)', 'int main(void)', '{']
for s in structs:
    n, fields = s.__name__, [f for f, *_ in s._fields_]
    lines.append(f"{n} {C.sizeof(s)}")
    prog.append(f'	printf("{n} %d\\n", (int)sizeof(struct {n}));')
    for f in fields:
        d = getattr(s, f)
        lines.append(f"{n}.{f} {d.offset} {d.size}")
        prog.append(f'	printf("{n}.{f} %d %d\\n", (int)offsetof(struct {n}, {f}), SIZE({n}, {f}));')
prog += ['	return 0;', '}']
out = sys.argv[1]
open(out + "/abi.c", "w").write("\n".join(prog) + "\n")
open(out + "/python", "w").write("\n".join(lines) + "\n")

# Nothing left out: every struct with fields and every function the example names is in the headers.
text = "".join(open("include/" + h).read() for h in ("moxie_status.h", "moxie_route.h", "moxie_ops.h"))
text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
declared, names = set(re.findall(r"^struct (\w+) \{", text, re.M)), {s.__name__ for s in structs}
used = set(re.findall(r"lib\.(moxie_\w+)", open("examples/ops_ctypes.py").read()))
functions = set(re.findall(r"\b(moxie_\w+)\(", text))
if declared != names:
    sys.exit(f"structs only in the headers: {sorted(declared - names)}, only in the example: {sorted(names - declared)}")
if used - functions:
    sys.exit(f"the example calls {sorted(used - functions)}, which no header declares")

# Constants, by name.
enums = dict(re.findall(r"\b(MOXIE_[A-Z0-9_]+) = (-?\d+)", text))
for mine, theirs in (("SOFTMAX", "MOXIE_SCORE_SOFTMAX"), ("BF16", "MOXIE_LOGIT_BF16"), ("GPT_OSS", "MOXIE_MOE_GPT_OSS"),
                     ("SWIGLU_CLAMP", "MOXIE_ACT_SWIGLU_CLAMP")):
    if getattr(ops, mine) != int(enums[theirs]):
        sys.exit(f"{mine} is {getattr(ops, mine)} in the example, {theirs} is {enums[theirs]}")
PY
	if python3 "$T/abi.py" "$T" >"$T/log" 2>&1 && $CC -std=c11 -Iinclude -Wall -Werror -o "$T/abi" "$T/abi.c" >>"$T/log" 2>&1 &&
		"$T/abi" >"$T/c" 2>>"$T/log" && diff "$T/python" "$T/c" >>"$T/log" 2>&1; then ok ctypes; else bad ctypes; fi
fi
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))
