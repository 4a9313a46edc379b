#!/bin/bash
# run_tests.sh BUILD_DIR TEST... - runs test programs, one line each, and sums them up.
# A test program ends with "N passed, N failed, N skipped".  One that does not counts as one failure.  V=1 shows all output.
set -u
build=$1
shift
mkdir -p "$build/log"
passed=0 failed=0 skipped=0
for t in "$@"; do
	name=$(basename "$t")
	log=$build/log/$name.log
	start=$(date +%s%N)
	if [ "${V:-}" ]; then
		MOXIE_BUILD=$build "$t" 2>&1 | tee "$log"
		rc=${PIPESTATUS[0]}
	else
		MOXIE_BUILD=$build "$t" >"$log" 2>&1
		rc=$?
	fi
	ms=$((($(date +%s%N) - start) / 1000000))
	if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
		p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]} s=${BASH_REMATCH[3]}
		((rc == 0 || f > 0)) || f=1
	else
		p=0 f=1 s=0
		((rc != 0)) || echo "$t: no totals line at the end" >>"$log"
	fi
	((passed += p, failed += f, skipped += s))
	printf '%-18s %4d passed %3d failed %3d skipped %5d.%d s\n' "$name" "$p" "$f" "$s" $((ms / 1000)) $((ms % 1000 / 100))
	if [ -z "${V:-}" ]; then
		if ((f)); then
			echo "    exit code $rc, whole log in $log, its end:"
			tail -n 40 "$log" | sed 's/^/    /'
		elif ((s)); then
			grep -B1 '^skip ' "$log" | grep -v '^--$' | sed 's/^/    /'
		fi
	fi
done
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))
