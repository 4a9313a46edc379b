#!/bin/bash
# test_cli.sh [NAME...] | --list - the command as a user meets it: help, answers, bad input, files, the installed library.
# MOXIE_BUILD says which build (default: build).  An argument picks every test whose name contains it.
# shellcheck disable=SC2015,SC2030,SC2031
set -u
cd "$(dirname "$0")/.." || exit 1
BUILD=$(realpath "${MOXIE_BUILD:-build}")
MOXIE=$BUILD/moxie
WORDMATH=models/wordmath
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
unset "${!MOXIE_@}" MAKEFLAGS MAKELEVEL MAKEOVERRIDES 2>/dev/null
[ -n "${BUILD:-}" ] || exit 1

fail() {
	echo "    $*"
	[ ! -s "$T/err" ] || sed 's/^/    stderr: /' "$T/err" | head -20
	exit 1
}
skip() {
	echo "    $*"
	exit 77
}
# moxie ARG...: leaves rc, $T/out, $T/err.
moxie() {
	rc=0
	"$MOXIE" "$@" >"$T/out" 2>"$T/err" </dev/null || rc=$?
}
# wants CODE REGEX ARG...: the command ends with CODE and REGEX is in what it says on stderr (CODE 0: on stdout).
wants() {
	local code=$1 regex=$2 where=$T/err
	shift 2
	moxie "$@"
	[ "$rc" = "$code" ] || fail "moxie $*: exit code $rc, wanted $code"
	[ "$code" != 0 ] || where=$T/out
	grep -qE -- "$regex" "$where" || fail "moxie $*: nothing like \"$regex\" in: $(head -c 500 "$where")"
	if [ "$code" = 2 ] && [ -s "$T/out" ]; then
		fail "moxie $*: bad input, and yet stdout has: $(head -c 200 "$T/out")"
	fi
}
tiny() { # a random checkpoint of its own for each caller: tiny DIR
	"$MOXIE" synth gpt-oss-tiny "$1" >"$T/synth" 2>&1 || fail "synth: $(cat "$T/synth")"
}
have() { command -v "$1" >/dev/null; }

test_help() {
	wants 0 'usage: moxie COMMAND' --help
	local c
	for c in run chat serve eval bench inspect synth tokenize; do
		wants 0 "usage: moxie $c" "$c" --help
		grep -q 'twin in the environment' "$T/out" || fail "$c --help does not name the environment"
	done
	for c in op moe; do
		wants 0 "usage: moxie bench $c" bench "$c" --help
	done
	wants 0 '^moxie 0\.1\.0$' --version
	wants 2 'usage: moxie COMMAND'
}

test_bad_flags() {
	wants 2 'no command "dance"' dance
	wants 2 'unknown .*--tempo' run --tempo 3
	wants 2 'unknown flag -z' run -z
	wants 2 'wants a value' run hello -n
	wants 2 'max-tokens is "many"' run hello -n many
	wants 2 'max-tokens is "-1"' run hello -n -1
	wants 2 'reasoning-effort is "huge".*low\|medium\|high' run hello --reasoning-effort huge
	wants 2 'seed is "-4"' run hello --seed -4
	wants 2 'contexts is "12,x"' bench --contexts 12,x
	wants 2 'tokens is "x"' bench moe --tokens 1,x
	wants 2 'shape is "mini"' bench moe --shape mini
	wants 2 'CONFIG and OUTDIR' synth gpt-oss-tiny
	wants 2 'unknown kind' eval poetry
	wants 2 'FILE is missing' eval gsm8k
	MOXIE_TOP_K=x wants 2 'MOXIE_TOP_K is "x"' run hello
}

