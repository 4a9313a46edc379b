#!/bin/bash
# test_load.sh - the load tests and the faults of tests/load in their short form.  MOXIE_BUILD says which build (default: build).
cd "$(dirname "$0")/.." || exit 1
if ! command -v curl >/dev/null || ! command -v python3 >/dev/null; then
	echo "skip all: curl or python3 is missing"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
fi
sum=(0 0)
for part in "tests/load/run.sh short" "env RESTARTS=3 tests/load/faults.sh"; do
	while read -r line; do
		if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
			sum=($((sum[0] + BASH_REMATCH[1])) $((sum[1] + BASH_REMATCH[2])))
		else
			echo "$line"
		fi
	done < <($part 2>&1)
done
echo "${sum[0]} passed, ${sum[1]} failed, 0 skipped"
((sum[1] == 0 && sum[0] > 15))
