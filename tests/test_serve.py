"""The server from outside, over a real socket.  Run by test_serve.sh; needs nothing but Python's standard library."""
import concurrent.futures
import http.client
import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUILD = os.environ.get("MOXIE_BUILD", "build")
COMMAND = shlex.split(os.environ.get("MOXIE_TEST_SERVER", "")) or [BUILD + "/moxie", "serve", "models/wordmath"]
NAMES = ["Maya", "Tom", "Ada", "Noah", "Lena", "Omar", "Ivy", "Kai"]
tests = []


def test(fn):
	tests.append(fn)
	return fn


class Server:
	"""One server process on a port of its own."""

	def __init__(self, *args, env=None):
		with socket.socket() as s:
			s.bind(("127.0.0.1", 0))
			self.port = s.getsockname()[1]
		self.log = tempfile.TemporaryFile()
		clean = {k: v for k, v in os.environ.items() if not k.startswith("MOXIE_") or k == "MOXIE_BUILD"}
		self.proc = subprocess.Popen(COMMAND + ["--port", str(self.port), *args], env={**clean, **(env or {})},
		                             stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
		for _ in range(600):
			try:
				if self.get("/health")[0] == 200:
					return
			except OSError:
				time.sleep(0.05)
			assert self.proc.poll() is None, self.said()
		raise AssertionError("the server does not answer: " + self.said())

	def said(self):
		self.log.seek(0)
		return self.log.read().decode(errors="replace")[-2000:]

	def ask(self, method, path, body=None, headers=None, timeout=120):
		c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
		try:
			if body is not None and not isinstance(body, (bytes, str)):
				body = json.dumps(body)
			c.request(method, path, body=body, headers=headers or {})
			r = c.getresponse()
			return r.status, r.read(), r.headers
		finally:
			c.close()

	def get(self, path, **kw):
		return self.ask("GET", path, **kw)

	def post(self, path, body, **kw):
		return self.ask("POST", path, body, **kw)

	def ok(self, path, body):
		status, text, _ = self.post(path, body)
		assert status == 200, (path, status, text[:300])
		return json.loads(text)

	def bad(self, path, body, status, word="", headers=None):
		got, text, _ = self.post(path, body, headers=headers)
		assert got == status, (path, str(body)[:200], got, text[:300])
		e = json.loads(text)["error"]
		assert e["code"] == status and e["type"] and "param" in e, e
		assert word in e["message"] or word == e["param"], (word, e)
		return e

	def stream(self, path, body):
		status, text, headers = self.post(path, {**body, "stream": True})
		assert status == 200 and headers["Content-Type"].startswith("text/event-stream"), (status, text[:300])
		events = text.decode().split("\n\n")
		assert events.pop() == "" and all(e.startswith("data: ") and "\n" not in e for e in events), events[:3]
		assert events.pop() == "data: [DONE]"
		return [json.loads(e[6:]) for e in events]

	def metric(self, name):
		for line in self.get("/metrics")[1].decode().splitlines():
			if line.startswith("sglang:" + name + "{"):
				return float(line.rsplit(" ", 1)[1])
		raise AssertionError("no metric " + name)

	def open(self, path, body):
		"""A socket with a request sent, nothing read."""
		s = socket.create_connection(("127.0.0.1", self.port), timeout=60)
		data = json.dumps(body).encode()
		s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data)) + data)
		return s

	def stop(self, sig=signal.SIGTERM, timeout=60):
		if self.proc.poll() is None:
			self.proc.send_signal(sig)
		return self.proc.wait(timeout)


shared = None


def server():
	global shared
	if shared is None or shared.proc.poll() is not None:
		shared = Server()
	return shared


def wait_for(what, seconds=20):
	end = time.time() + seconds
	while not what():
		assert time.time() < end, "waited %d s in vain" % seconds
		time.sleep(0.02)


def question(i):
	return [{"role": "user", "content": "%s has %d apples. Then %s buys %d more. How many apples are there?" %
	         (NAMES[i % 8], 10 + 3 * i, NAMES[i % 8], 2 + i)}]


def chat(i=0, **more):
	return {"model": server_model(), "messages": question(i), "temperature": 0, "max_tokens": 200, **more}


model_name = None


def server_model():
	global model_name
	if model_name is None:
		model_name = json.loads(server().get("/v1/models")[1])["data"][0]["id"]
	return model_name


LONG = {"text": "Hello", "sampling_params": {"max_new_tokens": 6000, "temperature": 0, "ignore_eos": True}}


# ---- routes ----------------------------------------------------------------------------------------------------------

@test
def info_routes():
	s = server()
	assert json.loads(s.get("/health")[1]) == {"status": "ok"}
	assert s.get("/health_generate")[0] == 200
	m = json.loads(s.get("/v1/models")[1])["data"][0]
	assert m["id"] and m["max_model_len"] >= 1024 and m["object"] == "model"
	info = json.loads(s.get("/get_model_info")[1])
	assert info["is_generation"] is True and info["model_path"]
	for path in "/server_info", "/get_server_info":
		assert json.loads(s.get(path)[1])["internal_states"][0]["num_running_reqs"] == 0
	assert s.ask("HEAD", "/health")[0] == 200
	status, text, headers = s.get("/metrics")
	assert status == 200 and headers["Content-Type"].startswith("text/plain")
	for name in ("num_running_reqs", "num_queue_reqs", "gen_throughput", "prompt_tokens_total", "generation_tokens_total",
	             "cached_tokens_total", "kv_used_tokens", "kv_available_tokens", "utilization", "context_len", "engine_load_weights_time",
	             "queue_time_seconds_count", "num_grammar_total", "num_requests_total", "num_aborted_requests_total", "time_to_first_token_seconds_count",
	             "inter_token_latency_seconds_count", "e2e_request_latency_seconds_count"):
		s.metric(name)
	assert b'le="0.002"' in text and b'le="2400"' in text and b'le="+Inf"' in text


@test
def board_knows_only_what_is_exported():
	s = server()
	s.ok("/v1/chat/completions", chat())
	exported = {line.split("{")[0] for line in s.get("/metrics")[1].decode().splitlines() if not line.startswith("#")}
	board = json.load(open("docs/grafana.json"))
	exprs = [t["expr"] for p in board["panels"] for t in p["targets"]] + [v["query"] for v in board["templating"]["list"]]
	named = {m for e in exprs for m in re.findall(r"sglang:\w+", e)}
	assert len(named) > 10 and named <= exported, named - exported
	types = [line.split()[2] for line in s.get("/metrics")[1].decode().splitlines() if line.startswith("# TYPE")]
	assert len(types) == len(set(types)), "a metric is exported twice"
	before = s.metric("cached_tokens_total"), s.metric("queue_time_seconds_count")
	cached = s.ok("/v1/chat/completions", chat())["usage"]["prompt_tokens_details"]["cached_tokens"]
	assert s.metric("cached_tokens_total") == before[0] + cached and s.metric("queue_time_seconds_count") == before[1] + 1


@test
def tokens_there_and_back():
	s = server()
	for text in "Maya has 24 apples.", "h\u00e9llo \u20ac \U0001f600 end", "a\0b", "":
		t = s.ok("/tokenize", {"prompt": text})
		assert t["count"] == len(t["tokens"]), t
		assert s.ok("/detokenize", {"tokens": t["tokens"]})["text"] == text
	assert s.ok("/tokenize", {"messages": question(0)})["count"] > 20
	s.bad("/tokenize", {"prompt": 3}, 400, "prompt")
	s.bad("/detokenize", {"tokens": [1, 10**9]}, 400, "tokens")
	s.bad("/detokenize", {"tokens": "x"}, 400, "tokens")
	s.bad("/detokenize", {"tokens": [-1]}, 400, "tokens")


@test
def chat_whole_and_streamed():
	s = server()
	for i in range(3):
		whole = s.ok("/v1/chat/completions", chat(i))
		c = whole["choices"][0]
		assert c["finish_reason"] == "stop" and whole["object"] == "chat.completion", whole
		message, usage = c["message"], whole["usage"]
		assert message["content"] and message["reasoning_content"], message
		assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
		assert usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
		chunks = s.stream("/v1/chat/completions", chat(i, stream_options={"include_usage": True}))
		assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == usage["completion_tokens"]
		deltas = [c["choices"][0]["delta"] for c in chunks[:-1]]
		assert deltas[0]["role"] == "assistant"
		assert "".join(d.get("content") or "" for d in deltas) == message["content"]
		assert "".join(d.get("reasoning_content") or "" for d in deltas) == message["reasoning_content"]
		assert [c["choices"][0]["finish_reason"] for c in chunks[-3:-1]] == [None, "stop"]
		plain = s.stream("/v1/chat/completions", chat(i))
		assert all(c["choices"] and "usage" not in c for c in plain)