test_serve_flags() {
	tiny "$T/m"
	wants 2 'port is "70000"' serve "$T/m" --port 70000
	wants 2 'max-running-requests is "0"' serve "$T/m" --max-num-seqs 0
	wants 2 'log-level is "loud"' serve "$T/m" --log-level loud
	wants 2 'what is "too" for' serve "$T/m" too
	wants 2 'none/config.json' serve "$T/none"
	wants 2 'host is "localhost.localdomain", wanted an IPv4' serve "$T/m" --host localhost.localdomain
	local host
	for host in 0.0.0.0 :: 192.0.2.1 ::ffff:192.0.2.1; do
		wants 2 'no key: give --api-key-file' serve "$T/m" --host $host
	done
	wants 2 "uds is \"\"" serve "$T/m" --uds ''
	wants 2 'wanted a path of 1 to 107 bytes' serve "$T/m" --uds "$T/$(printf '%0120d' 0)"
	wants 2 'what are --host and --port for' serve "$T/m" --uds "$T/s" --port 1

	wants 2 'No such file' serve "$T/m" --api-key-file "$T/none"
	: >"$T/key"
	wants 2 'the key is empty' serve "$T/m" --api-key-file "$T/key"
	printf 'one\ntwo\n' >"$T/key"
	wants 2 'byte 3 is not' serve "$T/m" --api-key-file "$T/key"
	printf 'a\0b' >"$T/key"
	wants 2 'no NUL, byte 1' serve "$T/m" --api-key-file "$T/key"
	head -c 5000 /dev/zero | tr '\0' k >"$T/key"
	wants 2 'at most 4096 bytes' serve "$T/m" --api-key-file "$T/key"
	wants 2 'two keys' serve "$T/m" --api-key-file "$T/key" --api-key k
	MOXIE_API_KEY='two words' wants 2 'byte 3 is not' serve "$T/m"
	wants 2 'processes' serve "$T/m" --api-key secret --host 300.0.0.1
}

# serving ARG...: a server of the tiny model; pid, and url as its one line of output says it.
serving() {
	: >"$T/out"
	"$MOXIE" serve "$@" >"$T/out" 2>"$T/err" &
	pid=$!
	trap 'kill $pid 2>/dev/null' EXIT
	local i
	for ((i = 0; i < 400; i++)); do
		[ ! -s "$T/out" ] || break
		kill -0 $pid 2>/dev/null || fail "the server ended"
		sleep 0.05
	done
	url=$(sed -n 's/^moxie: serving .* on \([^ ]*\) (page, .*)$/\1/p' "$T/out")
	[ -n "$url" ] || fail "not the wanted line: $(cat "$T/out")"
}
# get PATH [HEADER]: the whole answer of the server at $url, without a client of any kind.
get() {
	exec 3<>"/dev/tcp/127.0.0.1/$(echo "$url" | sed 's/.*:\([0-9]*\).*/\1/')" || fail "no connection to $url"
	printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n' "$1" "${2:+$2$'\r\n'}" >&3
	tr -d '\0' <&3
	exec 3<&-
}

test_serve() {
	tiny "$T/m"
	echo 'a-key' >"$T/key"
	chmod 600 "$T/key"
	if have python3; then # a service manager that hears us, in the abstract space
		python3 - "$T/heard" "moxie-test-$$" <<-'END' &
			import socket, sys
			s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
			s.bind("\0" + sys.argv[2])
			s.settimeout(60)
			open(sys.argv[1], "w").close()
			for i in range(2): open(sys.argv[1], "a").write(s.recv(100).decode() + "\n")
		END
		export NOTIFY_SOCKET=@moxie-test-$$
		local i
		for ((i = 0; i < 200; i++)); do
			[ ! -e "$T/heard" ] || break
			sleep 0.05
		done
	fi
	serving "$T/m" --port 0 --api-key-file "$T/key" --served-model-name small --context-length 256
	grep -q 'serving small on http://127\.0\.0\.1:[1-9]' "$T/out" || fail "it says: $(cat "$T/out")"
	get /health | grep -q '^HTTP/1.1 200' || fail "/health"
	get / >"$T/page"
	grep -q '^HTTP/1.1 200' "$T/page" && grep -q '<title>Moxie</title>' "$T/page" && tail -1 "$T/page" | grep -q '</html>' || fail "not the page"
	get /v1/models | grep -q '^HTTP/1.1 401' || fail "no key, and yet /v1/models answers"
	get /v1/models 'Authorization: Bearer a-key' | grep -q '"small"' || fail "/v1/models"
	kill -TERM $pid
	rc=0
	wait $pid || rc=$?
	[ "$rc" = 0 ] || fail "SIGTERM: exit code $rc"
	if have python3; then
		wait
		[ "$(cat "$T/heard")" = $'READY=1\nSTOPPING=1' ] || fail "the service manager heard: $(cat "$T/heard")"
	fi
	unset NOTIFY_SOCKET
	serving "$T/m" --uds "$T/socket"
	[ -S "$T/socket" ] && [ "$url" = "unix:$T/socket" ] || fail "no socket at $url"
	kill -INT $pid 2>/dev/null
	wait $pid || fail "SIGINT: exit code $?"
	[ ! -e "$T/socket" ] || fail "the socket was left behind"
}

