/* harmony_parser.c - generated ids to messages.  One of two things is under way: a header, which ends with <|message|>, or a
 * message, which ends with <|end|>, <|call|> or <|return|>.  chat.h says what happens when a model writes something else. */
#include <stdlib.h>
#include <string.h>

#include "formats/chat.h"

enum { HEADER_BYTES = 256, ROLE_WORDS = 3, CHANNEL_WORDS = 4, MAX_WORD = 16 };

static const char *const channels[] = { "analysis", "commentary", "final" };
static const char constrain_text[] = "<|constrain|>";

struct word {
	const char *p;
	size_t n;
};

struct harmony_parser {
	const struct tokenizer *t;
	int32_t start, message, end, call, ret, text_end, channel_mark, constrain;

	bool in_message;
	bool ended;    /* the message is over: the next push begins a header */
	bool explicit; /* the header began with <|start|>, so its first word is the author */
	bool has_mark; /* <|channel|> was seen in the header */
	struct buf part[2]; /* the header before and after <|channel|> */
	struct detok held;

	struct buf text; /* of the event */
	const char *channel;
	struct buf recipient, content_type; /* empty: none */
};

/* Control characters too: no name has one, and a NUL would cut it short. */
static bool is_blank(char c)
{
	return (unsigned char)c <= ' ' || c == 0x7f;
}

static bool word_is(struct word w, const char *s)
{
	return w.n == strlen(s) && !memcmp(w.p, s, w.n);
}

static bool word_begins(struct word w, const char *s)
{
	size_t n = strlen(s);
	return w.n >= n && !memcmp(w.p, s, n);
}

static bool is_role(struct word w)
{
	return word_is(w, "assistant") || word_is(w, "user") || word_is(w, "system") || word_is(w, "developer") || word_is(w, "tool");
}

/* The words of b, at most max of them; returns how many there are in all. */
static size_t words_of(const struct buf *b, struct word *w, size_t max)
{
	size_t n = 0;
	for (size_t i = 0; i < b->n;) {
		size_t from = i;
		while (i < b->n && !is_blank(b->p[i]))
			i++;
		if (i > from && n++ < max)
			w[n - 1] = (struct word){ b->p + from, i - from };
		i += i == from;
	}
	return n;
}

static void empty(struct buf *b)
{
	b->n = 0;
	b->p[0] = 0; /* never NULL: harmony_parser_create filled each once */
}

static bool set(struct buf *b, struct word w)
{
	empty(b);
	return buf_append(b, w.p, w.n);
}

static void begin_header(struct harmony_parser *p, bool explicit)
{
	p->in_message = p->ended = p->has_mark = false;
	p->explicit = explicit;
	p->held.n_held = 0;
	empty(&p->part[0]);
	empty(&p->part[1]);
}

static void forget_message(struct harmony_parser *p)
{
	p->channel = "";
	empty(&p->recipient);
	empty(&p->content_type);
}

static void fill(const struct harmony_parser *p, struct moxie_event *ev, enum moxie_event_kind kind)
{
	*ev = (struct moxie_event){
		.kind = kind, .text = p->text.p, .n_text = p->text.n, .channel = p->channel,
		.recipient = p->recipient.n ? p->recipient.p : NULL,
		.content_type = p->content_type.n ? p->content_type.p : NULL,
	};
}

/* Takes the channel off the front of the word; what stays is put back into it ("commentaryto=x" is seen in the wild). */
static const char *take_channel(struct word *w)
{
	for (size_t i = 0; i < 3; i++) {
		size_t n = strlen(channels[i]);
		if (!word_begins(*w, channels[i]))
			continue;
		struct word rest = { w->p + n, w->n - n };
		if (rest.n == 0 || rest.p[0] == '<' || word_begins(rest, "to=")) {
			*w = rest;
			return channels[i];
		}
	}
	return NULL;
}

static bool set_recipient(struct harmony_parser *p, struct word w)
{
	if (word_is(w, "all") || word_is(w, "user"))
		w.n = 0;
	return set(&p->recipient, w);
}

/* The words that are neither author nor channel.  More than can be understood becomes the message's first text. */
static bool read_rest(struct harmony_parser *p, struct word *w, size_t n)
{
	size_t to = 0;
	while (to < n && !word_begins(w[to], "to="))
		to++;
	if (to < n) {
		struct word who = { w[to].p + 3, w[to].n - 3 };
		if (who.n == 0 && to + 1 < n)
			who = w[++to];
		return set_recipient(p, who) && (to + 1 == n || set(&p->content_type, w[n - 1]));
	}
	if (n == 1) {
		bool type = word_begins(w[0], constrain_text) || word_is(w[0], "json") || word_is(w[0], "code") || word_is(w[0], "text") ||
		            (p->channel && !strcmp(p->channel, "final"));
		return type ? set(&p->content_type, w[0]) : set_recipient(p, w[0]);
	}
	if (n == 2)
		return set_recipient(p, w[0]) && set(&p->content_type, w[1]);
	for (size_t i = 0; i < n; i++)
		if (!buf_append(&p->text, w[i].p, w[i].n) || !buf_append(&p->text, " ", 1))
			return false;
	return true;
}

