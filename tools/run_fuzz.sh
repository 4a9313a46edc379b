#!/bin/bash
# run_fuzz.sh PROGRAM SECONDS [SEED_DIR...] - one libFuzzer run.  New inputs are kept beside the program, a crasher too.
set -eu
program=$1 seconds=$2
shift 2
mkdir -p "$program.corpus"
if ! "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
	-artifact_prefix="$program-" "$program.corpus" "$@" >"$program.log" 2>&1; then
	tail -n 60 "$program.log"
	echo "$(basename "$program"): FAILED, whole log in $program.log" >&2
	exit 1
fi
echo "$(basename "$program"): $(sed -n 's/^stat::number_of_executed_units: *//p' "$program.log") inputs in $seconds s, no failure"