test_bad_sampling() {
	tiny "$T/m"
	local v
	for v in 'temperature nan' 'temperature -1' 'temperature inf' 'top-p 1.5' 'top-p -0.1' 'min-p 2' 'top-k -3' 'repetition-penalty -1' \
		'presence-penalty nan' 'frequency-penalty inf'; do
		# shellcheck disable=SC2086
		wants 2 "${v#* }|inf|nan" run "$T/m" hello --${v% *} "${v#* }"
	done
}

test_bad_prompts() {
	tiny "$T/m"
	wants 2 'no prompt' run "$T/m"
	wants 2 'empty' run "$T/m" ''
	wants 2 'UTF-8.*byte 2' run "$T/m" $'ab\xffc'
	wants 2 'UTF-8' run "$T/m" --raw $'\xc3'
	wants 2 'two prompts|what is' run "$T/m" -p one two
	head -c 40000 /dev/zero | tr '\0' 'a' >"$T/long"
	rc=0
	"$MOXIE" run "$T/m" - <"$T/long" >"$T/out" 2>"$T/err" || rc=$?
	[ "$rc" = 2 ] && grep -q 'context length is 8192' "$T/err" || fail "an over-long prompt: exit code $rc"
	wants 2 'context length is 99999999, wanted' run "$T/m" hello -c 99999999
	rc=0
	head -c 10 /dev/zero | "$MOXIE" run "$T/m" - >"$T/out" 2>"$T/err" || rc=$?
	[ "$rc" = 2 ] || fail "NUL bytes in a prompt: exit code $rc"
}

test_bad_checkpoints() {
	tiny "$T/m"
	wants 2 "$T/none/config.json" run "$T/none" hello
	wants 2 'No such file' inspect "$T/none"
	local f=$T/m/model.safetensors
	cp -r "$T/m" "$T/cut" && truncate -s -1000 "$T/cut/model.safetensors"
	wants 2 'cut/model.safetensors' run "$T/cut" hello
	cp -r "$T/m" "$T/stub" && head -c 5 "$f" >"$T/stub/model.safetensors"
	wants 2 'stub/model.safetensors' inspect "$T/stub"
	cp -r "$T/m" "$T/wide" && sed -i 's/"hidden_size": *128/"hidden_size": 192/' "$T/wide/config.json"
	grep -q 192 "$T/wide/config.json" || fail "the config has changed its form"
	wants 2 'embed_tokens.*192.*128|128.*192' run "$T/wide" hello
	cp -r "$T/m" "$T/arch" && sed -i 's/GptOssForCausalLM/MambaForCausalLM/' "$T/arch/config.json"
	wants 2 'MambaForCausalLM' run "$T/arch" hello
	cp -r "$T/m" "$T/layers" && sed -i 's/"num_hidden_layers": *4/"num_hidden_layers": 3/' "$T/layers/config.json"
	wants 2 'layers' run "$T/layers" hello
	cp -r "$T/m" "$T/json" && echo '{' >"$T/json/config.json"
	wants 2 'json/config.json' run "$T/json" hello
	cp -r "$T/m" "$T/tok" && echo '{"model": 3}' >"$T/tok/tokenizer.json"
	wants 2 'tok/tokenizer.json' run "$T/tok" hello
	cp -r "$T/m" "$T/notok" && rm "$T/notok/tokenizer.json"
	wants 2 'tokenizer.json' run "$T/notok" hello
	wants 2 'device' run "$T/m" hello --device abacus
	wants 2 'config|No such' run --load-format dummy gpt-oss-9000 hello
}