@test
def chat_forms():
	s = server()
	want = s.ok("/v1/chat/completions", chat())["choices"][0]["message"]
	text = question(0)[0]["content"]
	parts = [{"role": "user", "content": [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]}]
	assert s.ok("/v1/chat/completions", chat(messages=parts))["choices"][0]["message"] == want
	body = chat(unknown_field={"a": 1}, user="me", top_k=-1, max_tokens=None, max_completion_tokens=200, logit_bias={}, n=1,
	            logprobs=False, response_format={"type": "text"}, stop=None)
	del body["model"]
	assert s.ok("/v1/chat/completions", body)["choices"][0]["message"] == want
	many = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Count well."}] + question(1) + [
		{"role": "assistant", "content": "15", "reasoning_content": "13 + 3"}, {"role": "user", "content": "And one more?"}]
	for effort in "low", "medium", "high":
		assert s.ok("/v1/chat/completions", chat(messages=many, reasoning_effort=effort, max_tokens=8))["choices"][0]["finish_reason"]
	s.bad("/v1/chat/completions", chat(reasoning_effort="huge"), 400, "reasoning_effort")
	short = s.ok("/v1/chat/completions", chat(max_tokens=3))
	assert short["choices"][0]["finish_reason"] == "length" and short["usage"]["completion_tokens"] == 3


@test
def completions_forms():
	s = server()
	one = s.ok("/v1/completions", {"prompt": "Maya has", "max_tokens": 12, "temperature": 0, "ignore_eos": True, "best_of": 1})
	text = one["choices"][0]["text"]
	assert one["object"] == "text_completion" and one["usage"]["completion_tokens"] == 12 and text
	ids = s.ok("/tokenize", {"prompt": "Maya has"})["tokens"]
	for prompt in ids, ["Maya has"], [ids]:
		got = s.ok("/v1/completions", {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True})
		assert got["choices"][0]["text"] == text, (prompt, got)
	two = s.ok("/v1/completions", {"prompt": ["Maya has", "Tom"], "max_tokens": 12, "temperature": 0, "ignore_eos": True})
	assert [c["index"] for c in two["choices"]] == [0, 1] and two["choices"][0]["text"] == text
	chunks = s.stream("/v1/completions", {"prompt": "Maya has", "max_tokens": 12, "temperature": 0, "ignore_eos": True})
	assert "".join(c["choices"][0]["text"] for c in chunks) == text and chunks[-1]["choices"][0]["finish_reason"] == "length"
	a, b = (s.ok("/v1/completions", {"prompt": "Maya", "max_tokens": 20, "temperature": 1, "seed": 7})["choices"][0]["text"] for _ in "ab")
	assert a == b


@test
def generate_forms():
	s = server()
	body = {"text": "Maya has", "sampling_params": {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}}
	whole = s.ok("/generate", body)
	meta = whole["meta_info"]
	assert meta["finish_reason"] == {"type": "length", "length": 12} and meta["completion_tokens"] == 12 == len(whole["output_ids"])
	assert meta["id"] and meta["prompt_tokens"] > 0 and meta["e2e_latency"] > 0 and meta["cached_tokens"] >= 0
	chunks = s.stream("/generate", body)
	assert chunks[-1]["text"] == whole["text"] and chunks[-1]["output_ids"] == whole["output_ids"]
	assert all(b["text"].startswith(a["text"]) for a, b in zip(chunks, chunks[1:])), "chunks are cumulative"
	assert [c["meta_info"]["completion_tokens"] for c in chunks] == [*range(1, 13), 12]
	ids = s.ok("/tokenize", {"prompt": "Maya has"})["tokens"]
	assert s.ok("/generate", {**body, "text": None, "input_ids": ids})["text"] == whole["text"]
	batch = s.ok("/generate", {**body, "text": ["Maya has"] * 12})
	assert len(batch) == 12 and all(b["text"] == whole["text"] for b in batch)


@test
def utf8_across_tokens():
	s = server()
	text = "\U0001f600\u20ac\u00e9"
	ids = s.ok("/tokenize", {"prompt": text * 4})["tokens"]
	for seed in range(6): # a hot model says any bytes: what comes must be UTF-8 and equal in both forms
		body = {"prompt": ids, "max_tokens": 60, "temperature": 3, "seed": seed, "ignore_eos": True}
		whole = s.ok("/v1/completions", body)["choices"][0]["text"]
		assert "".join(c["choices"][0]["text"] for c in s.stream("/v1/completions", body)) == whole


