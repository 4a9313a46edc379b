/* http_in.h - an HTTP/1.1 answer read as its bytes come: any split of the bytes gives the same calls.
 *
 * Knows what servers of language models send: a body by length, by chunks or until the connection closes, and in it, when the
 * type is text/event-stream, server-sent events.
 */
#ifndef MOXIE_CLIENT_HTTP_IN_H
#define MOXIE_CLIENT_HTTP_IN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/vec.h"

#define HTTP_MAX_HEADER (64 << 10) /* bytes of the head, of one trailer, of a chunk's first line */
#define HTTP_MAX_BODY (256u << 20)  /* bytes of a body that is not a stream, of one event */

enum http_in_at {
	HTTP_STATUS, HTTP_HEADER, HTTP_LENGTH, HTTP_UNTIL_CLOSE, HTTP_CHUNK_SIZE, HTTP_CHUNK, HTTP_CHUNK_END, HTTP_TRAILER,
	HTTP_WHOLE, HTTP_BAD
};

struct http_in {
	enum http_in_at at;
	int status;
	bool keep;           /* the connection may carry another request */
	bool events;         /* the body is a stream of events */
	const char *bad;     /* at HTTP_BAD: why */
	struct buf body;     /* what came that is no event */

	/* The data of one event, NUL-terminated; borrowed for the call.  An event's lines are joined by newlines. */
	void (*on_event)(void *ud, const char *data, size_t n);
	void *ud;

	/* inside */
	struct buf line, frame, event; /* line: of events, frame: of the head and around chunks */
	size_t n_header;
	uint64_t left;       /* bytes of the body, or of its chunk, that are still to come */
	bool chunked, has_length, has_event, after_cr;
};

/* Ready for the next answer; buffers are kept. */
void http_in_reset(struct http_in *r);
void http_in_free(struct http_in *r);
/* Reads n more bytes.  false: r->at is HTTP_BAD.  Bytes behind a whole answer are an error: nobody asked for them. */
bool http_in_feed(struct http_in *r, const char *p, size_t n);
/* The connection has ended.  true: the answer is whole. */
bool http_in_close(struct http_in *r);

#endif