test_greedy_is_deterministic() {
	tiny "$T/m"
	local want='' t
	for t in 1 2 1; do
		moxie run "$T/m" --raw --ignore-eos -n 40 --temperature 0 --stats --threads $t 'once upon a time'
		[ "$rc" = 0 ] || fail "exit code $rc"
		local got
		got=$(cat "$T/out"; grep -o 'logits #.*' "$T/err")
		[ -z "$want" ] || [ "$got" = "$want" ] || fail "two runs differ ($t threads)"
		want=$got
	done
}

test_seed_repeats_a_sample() {
	tiny "$T/m"
	local a b c
	a=$("$MOXIE" run "$T/m" --raw --ignore-eos -n 40 --temperature 1 --seed 5 'once' 2>/dev/null | md5sum)
	b=$("$MOXIE" run "$T/m" --raw --ignore-eos -n 40 --temperature 1 --seed 5 'once' 2>/dev/null | md5sum)
	c=$("$MOXIE" run "$T/m" --raw --ignore-eos -n 40 --temperature 1 --seed 6 'once' 2>/dev/null | md5sum)
	[ "$a" = "$b" ] || fail "one seed, two answers"
	[ "$a" != "$c" ] || fail "two seeds, one answer"
}

test_prompt_from_everywhere() {
	tiny "$T/m"
	local want
	moxie run "$T/m" --raw -n 20 hello there
	want=$(md5sum <"$T/out")
	[ "$rc" = 0 ] && [ -s "$T/out" ] || fail "no answer"
	moxie run --model "$T/m" --raw -n 20 'hello there'
	[ "$(md5sum <"$T/out")" = "$want" ] || fail "--model differs"
	moxie run "$T/m" --raw -n 20 -p 'hello there'
	[ "$(md5sum <"$T/out")" = "$want" ] || fail "-p differs"
	printf 'hello there' | "$MOXIE" run "$T/m" --raw -n 20 - >"$T/out" 2>"$T/err"
	[ "$(md5sum <"$T/out")" = "$want" ] || fail "stdin differs"
	MOXIE_MODEL=$T/m MOXIE_PROMPT='hello there' MOXIE_RAW=1 MOXIE_MAX_TOKENS=20 moxie run
	[ "$(md5sum <"$T/out")" = "$want" ] || fail "the environment differs"
	MOXIE_MODEL=$T/none MOXIE_PROMPT=no MOXIE_MAX_TOKENS=3 moxie run "$T/m" --raw -n 20 hello there
	[ "$(md5sum <"$T/out")" = "$want" ] || fail "flags do not win over the environment"
}

test_length_is_reported() {
	tiny "$T/m"
	moxie run "$T/m" --raw --ignore-eos -n 5 hello
	[ "$rc" = 0 ] && grep -q 'stopped after 5 tokens' "$T/err" || fail "--max-tokens: exit code $rc"
	moxie run "$T/m" --raw --ignore-eos -c 32 hello
	[ "$rc" = 1 ] && grep -q 'not whole' "$T/err" || fail "a full context: exit code $rc"
}

test_pipes_and_disks() {
	tiny "$T/m"
	"$MOXIE" run "$T/m" --raw --ignore-eos -c 4000 hello 2>"$T/err" | head -c 20 >/dev/null
	[ ! -s "$T/err" ] || fail "a closed pipe is not taken quietly"
	if [ -e /dev/full ]; then
		rc=0
		"$MOXIE" run "$T/m" --raw --ignore-eos -n 10 hello >/dev/full 2>"$T/err" || rc=$?
		[ "$rc" = 1 ] || fail "a full disk: exit code $rc"
	fi
}