@test
def stop_strings():
	s = server()
	body = {"prompt": "Maya has", "max_tokens": 40, "temperature": 0, "ignore_eos": True}
	text = s.ok("/v1/completions", body)["choices"][0]["text"]
	stop = text[len(text) // 2:][:3]
	for form in stop, [stop, "\u20ac never"]:
		got = s.ok("/v1/completions", {**body, "stop": form})["choices"][0]
		assert got["text"] == text[:text.index(stop)] and got["finish_reason"] == "stop", (got, text, stop)
	assert "".join(c["choices"][0]["text"] for c in s.stream("/v1/completions", {**body, "stop": stop})) == text[:text.index(stop)]
	answer = s.ok("/v1/chat/completions", chat())["choices"][0]["message"]["content"]
	got = s.ok("/v1/chat/completions", chat(stop=answer[4:8]))["choices"][0]
	assert got["message"]["content"] == answer[:answer.index(answer[4:8])]


def softmax_ok(entries):
	return all(e["logprob"] <= 0 and e["top_logprobs"] == sorted(e["top_logprobs"], key=lambda t: -t["logprob"]) for e in entries)


@test
def logprobs_chat():
	s = server()
	body = chat(logprobs=True, top_logprobs=4)
	c = s.ok("/v1/chat/completions", body)["choices"][0]
	lp = c["logprobs"]["content"]
	assert b"".join(bytes(e["bytes"]) for e in lp).decode() == c["message"]["content"] and softmax_ok(lp), lp[:2]
	for e in lp: # greedy: each token is the likeliest
		assert len(e["top_logprobs"]) == 4 and e["token"] == e["top_logprobs"][0]["token"] and e["logprob"] == e["top_logprobs"][0]["logprob"]
		assert sum(2.718281828 ** t["logprob"] for t in e["top_logprobs"]) < 1.0001
	chunks = [x["choices"][0] for x in s.stream("/v1/chat/completions", body)]
	got = [e for x in chunks if x["logprobs"] for e in x["logprobs"]["content"]]
	assert [e["token"] for e in got] == [e["token"] for e in lp] and all(abs(a["logprob"] - b["logprob"]) < 1e-3 for a, b in zip(got, lp))
	for x in chunks: # a chunk's tokens are those of its text
		text = b"".join(bytes(e["bytes"]) for e in x["logprobs"]["content"]).decode() if x["logprobs"] else ""
		assert text == (x["delta"].get("content") or ""), x
	plain = s.ok("/v1/chat/completions", chat())["choices"][0]
	assert plain["logprobs"] is None and plain["message"] == c["message"]
	none = s.ok("/v1/chat/completions", chat(logprobs=True))["choices"][0]["logprobs"]["content"]
	assert len(none) == len(lp) and all(e["top_logprobs"] == [] for e in none)
	s.bad("/v1/chat/completions", chat(logprobs=True, top_logprobs=21), 400, "top_logprobs")
	s.bad("/v1/chat/completions", chat(logprobs=3), 400, "logprobs")


@test
def logprobs_elsewhere():
	s = server()
	body = {"prompt": "Maya has", "max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 3}
	c = s.ok("/v1/completions", body)["choices"][0]
	lp = c["logprobs"]
	assert len(lp["tokens"]) == len(lp["token_logprobs"]) == len(lp["top_logprobs"]) == len(lp["text_offset"])
	assert "".join(lp["tokens"]) == c["text"] and lp["text_offset"][0] == 0
	assert all(c["text"][o:].startswith(t) for o, t in zip(lp["text_offset"], lp["tokens"]))
	assert all(len(t) == 3 and t[tok] == p for t, tok, p in zip(lp["top_logprobs"], lp["tokens"], lp["token_logprobs"]))
	parts = [x["choices"][0]["logprobs"] for x in s.stream("/v1/completions", body)]
	for key in lp:
		assert str([x for p in parts if p for x in p[key]])[:40] == str(lp[key])[:40], key
	assert s.ok("/v1/completions", {**body, "logprobs": 0})["choices"][0]["logprobs"]["top_logprobs"] == [{}] * len(lp["tokens"])
	s.bad("/v1/completions", {**body, "logprobs": 21}, 400, "logprobs")
	body = {"text": "Maya has", "return_logprob": True, "top_logprobs_num": 2, "return_text_in_logprobs": True,
	        "sampling_params": {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}}
	g = s.ok("/generate", body)
	meta = g["meta_info"]
	assert [t[1] for t in meta["output_token_logprobs"]] == g["output_ids"] and meta["input_token_logprobs"] == []
	assert all(len(t) == 2 and t[0] == own for t, own in zip(meta["output_top_logprobs"], meta["output_token_logprobs"]))
	assert all(abs(t[0] - p) < 0.01 for t, p in zip(meta["output_token_logprobs"], lp["token_logprobs"]))
	last = s.stream("/generate", body)[-1]["meta_info"]
	assert len(last["output_token_logprobs"]) == 12
	assert s.ok("/generate", {**body, "return_text_in_logprobs": False})["meta_info"]["output_token_logprobs"][0][2] is None
	hot = s.ok("/v1/completions", {"prompt": "a", "max_tokens": 60, "temperature": 3, "seed": 1, "ignore_eos": True, "logprobs": 1})["choices"][0]
	assert len(hot["logprobs"]["tokens"]) <= 60 and all(p <= 0 for p in hot["logprobs"]["token_logprobs"])


@test
def many_answers():
	check_many_answers(server())
	want = server().ok("/v1/chat/completions", chat())["choices"][0]["message"]
	assert [m["message"] for m in server().ok("/v1/chat/completions", chat(n=2))["choices"]] == [want] * 2


def check_many_answers(s):
	body = {"prompt": "Maya has", "max_tokens": 12, "temperature": 1, "seed": 5, "ignore_eos": True}
	alone = [s.ok("/v1/completions", {**body, "seed": 5 + i})["choices"][0]["text"] for i in range(3)]
	got = s.ok("/v1/completions", {**body, "n": 3, "best_of": 3})
	assert [c["text"] for c in got["choices"]] == alone and [c["index"] for c in got["choices"]] == [0, 1, 2]
	assert len(set(alone)) > 1 and got["usage"]["completion_tokens"] == 36
	assert got["usage"]["prompt_tokens"] == s.ok("/v1/completions", body)["usage"]["prompt_tokens"]
	two = s.ok("/v1/completions", {**body, "prompt": ["Maya has", "Tom"], "n": 2})["choices"]
	assert [c["index"] for c in two] == [0, 1, 2, 3] and [c["text"] for c in two[:2]] == alone[:2]
	texts = ["", "", ""]
	for c in s.stream("/v1/completions", {**body, "n": 3}):
		texts[c["choices"][0]["index"]] += c["choices"][0]["text"]
	assert texts == alone
	g = s.ok("/generate", {"text": "Maya has", "sampling_params": {"n": 2, "max_new_tokens": 4, "temperature": 0}})
	assert len(g) == 2 and g[0]["text"] == g[1]["text"]
	s.bad("/v1/completions", {**body, "n": 0}, 400, "n")
	s.bad("/v1/completions", {**body, "n": 257}, 400, "n")
	s.bad("/v1/completions", {**body, "prompt": ["a"] * 100, "n": 3}, 400, "n")


@test
def bias_and_ends():
	s = server()
	body = {"prompt": "Maya has", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
	plain = s.ok("/generate", {"text": "Maya has", "sampling_params": {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}})["output_ids"]
	gen = lambda **p: s.ok("/generate", {"text": "Maya has", "sampling_params": {"max_new_tokens": 12, "temperature": 0, **p}})
	other = s.ok("/tokenize", {"prompt": " apples"})["tokens"][-1]
	assert gen(ignore_eos=True, logit_bias={str(other): 100})["output_ids"] == [other] * 12
	assert plain[0] not in gen(ignore_eos=True, logit_bias={str(plain[0]): -100})["output_ids"]
	for bad in {"x": 1}, {"-1": 1}, {"99999999": 1}, {"1": 101}, {"1": "a"}, [1], {"1": None}, {"01": 1}:
		s.bad("/v1/completions", {**body, "logit_bias": bad}, 400, "logit_bias")
	cut = next(i for i in range(1, 12) if plain[i] not in plain[:i])
	got = gen(ignore_eos=True, stop_token_ids=[plain[cut]])
	assert got["output_ids"] == plain[:cut] and got["meta_info"]["finish_reason"]["type"] == "stop", got
	held = gen(ignore_eos=True, stop_token_ids=[plain[cut]], min_new_tokens=cut + 3)
	assert held["output_ids"][:cut] == plain[:cut] and plain[cut] not in held["output_ids"][:cut + 3] and len(held["output_ids"]) >= cut + 3
	for bad in 5, ["a"], [-1], [10**9], [1] * 65:
		s.bad("/v1/completions", {**body, "stop_token_ids": bad}, 400, "stop_token_ids")
	natural = s.ok("/v1/chat/completions", chat())["usage"]["completion_tokens"]
	longer = s.ok("/v1/chat/completions", chat(min_tokens=natural + 10))
	assert longer["usage"]["completion_tokens"] >= natural + 10
	s.bad("/v1/chat/completions", chat(min_tokens=-1), 400, "min_tokens")
	s.bad("/v1/chat/completions", chat(min_tokens=300), 400, "min_tokens")
	echo = s.ok("/v1/completions", {**body, "echo": True})["choices"][0]["text"]
	assert echo == "Maya has" + s.ok("/v1/completions", body)["choices"][0]["text"]
	assert "".join(c["choices"][0]["text"] for c in s.stream("/v1/completions", {**body, "echo": True})) == echo
	ids = s.ok("/tokenize", {"messages": question(0)})["tokens"]
	shown = s.ok("/v1/completions", {"prompt": ids, "max_tokens": 8, "temperature": 0, "skip_special_tokens": False})["choices"][0]["text"]
	hidden = s.ok("/v1/completions", {"prompt": ids, "max_tokens": 8, "temperature": 0})["choices"][0]["text"]
	assert "<|channel|>" in shown and "<|" not in hidden, (shown, hidden)
	whole = s.ok("/v1/chat/completions", chat())
	usage, timings = whole["usage"], whole["timings"]
	assert timings["predicted_n"] == usage["completion_tokens"] and timings["predicted_per_second"] > 0 and timings["prompt_ms"] > 0
	assert timings["cache_n"] + timings["prompt_n"] == usage["prompt_tokens"]
	assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {
	"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]


@test
def tools_in_the_prompt():
	s = server()
	plain = s.ok("/tokenize", {"messages": question(0)})["count"]
	assert s.ok("/tokenize", {"messages": question(0), "tools": TOOLS})["count"] > plain
	assert s.ok("/tokenize", {"messages": question(0), "tools": TOOLS, "tool_choice": "none"})["count"] == plain
	call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"}}
	talk = question(0) + [{"role": "assistant", "content": None, "tool_calls": [call]},
	                      {"role": "tool", "tool_call_id": "call_1", "content": "{\"t\": 3}"}]
	ids = s.ok("/tokenize", {"messages": talk, "tools": TOOLS})["tokens"]
	text = s.ok("/detokenize", {"tokens": ids})["text"]
	assert "to=functions.get_weather" in text and "functions.get_weather to=assistant" in text and "Oslo" in text, text
	s.ok("/v1/chat/completions", chat(messages=talk, tools=TOOLS, tool_choice="auto", max_tokens=5))
	s.bad("/v1/chat/completions", chat(messages=question(0) + [{"role": "tool", "tool_call_id": "nope", "content": ""}]), 400, "messages")
	for choice in "must", 3, {"type": "function", "function": {"name": "other"}}, {"type": "allowed_tools"}:
		s.bad("/v1/chat/completions", chat(tools=TOOLS, tool_choice=choice), 400, "tool_choice")
	s.bad("/v1/chat/completions", chat(tool_choice="required"), 400, "tool_choice")
	s.bad("/v1/chat/completions", chat(tools=TOOLS, parallel_tool_calls=1), 400)
	s.bad("/v1/chat/completions", chat(tools=[{"type": "function"}]), 400, "tools")
	s.bad("/v1/chat/completions", chat(tools=[{"type": "function", "function": {"name": "a b<|end|>"}}]), 400)


# ---- answers of a form -------------------------------------------------------------------------------------------------

ANSWER = {"type": "object", "additionalProperties": False, "required": ["apples", "who", "sure", "parts"], "properties": {
	"apples": {"type": "integer", "minimum": 0, "maximum": 999}, "who": {"enum": NAMES}, "sure": {"type": "boolean"},
	"note": {"type": "string", "maxLength": 12}, "ratio": {"type": "number", "minimum": 0, "maximum": 1},
	"parts": {"type": "array", "items": {"anyOf": [{"type": "integer", "maximum": 99}, {"type": "null"}]}, "minItems": 1, "maxItems": 3}}}


def follows(v):
	assert list(v) == [k for k in ANSWER["properties"] if k in v] and all(k in v for k in ANSWER["required"]), v
	assert type(v["apples"]) is int and 0 <= v["apples"] <= 999 and v["who"] in NAMES and type(v["sure"]) is bool, v
	assert len(v.get("note", "")) <= 12 and 0 <= v.get("ratio", 0) <= 1 and 1 <= len(v["parts"]) <= 3, v
	assert all(x is None or (type(x) is int and x <= 99) for x in v["parts"]), v


def schema_format(schema, **more):
	return {"type": "json_schema", "json_schema": {"name": "apples", "schema": schema, **more}}


@test
def json_by_schema():
	s = server()
	for i in range(12): # cold and hot: whatever is sampled, the form holds
		body = chat(i, response_format=schema_format(ANSWER, strict=True), temperature=[0, 1, 5][i % 3], seed=i, max_tokens=600, min_tokens=[0, 300][i % 2])
		c = s.ok("/v1/chat/completions", body)["choices"][0]
		if c["finish_reason"] == "stop": # a hot model may think until its tokens end
			follows(json.loads(c["message"]["content"]))
		else:
			assert i % 3 == 2 and c["finish_reason"] == "length", c
	c = s.ok("/v1/chat/completions", chat(response_format=schema_format(ANSWER)))["choices"][0]
	assert c["message"]["reasoning_content"] and c["finish_reason"] == "stop", c
	chunks = s.stream("/v1/chat/completions", chat(response_format=schema_format(ANSWER)))
	assert "".join(x["choices"][0]["delta"].get("content") or "" for x in chunks) == c["message"]["content"]
	small = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 2, "maxItems": 2}
	for i in range(6):
		for body in {"json_schema": small}, {"guided_json": json.dumps(small)}, {"structured_outputs": {"json": small}}, {"response_format": schema_format(small)}:
			t = s.ok("/v1/completions", {"prompt": "Maya has", "temperature": 2, "seed": i, "ignore_eos": True, **body})["choices"][0]
			assert len(json.loads(t["text"])) == 2 and t["finish_reason"] == "stop", t
		g = s.ok("/generate", {"text": "Maya has", "sampling_params": {"temperature": 2, "sampling_seed": i, "json_schema": json.dumps(small)}})
		assert len(json.loads(g["text"])) == 2 and g["meta_info"]["finish_reason"]["type"] == "stop"
	many = s.ok("/v1/completions", {"prompt": ["Maya", "Tom"], "n": 4, "temperature": 1, "seed": 1, "json_schema": small})["choices"]
	assert len(many) == 8 and all(len(json.loads(c["text"])) == 2 for c in many)
	told = s.ok("/detokenize", {"tokens": s.ok("/tokenize", {"messages": question(0), "response_format": schema_format(small)})["tokens"]})["text"]
	assert "# Response Formats\n\n## apples\n\n" + json.dumps(small, separators=(",", ":")) in told, told
	any_object = s.ok("/v1/chat/completions", chat(response_format={"type": "json_object"}, max_tokens=80))["choices"][0]
	assert any_object["message"]["content"].startswith("{")


@test
def schemas_refused():
	s = server()
	for schema, word in (({"type": "string", "pattern": "(?=a)"}, "pattern"), ({"not": {}}, "not"), ({"type": "x"}, "type"),
	                     ({"type": "object", "properties": {"a": {"multipleOf": -2}}}, "multipleOf"), ({"$ref": "#/no"}, "$ref")):
		assert "/a" in s.bad("/v1/chat/completions", chat(response_format=schema_format(schema)), 400, "response_format")["message"] or word != "multipleOf"
		s.bad("/v1/chat/completions", chat(response_format=schema_format(schema)), 400, word if word != "type" else "")
		s.bad("/v1/completions", {"prompt": "a", "json_schema": schema}, 400, "json_schema")
		s.bad("/generate", {"text": "a", "sampling_params": {"json_schema": json.dumps(schema)}}, 400, "json_schema")
	for bad in 3, {}, {"type": "xml"}, {"type": "json_schema"}, schema_format(3), {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}:
		s.bad("/v1/chat/completions", chat(response_format=bad), 400, "response_format")
	s.bad("/v1/chat/completions", chat(response_format={"type": "json_object"}, json_schema={}), 400, "json_schema")
	s.bad("/v1/completions", {"prompt": "a", "guided_json": "{"}, 400, "guided_json")
	s.bad("/v1/completions", {"prompt": "a", "structured_outputs": {"grammar": "a"}}, 400, "structured_outputs")
	s.bad("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "a", "choice": ["b"]}}, 400, "structured_outputs")
	for bad in 3, "(", "(a)\\1", "a\0b", "(?:.{100}){100}", "x{9999}":
		s.bad("/v1/completions", {"prompt": "a", "regex": bad}, 400, "regex")
		s.bad("/v1/chat/completions", chat(guided_regex=bad), 400, "guided_regex")
	for bad in 3, [], [3], "a":
		s.bad("/v1/completions", {"prompt": "a", "guided_choice": bad}, 400, "guided_choice")
	deep = {"type": "integer"}
	for _ in range(60):
		deep = {"type": "array", "items": deep, "minItems": 1}
	s.bad("/v1/completions", {"prompt": "a", "json_schema": deep}, 400, "json_schema")


@test
def prompts_are_scored():
	s = server()
	ids = s.ok("/tokenize", {"prompt": "Maya has 24 apples. She gives 9 to her brother and then buys 3 bags of them." * 3})["tokens"]
	made = s.ok("/generate", {"input_ids": ids, "return_logprob": True, "top_logprobs_num": 3, "sampling_params": {"max_new_tokens": 12, "temperature": 0, "ignore_eos": True}})
	out, top = (made["meta_info"]["output_" + k + "_logprobs"] for k in ("token", "top"))
	longer = ids + [t[1] for t in out]
	ask = {"input_ids": longer, "return_logprob": True, "top_logprobs_num": 3, "logprob_start_len": len(ids) - 1, "sampling_params": {"max_new_tokens": 0}}
	for again in range(2): # the second finds the prompt in the cache, up to where it counts
		m = s.ok("/generate", ask)["meta_info"]
		assert m["input_token_logprobs"] == [[None, ids[-1], None]] + out and m["input_top_logprobs"] == [None] + top, (m, out)
		assert m["completion_tokens"] == 0 and m["output_token_logprobs"] == [] and m["finish_reason"]["type"] == "length", m
	assert m["cached_tokens"] > 0 and m["cached_tokens"] < len(ids)
	whole = s.ok("/generate", {**ask, "logprob_start_len": 0, "sampling_params": {"max_new_tokens": 3, "temperature": 0}})
	assert whole["meta_info"]["cached_tokens"] == 0 and whole["meta_info"]["completion_tokens"] == 3 and len(whole["output_ids"]) == 3
	rows = whole["meta_info"]["input_token_logprobs"]
	assert [r[1] for r in rows] == longer and rows[0][0] is None and rows[len(ids):] == out and all(r[0] <= 0 for r in rows[1:])
	many = [longer[:n] for n in (1, 2, 40, 120, len(longer))]
	with concurrent.futures.ThreadPoolExecutor(12) as pool: # others run beside, chunks and batches differ, and the numbers do not
		beside = [pool.submit(s.ok, "/v1/completions", {"prompt": [i + 5] * 90, "max_tokens": 40, "ignore_eos": True}) for i in range(6)]
		got = list(pool.map(lambda v: s.ok("/generate", {**ask, "input_ids": v, "logprob_start_len": 0}), many * 2))
		[b.result() for b in beside]
	with open("/proc/cpuinfo") as f:
		near = 0.5 if "avx512_bf16" in f.read() else 0.01 # there activations are rounded to bf16, and two orders of a sum round apart
	for v, g, twin in zip(many, got, got[len(many):]): # whole groups of a longer prompt go through other kernels: there the last bits differ
		p = g["meta_info"]["input_token_logprobs"]
		assert p == twin["meta_info"]["input_token_logprobs"] and (len(v) < len(longer) or p == rows), len(v)
		assert len(p) == len(v) and all(a[1] == b[1] for a, b in zip(p, rows))
		far = sum(abs(a[0] - b[0]) > near for a, b in zip(p[1:], rows[1:])) # near ties of the router
		assert far <= len(p) // 10, (far, p, rows)
	stream = s.stream("/generate", {**ask, "logprob_start_len": 0, "stream": True, "sampling_params": {"max_new_tokens": 2}})
	assert stream[-1]["meta_info"]["input_token_logprobs"] == rows

	text = "Maya has 24 apples. \u20ac"
	want = s.ok("/generate", {"text": text, "return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": 0, "return_text_in_logprobs": True, "sampling_params": {"max_new_tokens": 0}})
	rows = want["meta_info"]["input_token_logprobs"]
	for most, stream in (0, False), (4, False), (4, True):
		body = {"prompt": text, "echo": True, "logprobs": 2, "max_tokens": most, "temperature": 0, "ignore_eos": True}
		if stream:
			chunks = [c["choices"][0] for c in s.stream("/v1/completions", body)]
			c = {"text": "".join(x["text"] for x in chunks), "logprobs": {k: sum((x["logprobs"][k] for x in chunks if x["logprobs"]), [])
			     for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}}
		else:
			whole = s.ok("/v1/completions", body)
			c = whole["choices"][0]
			assert whole["usage"]["completion_tokens"] == most and c["finish_reason"] == "length"
		p = c["logprobs"]
		assert c["text"].startswith(text) and (most or c["text"] == text)
		assert len(p["tokens"]) == len(p["token_logprobs"]) == len(p["top_logprobs"]) == len(p["text_offset"]) == len(rows) + most, (p, most)
		assert p["token_logprobs"][:len(rows)] == [r[0] for r in rows] and p["top_logprobs"][0] is None and p["text_offset"][0] == 0
		for t, at in zip(p["tokens"], p["text_offset"]):
			assert t.startswith("bytes:") or c["text"][at:at + len(t)] == t, (t, at)
		for i, r in enumerate(rows[1:], 1):
			assert max(p["top_logprobs"][i].values()) >= r[0] - 1e-6
	s.bad("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens")
	s.bad("/v1/completions", {"prompt": "a", "max_tokens": 0, "echo": True}, 400, "max_tokens")
	s.bad("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 0}}, 400, "max_new_tokens")
	two = s.ok("/v1/completions", {"prompt": [text, "Tom"], "n": 2, "echo": True, "logprobs": 0, "max_tokens": 1, "temperature": 1})["choices"]
	assert len(two) == 4 and two[0]["logprobs"]["token_logprobs"][:len(rows)] == two[1]["logprobs"]["token_logprobs"][:len(rows)] == [r[0] for r in rows]


@test
def answers_match_patterns():
	s = server()
	pattern = r"\d{3}-[a-f]{2,4}(\.x)?"
	for i in range(4):
		for path, body in (("/v1/completions", {"regex": pattern}), ("/v1/completions", {"guided_regex": pattern}), ("/v1/completions", {"structured_outputs": {"regex": pattern}}),
		                   ("/generate", {"sampling_params": {"regex": pattern, "temperature": 2, "sampling_seed": i}})):
			t = s.ok(path, {**({"text": "Maya"} if path == "/generate" else {"prompt": "Maya", "temperature": 2, "seed": i, "max_tokens": 40}), **body})
			text = t["text"] if path == "/generate" else t["choices"][0]["text"]
			assert re.fullmatch(pattern, text), text
		c = s.ok("/v1/chat/completions", chat(i, guided_regex=pattern, temperature=[0, 1][i % 2], seed=i))["choices"][0]
		assert re.fullmatch(pattern, c["message"]["content"]) and c["message"]["reasoning_content"] and c["finish_reason"] == "stop", c
		c = s.ok("/v1/chat/completions", chat(i, structured_outputs={"choice": ["yes", "no (really?)", "a/b"]}))["choices"][0]
		assert c["message"]["content"] in ("yes", "no (really?)", "a/b"), c
		t = s.ok("/v1/completions", {"prompt": "Maya", "temperature": 1, "seed": i, "guided_choice": ["a\nb", "a\"b", "+"]})["choices"][0]
		assert t["text"] in ("a\nb", "a\"b", "+") and t["finish_reason"] == "stop", t
	schema = {"type": "object", "required": ["code", "when", "n"], "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}-\\d+$", "maxLength": 8},
	          "when": {"type": "string", "format": "date-time"}, "n": {"type": "integer", "multipleOf": 25, "minimum": 10, "maximum": 90}}}
	for i in range(4):
		t = s.ok("/v1/completions", {"prompt": "Maya", "temperature": 1.5, "seed": i, "max_tokens": 200, "json_schema": schema})["choices"][0]
		v = json.loads(t["text"])
		assert re.fullmatch(r"[A-Z]{2}-\d{1,5}", v["code"]) and v["n"] in (25, 50, 75) and re.match(r"\d{4}-\d\d-\d\dT\d\d:", v["when"]), v


CALLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "required": ["city", "days"], "properties": {
	"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}},
	{"type": "function", "function": {"name": "add", "strict": True, "parameters": {"type": "object", "required": ["a"], "additionalProperties": False,
	"properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}}}}, {"type": "function", "function": {"name": "ping"}}]


def check_call(call):
	args = json.loads(call["function"]["arguments"])
	name = call["function"]["name"]
	assert call["id"] and call["type"] == "function"
	if name == "weather":
		assert args["city"] in ("Oslo", "Rome") and 1 <= args["days"] <= 9 and len(args) == 2
	elif name == "add":
		assert list(args) == ["a"] and 0 <= args["a"] <= 99
	else:
		assert name == "ping" and args == {}
	return name


@test
def calls_are_made():
	s = server()
	for i in range(6):
		c = s.ok("/v1/chat/completions", chat(i, tools=CALLS, tool_choice="required", temperature=[0, 1][i % 2], seed=i))["choices"][0]
		assert c["finish_reason"] == "tool_calls" and c["message"]["content"] is None and len(c["message"]["tool_calls"]) == 1, c
		check_call(c["message"]["tool_calls"][0])
	for name in "weather", "add", "ping":
		body = chat(tools=CALLS, tool_choice={"type": "function", "function": {"name": name}}, parallel_tool_calls=False)
		c = s.ok("/v1/chat/completions", body)["choices"][0]
		assert check_call(c["message"]["tool_calls"][0]) == name, c
		deltas = [x["choices"][0]["delta"] for x in s.stream("/v1/chat/completions", body)]
		parts = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
		assert parts[0]["function"]["name"] == name and parts[0]["id"] and all("id" not in p and p["index"] == 0 for p in parts[1:])
		assert "".join(p["function"]["arguments"] for p in parts) == c["message"]["tool_calls"][0]["function"]["arguments"]
		assert len(parts) > 2 or name == "ping"
	free = s.ok("/v1/chat/completions", chat(tools=CALLS, tool_choice="auto"))["choices"][0] # a strict tool: guided, but free to answer
	assert free["finish_reason"] in ("stop", "tool_calls"), free
	both = s.ok("/v1/chat/completions", chat(tools=CALLS, response_format=schema_format(ANSWER)))["choices"][0]
	follows(json.loads(both["message"]["content"])) if both["finish_reason"] == "stop" else check_call(both["message"]["tool_calls"][0])
	odd = [{"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"pattern": "x(?!y)"}}}}}]
	s.ok("/v1/chat/completions", chat(tools=odd, tool_choice="auto", max_tokens=4)) # not strict: as well as it can be done
	s.ok("/v1/chat/completions", chat(tools=odd, tool_choice="required", max_tokens=4))
	odd[0]["function"]["strict"] = True
	assert "pattern" in s.bad("/v1/chat/completions", chat(tools=odd, max_tokens=4), 400, "tools")["message"]
@test
def slow_clients_are_dropped():
	s = Server("--timeout", "1")
	try:
		sender = socket.create_connection(("127.0.0.1", s.port), timeout=10)
		sender.setblocking(False)
		kept = http.client.HTTPConnection("127.0.0.1", s.port, timeout=10)
		gone, start = None, time.time()
		head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1000
		while gone is None and time.time() - start < 10: # never silent for a second, but never done either
			try:
				head = head[sender.send(head[:1]):]
				kept.request("GET", "/health")
				assert kept.getresponse().read()
				time.sleep(0.2)
				if sender.recv(1) == b"":
					gone = time.time() - start
			except BlockingIOError:
				pass
			except OSError:
				gone = time.time() - start
		assert gone and 1.9 < gone < 5, gone
		assert s.get("/health")[0] == 200
	finally:
		s.stop(signal.SIGKILL)


# ---- /v1/responses -----------------------------------------------------------------------------------------------------

def respond(i=0, **more):
	return {"model": server_model(), "input": question(i)[0]["content"], "temperature": 0, "max_output_tokens": 300, **more}


def response_events(s, body):
	status, text, headers = s.post("/v1/responses", {**body, "stream": True})
	assert status == 200 and headers["Content-Type"].startswith("text/event-stream"), (status, text[:300])
	events = []
	for e in text.decode().split("\n\n")[:-1]:
		name, data = e.split("\n")
		events.append(json.loads(data.removeprefix("data: ")))
		assert name == "event: " + events[-1]["type"] and events[-1]["sequence_number"] == len(events) - 1
	return events


@test
def responses():
	s = server()
	chat_answer = s.ok("/v1/chat/completions", chat())
	whole = s.ok("/v1/responses", respond())
	assert whole["object"] == "response" and whole["status"] == "completed" and whole["store"] is False and whole["id"].startswith("resp_")
	thought, said = whole["output"]
	message = chat_answer["choices"][0]["message"]
	assert thought["type"] == "reasoning" and thought["content"][0]["text"] == message["reasoning_content"]
	assert said["type"] == "message" and said["content"][0]["text"] == message["content"]
	usage = whole["usage"]
	assert usage["input_tokens"] == chat_answer["usage"]["prompt_tokens"] and usage["output_tokens"] == chat_answer["usage"]["completion_tokens"]
	assert usage["output_tokens_details"]["reasoning_tokens"] > 0 and usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
	events = response_events(s, respond())
	types = [e["type"] for e in events]
	assert types[:3] == ["response.created", "response.in_progress", "response.output_item.added"] and types[-1] == "response.completed"
	last = events[-1]["response"]
	assert [o["content"] for o in last["output"]] == [o["content"] for o in whole["output"]]
	for kind, item in ("output_text", said), ("reasoning_text", thought):
		assert "".join(e["delta"] for e in events if e["type"] == "response.%s.delta" % kind) == item["content"][0]["text"]
		assert [e["text"] for e in events if e["type"] == "response.%s.done" % kind] == [item["content"][0]["text"]]
	done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
	assert done == last["output"] and [e["output_index"] for e in events if e["type"] == "response.output_item.added"] == [0, 1]
	talk = [{"role": "user", "content": [{"type": "input_text", "text": question(1)[0]["content"]}]}, {"type": "reasoning", "summary": [
		{"type": "summary_text", "text": "13 + 3"}]}, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "16"}]}] + question(2)
	same = [question(1)[0], {"role": "assistant", "content": "16", "reasoning_content": "13 + 3"}] + question(2)
	system = [{"role": "system", "content": "Be brief."}]
	a = s.ok("/v1/responses", respond(input=talk, instructions="Be brief."))
	b = s.ok("/v1/chat/completions", chat(messages=system + same, max_tokens=300))
	assert a["output"][-1]["content"][0]["text"] == b["choices"][0]["message"]["content"] and a["instructions"] == "Be brief."
	short = s.ok("/v1/responses", respond(max_output_tokens=3))
	assert short["status"] == "incomplete" and short["incomplete_details"] == {"reason": "max_output_tokens"}
	assert response_events(s, respond(max_output_tokens=3))[-1]["type"] == "response.incomplete"
	form = {"format": {"type": "json_schema", "name": "apples", "schema": ANSWER, "strict": True}}
	follows(json.loads(s.ok("/v1/responses", respond(text=form))["output"][-1]["content"][0]["text"]))


@test
def responses_call():
	s = server()
	tools = [{"type": "function", **t["function"]} for t in CALLS]
	first = s.ok("/v1/responses", respond(tools=tools, tool_choice={"type": "function", "name": "weather"}))
	call = first["output"][-1]
	assert call["type"] == "function_call" and call["call_id"] and check_call({"id": 1, "type": "function", "function": call}) == "weather"
	events = response_events(s, respond(tools=tools, tool_choice={"type": "function", "name": "weather"}))
	deltas = [e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta"]
	assert "".join(deltas) == call["arguments"] and len(deltas) > 1
	back = [question(0)[0], *first["output"], {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}]
	s.ok("/v1/responses", respond(input=back, tools=tools, max_output_tokens=8))
	for more, word in (({"previous_response_id": "resp_1"}, "previous_response_id"), ({"input": []}, "input"), ({"input": 3}, "input"),
	                   ({"background": True}, "background"), ({"input": [{"type": "image"}]}, "input"), ({"tools": [{"type": "web_search"}]}, "tools"),
	                   ({"input": [{"type": "function_call", "name": "a"}]}, "input"), ({"text": 3}, "text"), ({"instructions": 3}, "instructions"),
	                   ({"max_output_tokens": 0}, "max_completion_tokens"), ({"truncation": "auto"}, "truncation"), ({"model": "other"}, "model")):
		s.bad("/v1/responses", respond(**more), 404 if "model" in more else 400, word)


@test
def cache_is_flushed():
	s = server()
	s.ok("/v1/chat/completions", chat(5))
	assert s.ok("/v1/chat/completions", chat(5))["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
	for method, path in ("POST", "/flush_cache"), ("GET", "/flush_cache?timeout=3"), ("POST", "/reset_prefix_cache"):
		assert s.ask(method, path)[0] == 200
		assert s.ok("/v1/chat/completions", chat(5))["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
	assert json.loads(s.get("/v1/models/" + server_model())[1])["id"] == server_model() and s.get("/v1/models/none")[0] == 404


@test
def little_memory():
	"""Demand is several times what the cache holds: every answer comes, as a roomy server gives it, and every page is back."""
	s, roomy = Server("--max-total-tokens", "384", "--context-length", "320"), server()
	bodies = [{"prompt": [1 + (7 * i + j * j) % 1000 for j in range(20 + 7 * (i % 20))], "max_tokens": 100 + i, "ignore_eos": True,
	           "temperature": 0.7 * (i % 2), "seed": i} for i in range(24)]
	with concurrent.futures.ThreadPoolExecutor(24) as pool:
		got = list(pool.map(lambda b: s.ok("/v1/completions", b), bodies))
	with concurrent.futures.ThreadPoolExecutor(5) as pool:
		want = list(pool.map(lambda b: roomy.ok("/v1/completions", b), bodies))
	for b, g, w in zip(bodies, got, want):
		assert g["usage"]["completion_tokens"] == b["max_tokens"], g["usage"]
		assert g["choices"][0]["text"] == w["choices"][0]["text"], b
	assert s.metric("num_retracted_requests_total") > 0 and s.metric("evicted_tokens_total") > 0
	for kind in "kv_pages", "kv_ring_pages":
		assert s.metric(kind + "_free") + s.metric(kind + "_cached") == s.metric(kind + "_total") > 0, kind
	assert s.metric("kv_pages_total") == 6 and s.metric("num_used_tokens") == 0
	s.bad("/v1/completions", {"prompt": [1] * 300, "max_tokens": 100}, 400, "300")
	assert s.stop() == 0


# ---- what is wrong ------------------------------------------------------------------------------------------------------

@test
def wrong_numbers():
	s = server()
	cases = [("temperature", v) for v in (-1, 101, "1", 1e300, True, [])] + [("top_p", v) for v in (-0.1, 1.1, "x")]
	cases += [("top_k", v) for v in (-2, 2**31, 1.5, "3")] + [("min_p", -1), ("seed", -1), ("seed", 1.5), ("seed", "a")]
	cases += [("max_tokens", v) for v in (0, -1, 2**31, 2**63 - 1, 1.5, "9", {})] + [("max_completion_tokens", -5)]
	cases += [("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", -1), ("ignore_eos", 1), ("stream", "yes")]
	cases += [("stop", 5), ("stop", [1]), ("stop", ["x"] * 17), ("stop", "x" * 2000), ("stream_options", [])]
	for name, value in cases:
		for path, body in ("/v1/chat/completions", chat()), ("/v1/completions", {"prompt": "a"}):
			s.bad(path, {**body, name: value}, 400, name)
		if name not in ("max_tokens", "max_completion_tokens", "stream", "stream_options"):
			s.bad("/generate", {"text": "a", "sampling_params": {name: value}}, 400, name)
	for word in "NaN", "Infinity", "-Infinity", "1e999", "99999999999999999999", "0x10", "01":
		s.bad("/v1/completions", '{"prompt": "a", "temperature": %s}' % word, 400)
	s.bad("/generate", {"text": "a", "sampling_params": {"max_new_tokens": -1}}, 400, "max_new_tokens")
	s.bad("/generate", {"text": "a", "sampling_params": []}, 400, "sampling_params")
	for ids in [-1], [10**12], [1.5], [1, "a"], [[1], 2], [None], []:
		s.bad("/generate", {"input_ids": ids}, 400, "input_ids")
		s.bad("/v1/completions", {"prompt": ids}, 400, "prompt")


@test
def unsupported_is_said():
	s = server()
	for name, value in (("ebnf", "x"), ("guided_grammar", "root"), ("grammar", "root"), ("top_logprobs", 3), ("echo", True),
	                    ("no_stop_trim", True), ("prompt_logprobs", 1)):
		s.bad("/v1/chat/completions", chat(**{name: value}), 400, name)
	for name, value in ("best_of", 2), ("suffix", "x"), ("include_stop_str_in_output", True), ("logprobs", True):
		s.bad("/v1/completions", {"prompt": "a", name: value}, 400, name)
	s.bad("/generate", {"text": "a", "return_logprob": True, "logprob_start_len": 9}, 400, "logprob_start_len")
	s.bad("/generate", {"text": "a", "return_logprob": True, "logprob_start_len": -2}, 400, "logprob_start_len")
	s.bad("/generate", {"text": "a", "return_logprob": True, "logprob_start_len": "0"}, 400, "logprob_start_len")
	s.bad("/generate", {"text": "a", "sampling_params": {"ebnf": "a"}}, 400, "ebnf")


@test
def wrong_bodies():
	s = server()
	for body in "", "{", "[]", "3", "null", '{"a":1,"a":2}', '{"prompt": "a", "stop": "\\u0000"}', '{"a\\u0000": 1}', b'{"prompt": "\xff"}', "{}" * 2, "[" * 100000:
		s.bad("/v1/chat/completions", body, 400)
	for body in b'{"a\\\xd0\xa6"}', b'{"a\\\xed\xa0\x80"}', b'{"' + b'\xc3\xa9' * 1000: # the error quotes it, in UTF-8
		s.bad("/v1/completions", body, 400)
	for messages in None, [], {}, "hi", [1], [{}], [{"role": "king"}], [{"role": "user", "content": 5}], [
			{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}], [{"role": "tool", "content": "x"}]:
		s.bad("/v1/chat/completions", {"messages": messages}, 400, "messages")
	s.bad("/v1/chat/completions", chat(model="gpt-99"), 404, "model")
	s.bad("/v1/chat/completions", chat(model=5), 400, "model")
	limit = json.loads(s.get("/v1/models")[1])["data"][0]["max_model_len"]
	s.bad("/v1/chat/completions", chat(messages=[{"role": "user", "content": "apple " * 2 * limit}]), 400)
	s.bad("/v1/completions", {"prompt": [1] * (limit + 1)}, 400)
	s.bad("/v1/completions", {"prompt": [1], "max_tokens": limit}, 400)
	s.bad("/v1/completions", {"prompt": ["a"] * 1000}, 400, "prompt")
	s.bad("/v1/completions", {"prompt": "a", "stop": ["b\0"]}, 400, "stop")
	s.bad("/generate", {"text": "a", "sampling_params": {"stop": "b\0"}}, 400, "sampling_params")
	one, other = (s.ok("/tokenize", {"messages": [{"role": "user", "content": "a%sb" % c}]})["tokens"] for c in "\0\ufffd")
	assert one == other
	assert s.ok("/v1/completions", {"prompt": ["a\0b"], "max_tokens": 1})["usage"]["prompt_tokens"] == 3
	s.bad("/v1/completions", "[" + "0," * (3 << 20) + "0]", 413)
	assert s.post("/nope", {})[0] == 404 and s.get("/v1/completions")[0] == 405 and s.post("/health", {})[0] == 405
	assert s.post("/abort_request", {})[0] == 400 and s.post("/abort_request", {"rid": "none"})[0] == 200
	assert s.get("/health")[0] == 200


def raw(s, data, seconds=10):
	"""The status line a server answers to raw bytes; b"" if it only closes."""
	with socket.create_connection(("127.0.0.1", s.port), timeout=seconds) as c:
		try:
			c.sendall(data)
			c.shutdown(socket.SHUT_WR)
		except OSError:
			pass
		out = b""
		try:
			while chunk := c.recv(65536):
				out += chunk
		except OSError:
			pass
		return out.split(b"\r\n")[0]


@test
def wrong_http():
	s = server()
	s.bad("/generate", b"x" * 20000000, 413, "20000000")
	assert b" 413" in raw(s, b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 50000000, 60)
	head = b"POST /generate HTTP/1.1\r\nHost: x\r\n"
	for twice in b"Content-Length: 2\r\nContent-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"Host: y\r\nContent-Length: 2":
		line = raw(s, head + twice + b"\r\n\r\n{}\r\n0\r\n\r\n")
		assert b" 200" not in line, line
	for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET /\0 HTTP/1.1\r\n\r\n", b"GET http:// HTTP/1.1\r\n\r\n",
	             head + b"Content-Length: -5\r\n\r\n", head + b"Content-Length: 99999999999999999999\r\n\r\n", head + b"Content-Length: x\r\n\r\n",
	             head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", head + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	             head + b"X: " + b"y" * 200000 + b"\r\n\r\n", b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", b"FOO / HTTP/1.1\r\n\r\n"):
		assert b" 200" not in raw(s, data), data[:60]
	assert s.get("/health")[0] == 200


@test
def fuzzed_bodies():
	s = server()
	r = random.Random(1)
	seeds = [json.dumps(chat(stream=True, tools=TOOLS, stop=["x"], max_tokens=2)).encode(),
	         json.dumps({"text": ["a", "b"], "sampling_params": {"max_new_tokens": 2, "top_k": 3}}).encode(),
	         json.dumps(respond(input=question(0), tools=[{"type": "function", **TOOLS[0]["function"]}], max_output_tokens=2)).encode(),
	         json.dumps({"prompt": "a", "max_tokens": 2, "json_schema": ANSWER, "logprobs": 2, "n": 2, "logit_bias": {"3": 1}}).encode(),
	         json.dumps({"prompt": [[1, 2], [3]], "max_tokens": 2, "temperature": 0.5}).encode()]
	pieces = [b"null", b"{}", b"[]", b"-1", b"1e9", b'"x"', b"true", b"[[[[", b"}", b'"', b"\\", b"\x00", b"\xff", b",", b":"]
	c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
	for i in range(300):
		body = bytearray(r.choice(seeds))
		for _ in range(r.randint(1, 4)):
			at = r.randrange(len(body))
			body[at:at + r.randint(0, 12)] = r.choice(pieces)
		c.request("POST", r.choice(["/v1/chat/completions", "/generate", "/v1/completions", "/tokenize", "/detokenize", "/abort_request",
		                            "/v1/responses"]),
		          body=bytes(body))
		a = c.getresponse()
		a.read()
		assert a.status in (200, 400, 404, 413), (a.status, bytes(body))
	c.close()
	assert s.get("/health")[0] == 200


# ---- many at once ---------------------------------------------------------------------------------------------------------

@test
def sixteen_at_once():
	s = server()
	alone = [s.ok("/v1/chat/completions", chat(i))["choices"][0]["message"] for i in range(16)]
	with concurrent.futures.ThreadPoolExecutor(16) as pool:
		together = list(pool.map(lambda i: s.ok("/v1/chat/completions", chat(i))["choices"][0]["message"], range(16)))
	assert alone == together
	wait_for(lambda: s.metric("num_running_reqs") == 0)


@test
def disconnect_frees():
	s = server()
	aborted = s.metric("num_aborted_requests_total")
	n = 24 # more than run at once: some leave while they wait
	socks = [s.open("/generate", {**LONG, "stream": i % 2 == 0}) for i in range(n)]
	wait_for(lambda: s.metric("num_running_reqs") >= 1)
	for c in socks:
		c.close()
	wait_for(lambda: s.metric("num_running_reqs") == 0 and s.metric("num_queue_reqs") == 0)
	wait_for(lambda: s.metric("num_aborted_requests_total") == aborted + n)
	assert s.ok("/v1/chat/completions", chat())["choices"][0]["finish_reason"] == "stop"


@test
def pipelined_while_waiting():
	s = server()
	body = json.dumps({"text": "Hello", "sampling_params": {"max_new_tokens": 100, "temperature": 0, "ignore_eos": True}}).encode()
	one = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
	with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c:
		c.sendall(one)
		time.sleep(0.05)
		c.sendall(one + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		out = b""
		while chunk := c.recv(65536):
			out += chunk
	assert out.count(b"HTTP/1.1 200") == 3, out
	with socket.create_connection(("127.0.0.1", s.port), timeout=60) as c: # more than is kept: the rest waits in the kernel
		c.sendall(one + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 3000)
		out = b""
		while out.count(b"HTTP/1.1 200") < 3001:
			chunk = c.recv(65536)
			assert chunk, out.count(b"HTTP/1.1 200")
			out += chunk


@test
def abort_by_id():
	s = server()
	for which in {"rid": "mine-1"}, {"abort_all": True}:
		with concurrent.futures.ThreadPoolExecutor(1) as pool:
			f = pool.submit(s.ok, "/generate", {**LONG, "rid": "mine-1"})
			wait_for(lambda: s.metric("num_running_reqs") == 1)
			s.ok("/abort_request", which)
			assert f.result()["meta_info"]["finish_reason"]["type"] == "abort" and f.result()["meta_info"]["id"] == "mine-1"


@test
def slow_reader():
	s = server()
	before = s.metric("num_aborted_requests_total")
	slow = [s.open("/generate", {**LONG, "stream": True}) for _ in range(2)]
	start = time.time()
	for i in range(4):
		assert s.ok("/v1/chat/completions", chat(i))["choices"][0]["finish_reason"] == "stop"
	assert time.time() - start < 60
	wait_for(lambda: s.metric("num_aborted_requests_total") >= before + 2, 120) # their chunks go over what may lie unread
	for c in slow:
		c.close()
	wait_for(lambda: s.metric("num_running_reqs") == 0)


# ---- keys, sockets, ends ------------------------------------------------------------------------------------------------------

@test
def api_key():
	s = Server(env={"MOXIE_API_KEY": "s3cret-key"})
	try:
		for path in "/v1/models", "/metrics", "/server_info", "/nope":
			status, _, headers = s.get(path)
			assert status == 401 and headers["WWW-Authenticate"], path
		for key in "s3cret-ke", "s3cret-kez", "s3cret-key1", "":
			assert s.get("/v1/models", headers={"Authorization": "Bearer " + key})[0] == 401
		s.bad("/v1/chat/completions", {}, 401)
		s.bad("/abort_request", {"abort_all": True}, 401)
		assert s.get("/health")[0] == 200
		assert s.get("/v1/models", headers={"Authorization": "Bearer s3cret-key"})[0] == 200
	finally:
		assert s.stop() == 0


@test
def admin_key():
	s = Server(env={"MOXIE_API_KEY": "user-key", "MOXIE_ADMIN_API_KEY": "admin-key"})
	try:
		user, admin = {"Authorization": "Bearer user-key"}, {"Authorization": "Bearer admin-key"}
		for path, body in ("/flush_cache", None), ("/abort_request", {"abort_all": True}):
			assert s.post(path, body)[0] == s.post(path, body, headers=user)[0] == 401
			assert s.post(path, body, headers=admin)[0] == 200
		assert s.get("/v1/models", headers=user)[0] == 200 and s.get("/v1/models", headers=admin)[0] == 401
	finally:
		assert s.stop() == 0


@test
def flags_of_others():
	s = Server("--ctx-size", "1024", "-np", "2", "-tp", "1", "-ngl", "99", "-fa", "on", "--max-num-batched-tokens", "64", "--enable-cache-report", "--tool-call-parser", "openai",
	           "--sampling-defaults", "openai", "--reasoning-field", "reasoning", "--log-requests", "--skip-server-warmup", "--alias", "me")
	try:
		info = json.loads(s.get("/server_info")[1])
		assert info["context_length"] == 1024 and info["max_running_requests"] == 2 and info["served_model_name"] == "me"
		ask = {"prompt": "Maya", "max_tokens": 20}
		assert len({s.ok("/v1/completions", {**ask, "seed": i})["choices"][0]["text"] for i in range(5)}) > 1 # its config says greedy
		assert len({s.ok("/v1/completions", {**ask, "seed": i, "temperature": 0})["choices"][0]["text"] for i in range(5)}) == 1
		message = s.ok("/v1/chat/completions", {"messages": question(0), "temperature": 0})["choices"][0]["message"]
		assert message["reasoning"] and "reasoning_content" not in message
		stream = s.stream("/v1/chat/completions", {"messages": question(0), "temperature": 0})
		assert "".join(c["choices"][0]["delta"].get("reasoning", "") for c in stream) == message["reasoning"]
		rid = s.ok("/v1/completions", ask)["id"]
		wait_for(lambda: rid in s.said())
		line = next(x for x in s.said().splitlines() if rid in x)
		assert " info: " in line and " 0 of them cached, 20 out" in line and line.endswith("length"), line
	finally:
		assert s.stop() == 0


@test
def service_manager():
	with tempfile.TemporaryDirectory() as d, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
		manager.bind(d + "/notify")
		manager.settimeout(20)
		s = Server(env={"NOTIFY_SOCKET": d + "/notify", "WATCHDOG_USEC": "3000000"})
		assert manager.recv(100) == b"READY=1"
		start = time.time()
		assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3 and time.time() - start < 6
		s.proc.send_signal(signal.SIGTERM)
		while (said := manager.recv(100)) != b"STOPPING=1":
			assert said == b"WATCHDOG=1"
		assert s.proc.wait(20) == 0


@test
def drain_on_sigterm():
	s = Server()
	body = {"text": "Hello", "stream": True, "sampling_params": {"max_new_tokens": 1200, "temperature": 0, "ignore_eos": True}}
	kept = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
	kept.request("GET", "/health")
	assert kept.getresponse().read() == b'{"status":"ok"}'
	with concurrent.futures.ThreadPoolExecutor(1) as pool:
		f = pool.submit(s.post, "/generate", body)
		wait_for(lambda: s.metric("num_running_reqs") == 1)
		s.proc.send_signal(signal.SIGTERM)
		time.sleep(0.1)
		kept.request("GET", "/health")
		assert kept.getresponse().status == 503
		status, text, _ = f.result()
		assert status == 200 and text.endswith(b"data: [DONE]\n\n") and b'"length":1200' in text
	assert s.proc.wait(60) == 0
	try:
		s.get("/health")
		raise AssertionError("it still answers")
	except OSError:
		pass


@test
def second_signal():
	s = Server()
	c = s.open("/generate", {**LONG, "stream": True})
	wait_for(lambda: s.metric("num_running_reqs") == 1)
	s.proc.send_signal(signal.SIGTERM)
	time.sleep(0.1)
	assert s.proc.poll() is None
	assert s.stop(signal.SIGINT, 20) == 0
	c.close()


@test
def drain_has_an_end():
	s = Server("--drain-seconds", "1")
	with concurrent.futures.ThreadPoolExecutor(1) as pool:
		f = pool.submit(s.post, "/generate", LONG)
		wait_for(lambda: s.metric("num_running_reqs") == 1)
		start = time.time()
		assert s.stop() == 0 and time.time() - start < 10
		status, text, _ = f.result() # cut, but told so
		assert status == 200 and json.loads(text)["meta_info"]["finish_reason"]["type"] == "abort", text[:300]


@test
def queue_is_bounded():
	s = Server("--max-running-requests", "1", "--max-queued-requests", "2")
	try:
		socks = [s.open("/generate", LONG) for _ in range(3)]
		wait_for(lambda: s.metric("num_running_reqs") == 1 and s.metric("num_queue_reqs") == 2)
		e = s.post("/v1/chat/completions", chat())
		assert e[0] == 429 and e[2]["Retry-After"] and json.loads(e[1])["error"]["code"] == 429, e
		s.bad("/generate", {"text": ["a", "b", "c"]}, 429)
		for c in socks:
			c.close()
		wait_for(lambda: s.metric("num_running_reqs") == 0 and s.metric("num_queue_reqs") == 0)
		assert s.ok("/v1/chat/completions", chat())["choices"][0]["finish_reason"] == "stop"
	finally:
		s.stop()


@test
def unix_socket():
	with tempfile.TemporaryDirectory() as d:
		path = d + "/s"
		for end in signal.SIGKILL, signal.SIGTERM: # the second start finds the file that the first left
			p = subprocess.Popen(COMMAND + ["--uds", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
			c = socket.socket(socket.AF_UNIX)
			for _ in range(400):
				try:
					c.connect(path)
					break
				except OSError:
					time.sleep(0.05)
			c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
			assert b" 200 " in c.recv(1000)
			assert os.stat(path).st_mode & 0o777 == 0o600
			p.send_signal(end)
			p.wait(20)
			c.close()
		assert p.returncode == 0 and not os.path.exists(path)


def main():
	global shared
	if "--list" in sys.argv[1:]:
		print("\n".join(t.__name__ for t in tests))
		return 0
	n = {"ok": 0, "FAILED": 0}
	for t in tests:
		if len(sys.argv) > 1 and not any(a in t.__name__ for a in sys.argv[1:]):
			continue
		start, result = time.time(), "ok"
		try:
			t()
		except Exception as e:
			result = "FAILED"
			tb = e.__traceback__
			while tb.tb_next and tb.tb_next.tb_frame.f_code.co_filename == __file__:
				tb = tb.tb_next
			print("    line %d: %s: %s" % (tb.tb_lineno, type(e).__name__, str(e)[:1500]))
			if shared and shared.proc.poll() is not None:
				print("    the server ended with %d: %s" % (shared.proc.returncode, shared.said()))
		n[result] += 1
		print("%-6s %-28s %5.1f s" % (result, t.__name__, time.time() - start), flush=True)
	if shared:
		code = shared.stop()
		if code:
			n["FAILED"] += 1
			print("    the server's exit code is %d: %s" % (code, shared.said()))
			print("FAILED exit")
	print("%d passed, %d failed, 0 skipped" % (n["ok"], n["FAILED"]))
	return 1 if n["FAILED"] else 0


sys.exit(main())