/* <|message|> came: what does the header say? */
static bool read_header(struct harmony_parser *p)
{
	struct word w[2 * MAX_WORD], *rest = w;
	size_t n0 = words_of(&p->part[0], w, MAX_WORD), n;
	if (n0 > MAX_WORD)
		n0 = MAX_WORD;
	size_t n1 = words_of(&p->part[1], w + n0, MAX_WORD);
	n = n0 + (n1 < MAX_WORD ? n1 : MAX_WORD);
	forget_message(p);
	p->channel = NULL;
	if (n > n0) {
		p->channel = take_channel(&w[n0]);
		if (!p->channel)
			w[n0].n = 0; /* unknown: final */
		for (size_t i = n0 + 1; p->channel && i < n; i++)
			if (word_is(w[i], p->channel))
				w[i].n = 0; /* said twice */
	}
	if (n0 && (is_role(w[0]) || (p->explicit && !word_begins(w[0], "to="))))
		w[0].n = 0;
	size_t kept = 0;
	for (size_t i = 0; i < n; i++) {
		if (w[i].n == 0)
			continue;
		if (kept && word_is(rest[kept - 1], constrain_text) && rest[kept - 1].p + sizeof constrain_text == w[i].p)
			rest[kept - 1].n += w[i].n + 1; /* "<|constrain|> json" */
		else
			rest[kept++] = w[i];
	}
	if (kept && !read_rest(p, rest, kept))
		return false;
	if (!p->channel)
		p->channel = n1 == 0 && p->recipient.n ? "commentary" : "final";
	return true;
}

/* The header will not get its <|message|>: its text, without author, channel and recipient, is the message's. */
static bool give_up_header(struct harmony_parser *p)
{
	struct word a = { p->part[0].p, p->part[0].n }, b = { p->part[1].p, p->part[1].n };
	forget_message(p);
	for (int i = 0; i < 2; i++) { /* role, recipient */
		struct word head = a;
		while (head.n && is_blank(*head.p))
			head.p++, head.n--;
		struct word first = { head.p, 0 };
		while (first.n < head.n && !is_blank(head.p[first.n]))
			first.n++;
		bool to = first.n > 3 && word_begins(first, "to=");
		if (to ? !set_recipient(p, (struct word){ first.p + 3, first.n - 3 }) : !(i == 0 && is_role(first)))
			break;
		a = (struct word){ head.p + first.n, head.n - first.n };
		while (a.n && is_blank(*a.p))
			a.p++, a.n--;
		if (to)
			break;
	}
	p->channel = NULL;
	if (p->has_mark) {
		struct word rest = b, first;
		while (rest.n && is_blank(*rest.p))
			rest.p++, rest.n--;
		first = (struct word){ rest.p, 0 };
		while (first.n < rest.n && !is_blank(rest.p[first.n]))
			first.n++;
		size_t n_first = first.n;
		p->channel = take_channel(&first);
		if (p->channel) {
			size_t n = n_first - first.n;
			b = (struct word){ rest.p + n, rest.n - n };
			while (b.n && is_blank(*b.p))
				b.p++, b.n--;
		}
	}
	if (!p->channel)
		p->channel = p->recipient.n ? "commentary" : "final";
	return buf_append(&p->text, a.p, a.n) && buf_append(&p->text, b.p, b.n);
}

/* Too much for a header: more words than one has, a line end, too long. */
static bool hopeless(const struct harmony_parser *p)
{
	size_t i = p->has_mark;
	return p->part[0].n + p->part[1].n > HEADER_BYTES || memchr(p->part[i].p, '\n', p->part[i].n) ||
	       words_of(&p->part[i], NULL, 0) > (i ? CHANNEL_WORDS : ROLE_WORDS);
}

static bool ends(const struct harmony_parser *p, int32_t id)
{
	return id == p->end || id == p->call || id == p->ret || id == p->text_end;
}

static void finish_message(struct harmony_parser *p, int32_t id, struct moxie_event *ev)
{
	bool turn = id == p->ret || id == p->call || id == p->text_end;
	fill(p, ev, p->recipient.n ? MOXIE_EV_CALL : turn ? MOXIE_EV_RETURN : MOXIE_EV_END);
	p->ended = true;
}