test_interrupt() {
	tiny "$T/m"
	"$MOXIE" run "$T/m" --raw --ignore-eos -c 100000 hello >"$T/out" 2>"$T/err" &
	local pid=$! i
	for ((i = 0; i < 200; i++)); do
		[ ! -s "$T/out" ] || break
		sleep 0.05
	done
	kill -INT $pid
	rc=0
	wait $pid || rc=$?
	[ "$rc" = 130 ] && grep -q 'not whole' "$T/err" || fail "exit code $rc"
}

test_inspect() {
	tiny "$T/m"
	wants 0 'lm_head.weight +BF16 +512 x 128' inspect "$T/m"
	grep -q 'together; this machine has' "$T/out" || fail "no memory plan"
	wants 0 '"arch": "GptOssForCausalLM"' inspect --json "$T/m"
	if have python3; then
		python3 - "$T/out" <<-'END' || fail "not the wanted JSON"
			import json, sys
			d = json.load(open(sys.argv[1]))
			assert d["n_expert"] == 8 and d["weight_bytes"] == sum(t["bytes"] for t in d["tensors"])
		END
	fi
	wants 0 '459 tensors' inspect --load-format dummy gpt-oss-20b
}

test_synth() {
	wants 0 '^gpt-oss-20b$' synth --list
	tiny "$T/a"
	tiny "$T/b"
	cmp -s "$T/a/model.safetensors" "$T/b/model.safetensors" || fail "one seed, two checkpoints"
	moxie synth gpt-oss-tiny "$T/c" --seed 1
	[ "$rc" = 0 ] || fail "exit code $rc"
	! cmp -s "$T/a/model.safetensors" "$T/c/model.safetensors" || fail "two seeds, one checkpoint"
	wants 2 "$T/a" synth gpt-oss-tiny "$T/a"
	wants 2 'gpt-oss-9000' synth gpt-oss-9000 "$T/d"
	[ ! -e "$T/d/config.json" ] || fail "a failed synth left files"
	wants 0 . run --load-format dummy gpt-oss-tiny --device cpu:ref --help
}

test_tokenize() {
	tiny "$T/m"
	moxie tokenize "$T/m" --ids 'a b'
	[ "$rc" = 0 ] && [ "$(wc -w <"$T/out")" -ge 1 ] || fail "exit code $rc"
	local plain special
	plain=$("$MOXIE" tokenize "$T/m" --ids '<|end|>' | wc -w)
	special=$("$MOXIE" tokenize "$T/m" --ids --specials '<|end|>' | wc -w)
	[ "$special" = 1 ] && [ "$plain" -gt 1 ] || fail "specials: $special token, without: $plain"
	wants 0 '"a"' tokenize "$T/m" 'a'
}

test_stop_strings() {
	[ -f $WORDMATH/model.safetensors ] || skip "no $WORDMATH"
	local q='Ann has 3 apples and buys 4 more apples. How many apples does she have now?'
	moxie run $WORDMATH "$q"
	local whole
	whole=$(cat "$T/out")
	[[ $whole == *apples* ]] || fail "the answer is: $whole"
	moxie run $WORDMATH "$q" --stop apples
	[ "$rc" = 0 ] && [ "$(cat "$T/out")" = "$(printf '%s' "${whole%%apples*}")" ] || fail "stopped: $(cat "$T/out"); whole: $whole"
}

test_shipped_model_answers() {
	[ -f $WORDMATH/model.safetensors ] || skip "no $WORDMATH"
	wants 0 '\b7\b' run 'Ann has 3 apples and buys 4 more apples. How many apples does she have now?'
	[ "$(wc -l <"$T/out")" = 1 ] || fail "stdout is more than the answer: $(cat "$T/out")"
	moxie run --show-reasoning yes 'Ann has 3 apples and buys 4 more apples. How many apples does she have now?'
	grep -q '3 + 4 = 7' "$T/err" || fail "no working on stderr"
	rc=0
	(cd "$T" && "$MOXIE" run 'Ann has 3 apples and buys 4 more. How many?' >"$T/out" 2>"$T/err") || rc=$?
	[ "$rc" = 0 ] || fail "from another directory: exit code $rc"
}

