"""OpenAI's own Python client against a server.  Usage: openai_client.py BASE_URL BASE_URL_WITH_KEY KEY"""
import asyncio
import json
import math
import re
import sys

import openai

base, guarded, key = sys.argv[1:4]
ai = openai.OpenAI(base_url=base + "/v1", api_key="-", max_retries=0, timeout=60)
MODEL = ai.models.list().data[0].id
ASK = [{"role": "user", "content": "Maya has 24 apples. She gives 9 to her brother. How many apples does she have now?"}]
GREEDY = dict(model=MODEL, messages=ASK, temperature=0, max_tokens=200)
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.", "parameters": {
	"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False}}}]
tests = []


def test(fn):
	tests.append(fn)
	return fn


def raises(kind, call, word):
	try:
		call()
	except kind as e:
		assert word in str(e), (word, str(e))
		return
	raise AssertionError("no " + kind.__name__)


@test
def chat():
	r = ai.chat.completions.create(**GREEDY)
	m = r.choices[0].message
	assert r.choices[0].finish_reason == "stop" and "15" in m.content and m.reasoning_content, r
	assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens and r.model == MODEL
	assert r.usage.prompt_tokens_details.cached_tokens >= 0


@test
def stream():
	whole = ai.chat.completions.create(**GREEDY).choices[0].message
	content = reason = ""
	usage = finish = None
	for c in ai.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}):
		usage = c.usage or usage
		if c.choices:
			content += c.choices[0].delta.content or ""
			reason += getattr(c.choices[0].delta, "reasoning_content", None) or ""
			finish = c.choices[0].finish_reason or finish
	assert (content, reason, finish) == (whole.content, whole.reasoning_content, "stop") and usage.completion_tokens > 5
	with ai.chat.completions.stream(**GREEDY) as s: # the client's own accumulator
		assert s.get_final_completion().choices[0].message.content == content


@test
def a_stream_left_early():
	for _ in range(5):
		s = ai.chat.completions.create(**{**GREEDY, "max_tokens": 4000}, stream=True, extra_body={"ignore_eos": True})
		next(iter(s))
		s.close()
	assert ai.chat.completions.create(**GREEDY).choices[0].finish_reason == "stop"


@test
def completions():
	r = ai.completions.create(model=MODEL, prompt=["Maya has", "Tom"], max_tokens=8, temperature=0)
	assert [c.index for c in r.choices] == [0, 1] and r.usage.completion_tokens <= 16
	a, b = (ai.completions.create(model=MODEL, prompt="Maya", max_tokens=20, temperature=1, seed=3).choices[0].text for _ in "ab")
	assert a == b
	text = "".join(c.choices[0].text for c in ai.completions.create(model=MODEL, prompt="Maya has", max_tokens=8, temperature=0, stream=True) if c.choices)
	assert text == r.choices[0].text


@test
def several_answers():
	r = ai.chat.completions.create(**{**GREEDY, "temperature": 1}, n=3, seed=1)
	assert sorted(c.index for c in r.choices) == [0, 1, 2] and all(c.message.content or c.finish_reason == "length" for c in r.choices)


@test
def logprobs():
	r = ai.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=4)
	items = r.choices[0].logprobs.content
	text = b"".join(bytes(i.bytes) for i in items).decode()
	assert text.endswith(r.choices[0].message.content), (text, r.choices[0].message.content)
	for i in items:
		top = [t.logprob for t in i.top_logprobs]
		assert len(top) == 4 and top == sorted(top, reverse=True) and sum(map(math.exp, top)) < 1.0001
		assert i.logprob == top[0] and i.token == i.top_logprobs[0].token, i
	got = []
	for c in ai.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=4, stream=True):
		if c.choices and c.choices[0].logprobs:
			got += c.choices[0].logprobs.content or []
	assert [(i.token, i.logprob) for i in got] == [(i.token, i.logprob) for i in items]
	r = ai.completions.create(model=MODEL, prompt="Maya has", max_tokens=5, temperature=0, logprobs=2)
	l = r.choices[0].logprobs
	assert len(l.tokens) == len(l.token_logprobs) == len(l.top_logprobs) == 5 and "".join(l.tokens) == r.choices[0].text


@test
def likelihood_of_a_prompt():
	c = ai.completions.create(model=MODEL, prompt="Maya has 24 apples.", max_tokens=0, echo=True, logprobs=2).choices[0]
	p = c.logprobs
	assert c.text == "Maya has 24 apples." == "".join(p.tokens) and p.token_logprobs[0] is None and all(x <= 0 for x in p.token_logprobs[1:]), c
	assert len(p.tokens) == len(p.top_logprobs) == len(p.text_offset) and all(len(t) == 2 for t in p.top_logprobs[1:])


