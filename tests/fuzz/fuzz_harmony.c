/* Any bytes as generated ids and as conversations.  The first byte picks one.
 *
 * ids:           a byte is the token of that byte; 0xf0 .. 0xff are the special tokens, 0xef and a byte is any id
 * conversation:  strings that end in NUL, six to a message; the first one's first byte is the role
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/chat.h"

static const char *const marks[16] = { "start", "end", "message", "channel", "constrain", "return", "call", "endoftext",
                                       "startoftext", "r1", "r2", "r3", "r4", "r5", "r6", "r7" };
static struct tokenizer *tok;

#define MUST(cond) do { if (!(cond)) abort(); } while (0)

/* 256 bytes with their own ids, then the special tokens. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct buf j = { 0 };
	struct moxie_err err;
	int next = 256;
	(void)argc, (void)argv;
	MUST(buf_puts(&j, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{"));
	for (int b = 0; b < 256; b++) {
		int c = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++;
		MUST(buf_printf(&j, "%s\"\\u%04x\":%d", b ? "," : "", c, b));
	}
	MUST(buf_puts(&j, "}},\"added_tokens\":["));
	for (int i = 0; i < 16; i++)
		MUST(buf_printf(&j, "%s{\"id\":%d,\"content\":\"<|%s|>\",\"special\":true}", i ? "," : "", 256 + i, marks[i]));
	MUST(buf_puts(&j, "]}"));
	if (tokenizer_parse(&tok, j.p, j.n, "fuzz", &err)) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	buf_free(&j);
	return 0;
}

static void check_event(const struct moxie_event *ev)
{
	MUST(ev->text && ev->text[ev->n_text] == 0 && ev->channel);
	MUST(ev->kind != MOXIE_EV_NONE || ev->n_text == 0);
	MUST(ev->kind != MOXIE_EV_TEXT || ev->n_text > 0);
	MUST(ev->kind != MOXIE_EV_CALL || ev->recipient);
	MUST(ev->kind == MOXIE_EV_NONE || !strcmp(ev->channel, "analysis") || !strcmp(ev->channel, "commentary") ||
	     !strcmp(ev->channel, "final") || (!*ev->channel && !ev->n_text));
	struct ids ids = { 0 }; /* whole characters only */
	MUST(tokenizer_encode(tok, ev->text, ev->n_text, false, &ids, NULL) == 0);
	if (ev->recipient)
		MUST(*ev->recipient && tokenizer_encode(tok, ev->recipient, strlen(ev->recipient), false, &ids, NULL) == 0);
	ids_free(&ids);
}

static void parse(const uint8_t *p, size_t n)
{
	struct harmony_parser *h;
	struct moxie_event ev;
	MUST(harmony_parser_create(&h, tok, NULL) == 0);
	for (size_t i = 0; i < n; i++) {
		int32_t id = p[i] >= 0xf0 ? 256 + (p[i] & 15) : p[i];
		if (p[i] == 0xef && i + 1 < n) {
			id = p[++i];
			id = id >= 0xe0 ? (int32_t)((uint32_t)id * 0x9e3779b1u) : id;
		}
		MUST(harmony_parser_push(h, id, &ev) == 0);
		check_event(&ev);
	}
	MUST(harmony_parser_finish(h, &ev) == 0);
	check_event(&ev);
	MUST(ev.kind <= MOXIE_EV_TEXT);
	MUST(harmony_parser_finish(h, &ev) == 0 && ev.kind == MOXIE_EV_NONE);
	harmony_parser_free(h);
}

static const char *field(char **p, char *end)
{
	char *s = *p;
	if (s >= end)
		return NULL;
	*p = s + strlen(s) + 1;
	return *s == 1 ? NULL : s; /* "\1...": not given */
}

static void render(const uint8_t *in, size_t n)
{
	struct moxie_message msg[8] = { 0 };
	struct moxie_tool tool = { 0 };
	struct moxie_chat_params p = { .struct_size = sizeof p };
	struct moxie_err err = { 0 };
	struct ids ids = { 0 };
	size_t n_msg = 0;
	char *text = malloc(n + 1), *at = text, *end = text + n;
	MUST(text);
	memcpy(text, in, n);
	text[n] = 0;
	p.effort = (enum moxie_effort)(n % 4);
	p.identity = field(&at, end);
	p.date = field(&at, end);
	tool.name = field(&at, end);
	tool.description = field(&at, end);
	tool.parameters = field(&at, end);
	p.tools = &tool;
	p.n_tool = tool.name ? 1 : 0;
	while (n_msg < 8 && at < end) {
		struct moxie_message *m = &msg[n_msg++];
		const char *role = field(&at, end);
		m->role = (enum moxie_role)(role ? *role % 6 : MOXIE_ROLE_USER);
		m->content = field(&at, end);
		m->name = field(&at, end);
		m->channel = field(&at, end);
		m->recipient = field(&at, end);
		m->content_type = field(&at, end);
	}
	int rc = harmony_render(tok, &p, msg, n_msg, n & 4, &ids, &err);
	if (rc) {
		MUST(ids.n == 0 && err.text[0] && rc == MOXIE_E_ARG);
	} else {
		/* Every message has one start, one message mark and one end; nothing else ends or starts one. */
		size_t count[16] = { 0 };
		for (size_t i = 0; i < ids.n; i++)
			if (ids.v[i] >= 256)
				count[ids.v[i] - 256]++;
		MUST(count[2] == count[1] + count[6] && count[0] == count[2] + (n & 4 ? 1 : 0) && count[2] <= n_msg + 2 && count[5] == 0);
		MUST(count[3] <= count[2] && count[4] <= count[2]);
		struct buf back = { 0 };
		struct detok d = { 0 };
		for (size_t i = 0; i < ids.n; i++)
			MUST(detok_push(&d, tok, ids.v[i], false, &back) == 0);
		MUST(d.n_held == 0);
		buf_free(&back);
	}
	ids_free(&ids);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n && p[0] & 1)
		render(p + 1, n - 1);
	else if (n)
		parse(p + 1, n - 1);
	return 0;
}