test_eval_wordmath() {
	[ -f $WORDMATH/model.safetensors ] || skip "no $WORDMATH"
	local f=tests/vectors/wordmath_heldout.jsonl
	[ -f $f ] || skip "no $f"
	wants 0 'of 5 right, .* \+- ' eval wordmath $f --limit 5 -o "$T/rows"
	[ "$(wc -l <"$T/rows")" = 5 ] || fail "$(wc -l <"$T/rows") rows, wanted 5"
	local n
	for n in 1 5; do
		wants 0 'of 20 right' eval wordmath $f --limit 20 --parallel $n
		[ "$(sed -n 's/.*: \([0-9]*\) of 20 right.*/\1/p' "$T/out")" -ge 15 ] || fail "$n together: $(cat "$T/out")"
	done
}

test_eval_other_files() {
	tiny "$T/m"
	printf '%s\n' '{"question": "How many?", "answer": "3 + 4 = 7\n#### 7"}' >"$T/g.jsonl"
	wants 0 'of 1 right' eval gsm8k "$T/g.jsonl" -m "$T/m" -n 20
	printf '%s\n' '{"Question": "Which?", "Correct Answer": "w", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y", "Incorrect Answer 3": "z"}' >"$T/q.jsonl"
	wants 0 'of 1 right' eval gpqa "$T/q.jsonl" -m "$T/m" -n 20 -o "$T/rows1" --seed 3
	moxie eval gpqa "$T/q.jsonl" -m "$T/m" -n 20 -o "$T/rows2" --seed 3
	cmp -s "$T/rows1" "$T/rows2" || fail "one seed, two orders"
	echo 'not json' >>"$T/g.jsonl"
	wants 2 'g.jsonl:2: not JSON' eval gsm8k "$T/g.jsonl" -m "$T/m"
	echo '{"question": 3}' >"$T/h.jsonl"
	wants 2 'h.jsonl:1: no question' eval wordmath "$T/h.jsonl" -m "$T/m"
	: >"$T/empty.jsonl"
	wants 2 'no questions' eval wordmath "$T/empty.jsonl" -m "$T/m"
	wants 2 'No such file' eval wordmath "$T/none.jsonl" -m "$T/m"
}

test_bench() {
	tiny "$T/m"
	wants 0 '^ +16 .*%' bench "$T/m" --contexts 16,32 --gen 2 -o "$T/rows"
	[ "$(grep -c '"decode_tok_s"' "$T/rows")" = 2 ] || fail "not two rows"
}

test_manual_and_completion_are_current() {
	moxie completion
	cmp -s "$T/out" packaging/moxie.bash || fail "packaging/moxie.bash: run tools/sync_manual.sh"
	moxie mdoc-options
	awk '/^\.\\" options end/ { on = 0 } on { print } /^\.\\" options begin/ { on = 1 }' docs/moxie.1 | cmp -s - "$T/out" ||
		fail "docs/moxie.1: run tools/sync_manual.sh"
	bash -n packaging/moxie.bash || fail "the completion is no bash"
}

install_to() {
	[ -d "$1/opt" ] || make -s B="$(realpath --relative-to=. "$BUILD")" SAN="${SAN:-}" DESTDIR="$1" PREFIX=/opt/moxie install >"$T/log" 2>&1 || fail "make install: $(tail -5 "$T/log")"
}

test_install() {
	install_to "$T/dest"
	local p=$T/dest/opt/moxie f
	for f in bin/moxie include/moxie.h lib/libmoxie.a lib/libmoxie.so lib/libmoxie.so.0 lib/pkgconfig/moxie.pc lib/cmake/moxie/moxieConfig.cmake \
		share/man/man1/moxie.1 share/bash-completion/completions/moxie lib/systemd/system/moxie.service; do
		[ -e "$p/$f" ] || fail "$f is missing"
	done
	readelf -d "$p/lib/libmoxie.so" | grep -q 'SONAME.*libmoxie.so.0\]' || fail "no SONAME"
	local foreign
	foreign=$(nm -D --defined-only "$p/lib/libmoxie.so" | awk '$2 ~ /[TDBRVW]/ { print $3 }' | grep -v '^moxie_' | grep -vE '^(__asan|__ubsan|__odr_asan|_)' || true)
	[ -z "$foreign" ] || fail "the library shows more than moxie_*: $foreign"
	grep -q '^ExecStart=/opt/moxie/bin/moxie serve$' "$p/lib/systemd/system/moxie.service" || fail "the unit starts something else"
	"$p/bin/moxie" --version >/dev/null || fail "the installed command does not run"
}

