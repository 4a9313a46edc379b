#!/bin/bash
# run.sh [short|full] - the load tests of docs/reliability.md against a server of our own; full takes an hour of two cores.
# MOXIE_BUILD says which build (default: build).  Ends with the totals of the tests.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${MOXIE_BUILD:-build}
T=$(mktemp -d)
passed=0 failed=0 pid=
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; wait 2>/dev/null; rm -rf "$T"' EXIT
if [ "${1:-short}" = full ]; then
	N=10000 LEAVE=10000 SLOW=500 SLOW_SECONDS=80 SOAK=1800 WIDTHS="1 8 64 256"
else
	N=60 LEAVE=40 SLOW=20 SLOW_SECONDS=4 SOAK=4 WIDTHS="1 8 64"
fi

serve() {
	# under the address sanitizer what is freed waits in a quarantine, which must be full before memory is watched
	ASAN_OPTIONS="${ASAN_OPTIONS:-}:quarantine_size_mb=8" "$BUILD/moxie" serve models/wordmath --port 0 "$@" >"$T/log" 2>&1 &
	pid=$!
	for _ in $(seq 600); do
		url=$(sed -n 's/.* on \(http:[^ ]*[0-9]\).*/\1/p' "$T/log")
		[ -n "$url" ] && return
		sleep 0.05
	done
	cat "$T/log"
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
}
stop() {
	kill "$pid"
	wait "$pid"
	pid=
}
try() { # try NAME COMMAND...: passed when the exit code is 0; its last line is the result
	local name=$1
	shift
	if "$@" >"$T/out" 2>"$T/err"; then
		passed=$((passed + 1))
		echo "ok     $name"
	else
		failed=$((failed + 1))
		tail -n 12 "$T/err" "$T/log" | sed 's/^/    /'
		echo "FAILED $name"
	fi
	tail -n 1 "$T/out" | sed 's/^/    /'
}

serve
for width in $WIDTHS; do
	try "$N requests, $width at once: each answer as alone" "$BUILD/load" equal --url "$url" --n "$N" --width "$width" --seed "$width"
done
try "$LEAVE clients leave" "$BUILD/load" leave --url "$url" --n "$LEAVE" --width 32 --pid "$pid"
stop
serve --max-total-tokens 20000
try "soak" "$BUILD/load" soak --url "$url" --seconds "$SOAK" --width 8 --load 80 --pid "$pid"
stop
serve --timeout 5
try "$SLOW slow readers, $SLOW slow senders" "$BUILD/load" slow --url "$url" --slow "$SLOW" --width 2 --seconds "$SLOW_SECONDS" --pid "$pid"
for backend in sglang sglang-oai sglang-oai-chat; do
	try "bench serving $backend" "$BUILD/moxie" bench serving --base-url "$url" --backend $backend --num-prompts 40 --max-concurrency 8 \
		--random-input-len 60 --random-output-len 12 -o "$T/row" --output-details --cache-report
done
try "bench serving, token ids, whole answers" "$BUILD/moxie" bench serving --base-url "$url" --backend openai --dataset-name random-ids --disable-stream \
	--num-prompts 20 --random-input-len 60 --random-output-len 12 -o "$T/row"
try "bench serving, shared beginnings" "$BUILD/moxie" bench serving --base-url "$url" --dataset-name generated-shared-prefix --gsp-num-groups 4 \
	--gsp-prompts-per-group 8 --gsp-system-prompt-len 200 --gsp-question-len 20 --gsp-output-len 8 --flush-cache --request-rate 100 -o "$T/row"
# Token 188 is the byte 0: answers of nothing else.
try "bench serving, answers of NUL" "$BUILD/moxie" bench serving --base-url "$url" --backend sglang-oai --extra-request-body '{"logit_bias": {"188": 100}}' \
	--num-prompts 10 --random-input-len 20 --random-output-len 8 --output-details -o "$T/row"
try "its rows" python3 - "$T/row" <<-'PY'
	import json, sys
	rows = [json.loads(l) for l in open(sys.argv[1])]
	assert [r["completed"] for r in rows] == [40, 40, 40, 20, 32, 10], rows
	for r in rows:
	    for k in ("request_throughput", "output_throughput", "mean_ttft_ms", "p99_ttft_ms", "mean_e2e_latency_ms", "concurrency"):
	        assert r[k] > 0, k
	    assert r["duration"] > 0 and (r["mean_tpot_ms"] > 0) == (r["backend"] != "openai") and r["mean_ttft_ms"] <= r["mean_e2e_latency_ms"] and r["median_itl_ms"] <= r["p99_itl_ms"]
	for r in rows[:3]:
	    assert sum(r["output_lens"]) == r["total_output_tokens"] and not any(r["errors"]) and sum(map(bool, r["generated_texts"])) >= 20
	    for n, gaps, first in zip(r["output_lens"], r["itls"], r["ttfts"]):
	        assert len(gaps) <= n and first > 0
	assert sum(r["output_lens"][0] > 0 for r in rows[:3]) == 3
	assert set("".join(rows[5]["generated_texts"])) == {"\0"}, rows[5]["generated_texts"]
	assert rows[0]["output_lens"] == rows[1]["output_lens"] == rows[2]["output_lens"], "the same seed is the same load"
PY
try "eval over HTTP" "$BUILD/moxie" eval wordmath --base-url "$url" --limit 12 -o "$T/eval"
try "eval here" "$BUILD/moxie" eval wordmath --limit 12 -o "$T/eval_here"
try "both give the same answers" python3 - "$T/eval" "$T/eval_here" <<-'PY'
	import json, sys
	a, b = ({r["index"]: r for r in map(json.loads, open(p))} for p in sys.argv[1:])
	assert len(a) == 12 and a == b, [(a[i], b[i]) for i in a if a[i] != b[i]][:1]
PY
stop
echo "$passed passed, $failed failed, 0 skipped"
((failed == 0))
