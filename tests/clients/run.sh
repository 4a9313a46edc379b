#!/bin/bash
# run.sh - other people's clients against our server: OpenAI's Python client, SGLang's bench_serving and send_one, curl.
#
#   MOXIE_VENV     where the Python packages go; made when it is missing (default: moxie-clients in the folder for temporary files)
#   MOXIE_SGLANG   0: without SGLang's tools, which import torch: 6 GB of packages
#   MOXIE_BUILD    which build (default: build)
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${MOXIE_BUILD:-build}
VENV=${MOXIE_VENV:-${TMPDIR:-/tmp}/moxie-clients}
T=$(mktemp -d)
passed=0 failed=0
servers=()
stop() {
	((${#servers[@]})) && kill "${servers[@]}" 2>/dev/null
	wait
	rm -rf "$T"
}
trap stop EXIT

packages() {
	[ -x "$VENV/bin/python" ] || python3 -m venv "$VENV" || return 1
	if [ "${MOXIE_SGLANG:-1}" = 0 ]; then
		"$VENV/bin/pip" install -q "$(grep ^openai tests/clients/requirements.txt)"
	else
		"$VENV/bin/pip" install -q -r tests/clients/requirements.txt && "$VENV/bin/pip" install -q --no-deps sglang==0.5.23
	fi
}
if ! packages >"$T/pip" 2>&1; then
	tail -n 20 "$T/pip"
	echo "skip all: the Python packages cannot be had"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
fi

serve() { # serve NAME ARG...: leaves its address in $url
	local log=$T/$1.log
	shift
	"$BUILD/moxie" serve models/wordmath --port 0 "$@" >"$log" 2>&1 &
	servers+=($!)
	for _ in $(seq 200); do
		url=$(sed -n 's/.* on \(http:[^ ]*[0-9]\).*/\1/p' "$log")
		[ -n "$url" ] && return
		sleep 0.1
	done
	cat "$log"
	echo "0 passed, 1 failed, 0 skipped"
	exit 1
}
# check NAME COMMAND...: one test, passed when the command's exit code is 0.
check() {
	local name=$1
	shift
	if "$@" >"$T/out" 2>&1; then
		passed=$((passed + 1))
		echo "ok     $name"
	else
		failed=$((failed + 1))
		tail -n 25 "$T/out" | sed 's/^/    /'
		echo "FAILED $name"
	fi
}

serve guarded --api-key clients-test-key
guarded=$url
serve open
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

"$VENV/bin/python" tests/clients/openai_client.py "$url" "$guarded" clients-test-key >"$T/openai" 2>&1
sed '$d' "$T/openai"
if read -r p f < <(tail -n 1 "$T/openai") && [[ $p$f =~ ^[0-9]+$ ]]; then
	passed=$((passed + p)) failed=$((failed + f))
else
	tail -n 1 "$T/openai"
	failed=$((failed + 1))
fi

curl_stream() {
	curl -sSN "$url/v1/chat/completions" -d '{"messages": [{"role": "user", "content": "Tom has 3 pears and buys 4 more. How many pears has he?"}],
		"temperature": 0, "stream": true}' >"$T/sse" && tail -n 2 "$T/sse" | grep -qx 'data: \[DONE\]' && ! grep -v '^data: \|^$' "$T/sse"
}
curl_forms() {
	curl -sSf "$url/health" && curl -sSf "$url/metrics" | grep -q '^sglang:num_running_reqs' &&
		curl -sSf --http1.0 "$url/v1/models" && curl -sSf -H 'Expect: 100-continue' "$url/tokenize" -d '{"prompt": "a"}' &&
		curl -sSf -H 'Transfer-Encoding: chunked' "$url/tokenize" -d '{"prompt": "a"}' | grep -q '"count":1' &&
		[ "$(curl -sS -o /dev/null -w '%{http_code}' "$guarded/v1/models")" = 401 ] &&
		curl -sSf -H 'Authorization: Bearer clients-test-key' "$guarded/v1/models"
}
check "curl stream" curl_stream
check "curl forms" curl_forms

bench_serving() { # bench_serving BACKEND ARG...: every request must succeed, with the tokens asked for
	local backend=$1
	shift
	rm -f "$T/row"
	"$VENV/bin/python" -m sglang.bench_serving --backend "$backend" --base-url "$url" --model "$(realpath models/wordmath)" \
		--served-model-name wordmath --num-prompts 60 --max-concurrency 16 --output-file "$T/row" "$@" || return 1
	"$VENV/bin/python" - "$T/row" <<-'PY'
		import json, sys
		r = json.loads(open(sys.argv[1]).readline())
		assert r["completed"] == 60, r["completed"]
		assert r["total_output_tokens"] > 60 and r["mean_ttft_ms"] > 0 and r["output_throughput"] > 0
	PY
}
if [ "${MOXIE_SGLANG:-1}" != 0 ]; then
	for backend in sglang sglang-oai sglang-oai-chat vllm vllm-chat; do
		check "sglang bench_serving $backend" bench_serving "$backend" --dataset-name random-ids --random-input-len 100 --random-output-len 24
	done
	check "sglang bench_serving token ids" bench_serving sglang --dataset-name random-ids --tokenize-prompt --random-input-len 100 --random-output-len 24
	check "sglang bench_serving shared prefix, flush" bench_serving sglang --dataset-name generated-shared-prefix --gsp-num-groups 6 \
		--gsp-prompts-per-group 10 --gsp-system-prompt-len 200 --gsp-question-len 20 --gsp-output-len 16 --flush-cache
	check "sglang bench_serving rate, no stream, logprobs" bench_serving sglang --dataset-name random-ids --random-input-len 50 --random-output-len 8 \
		--request-rate 40 --return-logprob --disable-stream
	check "sglang send_one" "$VENV/bin/python" -m sglang.test.send_one --host 127.0.0.1 --port "${url##*:}"
	check "sglang send_one stream" "$VENV/bin/python" -m sglang.test.send_one --host 127.0.0.1 --port "${url##*:}" --stream
fi
echo "$passed passed, $failed failed, 0 skipped"
((failed == 0))