@test
def tools():
	talk = ASK + [
		{"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}}]},
		{"role": "tool", "tool_call_id": "c1", "content": "{\"t\": 3}"}]
	r = ai.chat.completions.create(model=MODEL, messages=talk, tools=TOOLS, tool_choice="auto", temperature=0, max_tokens=30)
	assert r.choices[0].finish_reason in ("stop", "length", "tool_calls")


@test
def a_tool_that_must_be_called():
	for choice in "required", {"type": "function", "function": {"name": "get_weather"}}:
		r = ai.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, tool_choice=choice, temperature=0, max_tokens=300)
		call = r.choices[0].message.tool_calls[0]
		assert call.id and call.function.name == "get_weather" and r.choices[0].finish_reason == "tool_calls", r
		assert isinstance(json.loads(call.function.arguments)["city"], str)
	name = arguments = ""
	for c in ai.chat.completions.create(model=MODEL, messages=ASK, tools=TOOLS, tool_choice="required", temperature=0, max_tokens=300, stream=True):
		for t in (c.choices and c.choices[0].delta.tool_calls) or []:
			name += t.function.name or ""
			arguments += t.function.arguments or ""
	assert (name, arguments) == (call.function.name, call.function.arguments)


SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "apples": {"type": "integer"}, "kind": {"enum": ["red", "green"]}},
          "required": ["name", "apples", "kind"], "additionalProperties": False}


@test
def json_schema():
	form = {"type": "json_schema", "json_schema": {"name": "count", "strict": True, "schema": SCHEMA}}
	for seed in range(4):
		r = ai.chat.completions.create(model=MODEL, messages=ASK, temperature=1 if seed else 0, seed=seed, max_tokens=400, response_format=form)
		v = json.loads(r.choices[0].message.content)
		assert set(v) == {"name", "apples", "kind"} and isinstance(v["apples"], int) and v["kind"] in ("red", "green") and len(v["name"]) <= 20, v
	r = ai.chat.completions.create(model=MODEL, messages=ASK, temperature=0, max_tokens=400, response_format={"type": "json_object"})
	assert r.choices[0].finish_reason == "length" or isinstance(json.loads(r.choices[0].message.content), dict)


@test
def forms_that_are_no_json():
	r = ai.chat.completions.create(**GREEDY, extra_body={"structured_outputs": {"regex": r"\d{2} apples"}})
	assert re.fullmatch(r"\d{2} apples", r.choices[0].message.content), r
	r = ai.chat.completions.create(**GREEDY, extra_body={"guided_choice": ["many", "few"]})
	assert r.choices[0].message.content in ("many", "few"), r


@test
def responses():
	r = ai.responses.create(model=MODEL, input=ASK[0]["content"], temperature=0, max_output_tokens=200)
	assert "15" in r.output_text and r.status == "completed" and r.usage.output_tokens > 5, r
	text = "".join(e.delta for e in ai.responses.create(model=MODEL, input=ASK[0]["content"], temperature=0, max_output_tokens=200, stream=True)
	               if e.type == "response.output_text.delta")
	assert text == r.output_text


@test
def errors():
	raises(openai.BadRequestError, lambda: ai.chat.completions.create(**{**GREEDY, "temperature": -1}), "temperature")
	raises(openai.BadRequestError, lambda: ai.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": "x " * 100000}]}), "")
	raises(openai.NotFoundError, lambda: ai.chat.completions.create(**{**GREEDY, "model": "gpt-99"}), MODEL)
	raises(openai.AuthenticationError, lambda: openai.OpenAI(base_url=guarded + "/v1", api_key="wrong", max_retries=0).models.list(), "key")
	assert openai.OpenAI(base_url=guarded + "/v1", api_key=key, max_retries=0).models.list().data[0].id == MODEL


@test
def many_at_once():
	alone = ai.chat.completions.create(**GREEDY).choices[0].message.content

	async def ask(c, stream):
		if not stream:
			return (await c.chat.completions.create(**GREEDY)).choices[0].message.content
		return "".join([x.choices[0].delta.content or "" async for x in await c.chat.completions.create(**GREEDY, stream=True) if x.choices])

	async def all_of_them():
		async with openai.AsyncOpenAI(base_url=base + "/v1", api_key="-", timeout=120) as c:
			return await asyncio.gather(*(ask(c, i % 2) for i in range(64)))

	answers = asyncio.run(all_of_them())
	assert all(a == alone for a in answers), set(answers)


n = {True: 0, False: 0}
for t in tests:
	try:
		t()
		ok = True
	except Exception as e:
		ok = False
		print("    %s: %s" % (type(e).__name__, str(e)[:600]))
	n[ok] += 1
	print(("ok     " if ok else "FAILED ") + "openai " + t.__name__, flush=True)
print("%d %d" % (n[True], n[False]))
