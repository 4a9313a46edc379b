#include "client/http_in.h"

#include <string.h>
#include <strings.h>

void http_in_reset(struct http_in *r)
{
	struct buf body = r->body, line = r->line, frame = r->frame, event = r->event;
	body.n = line.n = frame.n = event.n = 0;
	*r = (struct http_in){ .keep = true, .body = body, .line = line, .frame = frame, .event = event, .on_event = r->on_event, .ud = r->ud };
}

void http_in_free(struct http_in *r)
{
	buf_free(&r->body);
	buf_free(&r->line);
	buf_free(&r->frame);
	buf_free(&r->event);
}

static bool fail(struct http_in *r, const char *why)
{
	r->at = HTTP_BAD;
	r->bad = why;
	return false;
}

/* ---- events --------------------------------------------------------------------------------------------------------- */

/* One line of a stream, without its end. */
static bool event_line(struct http_in *r, const char *p, size_t n)
{
	if (!n) {
		if (r->has_event && r->on_event)
			r->on_event(r->ud, r->event.p, r->event.n);
		r->has_event = false;
		r->event.n = 0;
		return true;
	}
	if (n < 5 || memcmp(p, "data:", 5))
		return true; /* a comment, an id, a name: nobody here asks for them */
	size_t skip = n > 5 && p[5] == ' ' ? 6 : 5;
	if (r->event.n + n > HTTP_MAX_BODY)
		return fail(r, "an event is too long");
	if ((r->has_event && !buf_append(&r->event, "\n", 1)) || !buf_append(&r->event, p + skip, n - skip))
		return fail(r, "out of memory");
	r->has_event = true;
	return true;
}

/* Lines end with \n, \r\n or \r. */
static bool take_events(struct http_in *r, const char *p, size_t n)
{
	while (n) {
		if (r->after_cr && *p == '\n') {
			r->after_cr = false;
			p++, n--;
			continue;
		}
		r->after_cr = false;
		size_t k = 0;
		while (k < n && p[k] != '\n' && p[k] != '\r')
			k++;
		if (r->line.n + k > HTTP_MAX_BODY)
			return fail(r, "an event is too long");
		if (!buf_append(&r->line, p, k))
			return fail(r, "out of memory");
		if (k == n)
			return true;
		r->after_cr = p[k] == '\r';
		if (!event_line(r, r->line.p, r->line.n))
			return false;
		r->line.n = 0;
		p += k + 1, n -= k + 1;
	}
	return true;
}

static bool take_body(struct http_in *r, const char *p, size_t n)
{
	if (r->events)
		return take_events(r, p, n);
	if (n > HTTP_MAX_BODY - r->body.n)
		return fail(r, "the body is too long");
	return buf_append(&r->body, p, n) || fail(r, "out of memory");
}

/* ---- the head --------------------------------------------------------------------------------------------------------- */

static bool status_line(struct http_in *r, const char *p)
{
	if (strncmp(p, "HTTP/1.", 7) || (p[7] != '0' && p[7] != '1') || p[8] != ' ')
		return fail(r, "this is no HTTP/1.1 answer");
	r->keep = p[7] == '1';
	r->status = 0;
	for (int i = 9; i < 12; i++) {
		if (p[i] < '0' || p[i] > '9')
			return fail(r, "the status is no number");
		r->status = 10 * r->status + p[i] - '0';
	}
	if (p[12] && p[12] != ' ')
		return fail(r, "the status is no number of three digits");
	r->at = HTTP_HEADER;
	return true;
}

/* Digits of base 10 or 16, and nothing else up to the end or stop. */
static bool number(const char *p, unsigned base, char stop, uint64_t *out)
{
	uint64_t v = 0;
	const char *start = p;
	for (;; p++) {
		unsigned d = *p >= '0' && *p <= '9' ? (unsigned)(*p - '0') : (*p | 32) >= 'a' && (*p | 32) <= 'f' ? (unsigned)((*p | 32) - 'a' + 10) : 99;
		if (d >= base)
			break;
		if (__builtin_mul_overflow(v, (uint64_t)base, &v) || __builtin_add_overflow(v, (uint64_t)d, &v))
			return false;
	}
	while (p > start && (*p == ' ' || *p == '\t'))
		p++;
	*out = v;
	return p > start && (!*p || *p == stop);
}