static bool in_message(struct harmony_parser *p, int32_t id, struct moxie_event *ev)
{
	bool begins = id == p->start || id == p->channel_mark;
	if (!ends(p, id) && !begins) {
		if (detok_push(&p->held, p->t, id, true, &p->text))
			return false;
		fill(p, ev, p->text.n ? MOXIE_EV_TEXT : MOXIE_EV_NONE);
		return true;
	}
	if (detok_finish(&p->held, &p->text))
		return false;
	finish_message(p, id, ev);
	if (begins)
		begin_header(p, id == p->start);
	p->has_mark = id == p->channel_mark;
	return true;
}

static bool in_header(struct harmony_parser *p, int32_t id, struct moxie_event *ev)
{
	struct buf *part = &p->part[p->has_mark];
	bool marker = id >= 0 && tokenizer_is_special(p->t, id), ok = true;
	if (marker && detok_finish(&p->held, part))
		return false;
	bool blank = !p->has_mark && words_of(part, NULL, 0) == 0;
	p->channel = "";
	fill(p, ev, MOXIE_EV_NONE);
	if (id == p->message) {
		ok = read_header(p);
		p->in_message = true;
		fill(p, ev, p->text.n ? MOXIE_EV_TEXT : MOXIE_EV_NONE);
	} else if (id == p->start) {
		ok = blank || give_up_header(p);
		if (p->text.n || p->recipient.n)
			finish_message(p, id, ev);
		begin_header(p, true);
	} else if (ends(p, id)) {
		if (blank && id == p->end) {
			p->ended = true;
			return true;
		}
		ok = blank || give_up_header(p);
		finish_message(p, id, ev);
	} else if (id == p->channel_mark) {
		ok = !p->has_mark || buf_puts(part, " ");
		p->has_mark = true;
	} else if (id == p->constrain) {
		ok = buf_puts(part, " ") && buf_puts(part, constrain_text);
	} else if (!marker) {
		ok = detok_push(&p->held, p->t, id, true, part) == 0;
		if (ok && hopeless(p)) {
			ok = give_up_header(p);
			p->in_message = true;
			fill(p, ev, p->text.n ? MOXIE_EV_TEXT : MOXIE_EV_NONE);
		}
	}
	return ok;
}

int harmony_parser_push(struct harmony_parser *p, int32_t id, struct moxie_event *ev)
{
	if (p->ended)
		begin_header(p, false);
	if (!p->in_message)
		forget_message(p);
	empty(&p->text);
	if (id < 0)
		id = INT32_MIN; /* no token, and not one that the tokenizer lacks */
	if (p->in_message ? in_message(p, id, ev) : in_header(p, id, ev))
		return 0;
	*ev = (struct moxie_event){ .text = "", .channel = "" };
	return MOXIE_E_NOMEM;
}

int harmony_parser_finish(struct harmony_parser *p, struct moxie_event *ev)
{
	bool ok;
	empty(&p->text);
	if (p->ended)
		begin_header(p, false);
	if (p->in_message)
		ok = detok_finish(&p->held, &p->text) == 0;
	else
		ok = detok_finish(&p->held, &p->part[p->has_mark]) == 0 && give_up_header(p);
	if (ok)
		fill(p, ev, p->text.n ? MOXIE_EV_TEXT : MOXIE_EV_NONE);
	else
		*ev = (struct moxie_event){ .text = "", .channel = "" };
	p->ended = true;
	return ok ? 0 : MOXIE_E_NOMEM;
}

void harmony_parser_reset(struct harmony_parser *p)
{
	p->ended = true; /* and no more: the last event's strings live until the next push */
}

int harmony_parser_create(struct harmony_parser **out, const struct tokenizer *t, struct moxie_err *err)
{
	*out = NULL;
	struct harmony_parser *p = calloc(1, sizeof *p);
	struct buf *const bufs[] = { p ? &p->part[0] : NULL, p ? &p->part[1] : NULL, p ? &p->text : NULL,
	                             p ? &p->recipient : NULL, p ? &p->content_type : NULL };
	for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) {
		if (!p || !buf_puts(bufs[i], "")) {
			harmony_parser_free(p);
			return err_nomem(err, sizeof *p, "a parser of answers");
		}
	}
	p->t = t;
	p->start = tokenizer_special(t, "<|start|>");
	p->message = tokenizer_special(t, "<|message|>");
	p->end = tokenizer_special(t, "<|end|>");
	p->call = tokenizer_special(t, "<|call|>");
	p->ret = tokenizer_special(t, "<|return|>");
	p->text_end = tokenizer_special(t, "<|endoftext|>");
	p->channel_mark = tokenizer_special(t, "<|channel|>");
	p->constrain = tokenizer_special(t, constrain_text);
	harmony_parser_reset(p);
	*out = p;
	return 0;
}

void harmony_parser_free(struct harmony_parser *p)
{
	if (!p)
		return;
	buf_free(&p->part[0]);
	buf_free(&p->part[1]);
	buf_free(&p->text);
	buf_free(&p->recipient);
	buf_free(&p->content_type);
	free(p);
}
