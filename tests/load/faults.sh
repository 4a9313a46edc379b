#!/bin/bash
# faults.sh - what a server's life brings: a full process table of clients that die, no file descriptors, a port that is taken, signals.
# MOXIE_BUILD says which build (default: build).  RESTARTS=50: how often it is killed and started again.
set -u
cd "$(dirname "$0")/../.." || exit 1
BUILD=${MOXIE_BUILD:-build}
RESTARTS=${RESTARTS:-50}
T=$(mktemp -d)
passed=0 failed=0 pid=
trap '[ -z "$pid" ] || kill -9 "$pid" 2>/dev/null; wait 2>/dev/null; rm -rf "$T"' EXIT

serve() { # serve ARG...: leaves $pid, $url, $port
	: >"$T/log"
	"$BUILD/moxie" serve models/wordmath --port "${port:-0}" "$@" >"$T/log" 2>&1 &
	pid=$!
	for _ in $(seq 600); do
		url=$(sed -n 's/.* on \(http:[^ ]*[0-9]\).*/\1/p' "$T/log")
		[ -n "$url" ] && port=${url##*:} && return 0
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.05
	done
	return 1
}
stop() {
	kill "${1:--TERM}" "$pid"
	wait "$pid"
	rc=$?
	pid=
}
ok() { passed=$((passed + 1)) && echo "ok     $*"; }
bad() { failed=$((failed + 1)) && echo "FAILED $*" && tail -n 5 "$T/log" "$T/out" 2>/dev/null | sed 's/^/    /'; }
verdict() { if [ "$1" = 0 ]; then ok "${@:2}"; else bad "${@:2}"; fi; }
is_right() { "$BUILD/load" equal --url "$url" --n 30 --width 4 >"$T/out" 2>&1; }
load() { # load N WIDTH TOKENS: leaves $client
	"$BUILD/moxie" bench serving --base-url "$url" --num-prompts "$1" --max-concurrency "$2" --random-input-len 60 --random-output-len "$3" \
		--warmup-requests 0 >"$T/bench" 2>&1 &
	client=$!
}

# Clients that are killed, again and again.
port=
serve || { bad "start"; exit 1; }
for _ in 1 2 3 4 5; do
	load 400 64 400
	sleep 1
	kill -9 $client
	wait $client 2>/dev/null
done
sleep 1
curl -s "$url/metrics" | grep -q '^sglang:num_running_reqs{[^}]*} 0$' && is_right
verdict $? "clients killed under load: nothing runs on, answers are right"

# SIGTERM with 256 streams: they end, or are told; no longer than the time allowed; exit code 0.
stop
serve --drain-seconds 5
load 256 256 60
sleep 1.5
start=$(date +%s%N)
stop
took=$((($(date +%s%N) - start) / 1000000))
wait $client
n=$(sed -n 's/^Successful requests: *//p' "$T/bench")
[ "$rc" = 0 ] && ((took < 8000)) && ! grep -q 'within the answer' "$T/bench"
verdict $? "SIGTERM under 256 streams: exit code $rc after $took ms, $n of 256 were answered whole"

# A port that is taken is told at once.
serve
"$BUILD/moxie" serve models/wordmath --port "$port" >"$T/out" 2>&1
rc=$?
[ $rc != 0 ] && grep -q 'cannot listen on .* port .*in use' "$T/out"
verdict $? "port in use: exit code $rc, $(head -n 1 "$T/out")"
stop

# kill -9 and start again: on the same port and the same unix socket.
slow=0
for i in $(seq "$RESTARTS"); do
	start=$(date +%s%N)
	serve || break
	ms=$((($(date +%s%N) - start) / 1000000))
	((ms > slow)) && slow=$ms
	curl -sf "$url/v1/completions" -d '{"prompt": "Tom has", "max_tokens": 2}' >"$T/out" || break
	((i == RESTARTS)) || { kill -9 "$pid" && wait "$pid" 2>/dev/null; }
done
[ "$i" = "$RESTARTS" ] && is_right
verdict $? "kill -9 and restart, $i times: ready again after at most $slow ms, answers are right"
stop
for i in 1 2 3; do
	"$BUILD/moxie" serve models/wordmath --uds "$T/s" >"$T/log" 2>&1 &
	pid=$!
	for _ in $(seq 200); do curl -sf --unix-socket "$T/s" http://x/health >/dev/null && break || sleep 0.05; done
	curl -sf --unix-socket "$T/s" http://x/v1/models >"$T/out" || break
	stop -9 2>/dev/null
done
verdict $((i != 3)) "kill -9 with a unix socket, 3 times: the dead socket is replaced"

# No file descriptors: what does not fit waits, what fits is served, nothing spins.
port=
ulimit -Hn 64 2>/dev/null
serve
load 300 128 8
wait $client
n=$(sed -n 's/^Successful requests: *//p' "$T/bench")
cpu() { awk '{ print $14 + $15 }' "/proc/$pid/stat"; }
exec 9<>"/dev/tcp/127.0.0.1/$port"
a=$(cpu) && sleep 2 && b=$(cpu)
exec 9>&-
curl -sf "$url/health" >"$T/out" && ((b - a < 40))
verdict $? "64 files for 128 clients: $n of 300 were answered, idle afterwards ($((b - a)) of 200 ticks)"
stop
echo "$passed passed, $failed failed, 0 skipped"
((failed == 0))