static bool header_line(struct http_in *r, char *p)
{
	char *value = strchr(p, ':');
	if (!value)
		return fail(r, "a header has no colon");
	*value++ = 0;
	value += strspn(value, " \t");
	if (!strcasecmp(p, "content-length")) {
		uint64_t n;
		if (!number(value, 10, 0, &n) || (r->has_length && n != r->left))
			return fail(r, "the content length is no number, or two");
		r->has_length = true;
		r->left = n;
	} else if (!strcasecmp(p, "transfer-encoding")) {
		if (strcasecmp(value, "chunked"))
			return fail(r, "the body has an encoding that is not \"chunked\"");
		r->chunked = true;
	} else if (!strcasecmp(p, "content-type")) {
		r->events = !strncasecmp(value, "text/event-stream", 17);
	} else if (!strcasecmp(p, "connection")) {
		r->keep = strcasestr(value, "close") ? false : strcasestr(value, "keep-alive") ? true : r->keep;
	}
	return true;
}

static bool end_of_head(struct http_in *r)
{
	r->n_header = 0;
	if (r->status >= 100 && r->status < 200) { /* 100 Continue: the answer is still to come */
		r->at = HTTP_STATUS;
		return true;
	}
	if (r->chunked)
		r->at = HTTP_CHUNK_SIZE;
	else if (r->status == 204 || r->status == 304 || (r->has_length && !r->left))
		r->at = HTTP_WHOLE;
	else
		r->at = r->has_length ? HTTP_LENGTH : HTTP_UNTIL_CLOSE;
	return true;
}

/* One line of the head, of a chunk's frame or of the trailers, without its end. */
static bool frame_line(struct http_in *r, char *p, size_t n)
{
	if (strlen(p) != n)
		return fail(r, "there is a NUL in the head");
	switch (r->at) {
	case HTTP_STATUS:
		return status_line(r, p);
	case HTTP_HEADER:
		return n ? header_line(r, p) : end_of_head(r);
	case HTTP_CHUNK_SIZE:
		if (!number(p, 16, ';', &r->left))
			return fail(r, "a chunk has no size");
		r->at = r->left ? HTTP_CHUNK : HTTP_TRAILER;
		return true;
	case HTTP_CHUNK_END:
		r->at = HTTP_CHUNK_SIZE;
		return n == 0 || fail(r, "a chunk is longer than its size");
	default: /* HTTP_TRAILER */
		if (!n)
			r->at = HTTP_WHOLE;
		return true;
	}
}

/* Takes bytes up to the end of a line.  Returns how many, or 0: fail. */
static size_t take_line(struct http_in *r, const char *p, size_t n)
{
	const char *end = memchr(p, '\n', n);
	size_t k = end ? (size_t)(end - p) : n;
	r->n_header = r->at == HTTP_CHUNK_SIZE || r->at == HTTP_CHUNK_END ? r->frame.n + k : r->n_header + k + 1;
	if (r->n_header > HTTP_MAX_HEADER)
		return fail(r, "the head is too long"), 0;
	if (!buf_append(&r->frame, p, k))
		return fail(r, "out of memory"), 0;
	if (!end)
		return k;
	if (r->frame.n && r->frame.p[r->frame.n - 1] == '\r')
		r->frame.p[--r->frame.n] = 0;
	bool ok = frame_line(r, r->frame.p, r->frame.n);
	r->frame.n = 0;
	return ok ? k + 1 : 0;
}

bool http_in_feed(struct http_in *r, const char *p, size_t n)
{
	while (n) {
		size_t k = n;
		switch (r->at) {
		case HTTP_BAD:
			return false;
		case HTTP_WHOLE:
			return fail(r, "there is more than the answer");
		case HTTP_UNTIL_CLOSE:
			if (!take_body(r, p, n))
				return false;
			break;
		case HTTP_LENGTH:
		case HTTP_CHUNK:
			k = r->left < n ? (size_t)r->left : n;
			if (!take_body(r, p, k))
				return false;
			r->left -= k;
			if (!r->left)
				r->at = r->at == HTTP_LENGTH ? HTTP_WHOLE : HTTP_CHUNK_END;
			break;
		default:
			k = take_line(r, p, n);
			if (!k)
				return false;
		}
		p += k;
		n -= k;
	}
	return true;
}

bool http_in_close(struct http_in *r)
{
	if (r->at == HTTP_UNTIL_CLOSE)
		r->at = HTTP_WHOLE;
	r->keep = false;
	return r->at == HTTP_WHOLE || (r->at != HTTP_BAD && fail(r, r->at == HTTP_STATUS ? "the connection was closed before an answer"
	                                                                                    : "the connection was closed within the answer"));
}