example_args() {
	[ -f $WORDMATH/model.safetensors ] || skip "no $WORDMATH"
	ask=("$WORDMATH" 'Ann has 3 apples and buys 4 more apples. How many apples does she have now?')
}

test_example_in_c() {
	example_args
	install_to "$T/dest"
	local lib=$T/dest/opt/moxie/lib
	local flags="-I$T/dest/opt/moxie/include -L$lib -lmoxie"
	if have pkg-config; then
		flags=$(PKG_CONFIG_SYSROOT_DIR=$T/dest PKG_CONFIG_PATH=$lib/pkgconfig pkg-config --cflags --libs moxie 2>"$T/err") || fail "pkg-config"
	fi
	# shellcheck disable=SC2086
	${CC:-gcc} -std=c11 -Wall -Wextra -Werror ${SAN:-} examples/generate.c $flags -o "$T/generate" 2>"$T/err" || fail "the example does not compile"
	LD_LIBRARY_PATH=$lib "$T/generate" "${ask[@]}" >"$T/out" 2>"$T/err" || fail "exit code $?"
	grep -q '\b7\b' "$T/out" || fail "it answers: $(cat "$T/out")"
	! LD_LIBRARY_PATH=$lib "$T/generate" "$T/none" hello >"$T/out" 2>"$T/err" || fail "a missing model is no error"
}

test_example_with_cmake() {
	have cmake || skip "no cmake"
	example_args
	install_to "$T/dest"
	mkdir -p "$T/cm"
	cp examples/generate.c "$T/cm"
	cat >"$T/cm/CMakeLists.txt" <<-'END'
		cmake_minimum_required(VERSION 3.16)
		project(try C)
		find_package(moxie 0.1 REQUIRED)
		add_executable(generate generate.c)
		target_link_libraries(generate moxie::moxie)
	END
	cmake -S "$T/cm" -B "$T/cm/b" -DCMAKE_PREFIX_PATH="$T/dest/opt/moxie" -DCMAKE_C_FLAGS="${SAN:-}" >"$T/log" 2>&1 &&
		cmake --build "$T/cm/b" >>"$T/log" 2>&1 || fail "$(tail -20 "$T/log")"
	"$T/cm/b/generate" "${ask[@]}" >"$T/out" 2>"$T/err" || fail "exit code $?"
	grep -q '\b7\b' "$T/out" || fail "it answers: $(cat "$T/out")"
}

test_example_in_python() {
	have python3 || skip "no python3"
	example_args
	local pre=
	[[ ${SAN:-} != *address* ]] || pre=$(${CC:-gcc} -print-file-name=libasan.so)
	MOXIE_LIB=$BUILD/libmoxie.so LD_PRELOAD=$pre ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 python3 examples/generate.py "${ask[@]}" >"$T/out" 2>"$T/err" ||
		fail "exit code $?"
	grep -q '\b7\b' "$T/out" || fail "it answers: $(cat "$T/out")"
}

passed=0 failed=0 skipped=0
for name in $(declare -F | sed -n 's/^declare -f test_//p'); do
	if [ "${1:-}" = --list ]; then
		echo "$name"
		continue
	fi
	wanted=$((!$#))
	for arg; do
		[[ $name != *$arg* ]] || wanted=1
	done
	((wanted)) || continue
	(
		T=$T/$name
		mkdir "$T"
		"test_$name"
	)
	case $? in
	0) echo "ok     $name" && ((passed += 1)) ;;
	77) echo "skip   $name" && ((skipped += 1)) ;;
	*) echo "FAILED $name" && ((failed += 1)) ;;
	esac
	rm -rf "${T:?}/$name"
done
[ "${1:-}" = --list ] && exit 0
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed + skipped > 0))
