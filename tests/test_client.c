/* test_client.c - the client of `moxie bench serving`: answers in any pieces, connections that end, servers that misbehave. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"
#include "test.h"

/* ---- the reader -------------------------------------------------------------------------------------------------------- */

static struct buf heard; /* every event, then the body: what must not depend on the pieces */

static void hear(void *ud, const char *data, size_t n)
{
	(void)ud;
	CHECK(buf_printf(&heard, "<%zu:%.*s>", n, (int)n, data), "memory");
}

static void hear_end(const struct http_in *r, bool whole)
{
	CHECK(buf_printf(&heard, "|%d %d %d %d|%.*s|%s", r->status, r->keep, r->events, whole, (int)r->body.n, r->body.p ? r->body.p : "",
	                 r->at == HTTP_BAD ? r->bad : ""), "memory");
}

/* Feeds text cut at the places where cut[] says so; close tells the end. */
static const char *read_pieces(const char *text, size_t n, const size_t *cut, int n_cut, bool end)
{
	struct http_in r = { .on_event = hear };
	heard.n = 0;
	http_in_reset(&r);
	size_t at = 0;
	bool ok = true;
	for (int i = 0; i <= n_cut && ok; i++) {
		size_t to = i < n_cut ? cut[i] : n;
		ok = http_in_feed(&r, text + at, to - at);
		at = to;
	}
	bool whole = r.at == HTTP_WHOLE || (end && ok && http_in_close(&r));
	hear_end(&r, whole);
	http_in_free(&r);
	return heard.p;
}

static const char *const answers[] = {
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
	"HTTP/1.0 200 OK\r\n\r\nuntil the end",
	"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
	"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many\r\ncontent-length:2\r\nRetry-After: 1\r\n\r\n{}",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n1\r\ne\r\n0\r\nTrailer: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
	"b\r\ndata: {\"a\":\r\n6\r\n1}\n\nda\r\n7\r\nta:x\r\n\r\r\n5\r\n\n: c\n\r\n15\r\ndata: one\ndata: two\n\r\n1\r\n\n\r\n10\r\ndata: [DONE]\r\n\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: \xe2\x82\xac\r\rdata:\n\nevent: x\nid: 4\n\ndata: not ended",
	"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut short",
	"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
	"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nab",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcdef\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK",
	"SSH-2.0-OpenSSH_9.2\r\n",
	"HTTP/1.1 20x\r\n\r\n",
	"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
};

TEST(any_pieces)
{
	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		size_t n = strlen(answers[i]), cut[3], all[512];
		char *want = strdup(read_pieces(answers[i], n, NULL, 0, true));
		CHECK(n < 512, "%zu", n);
		for (size_t k = 0; k < n; k++)
			all[k] = k;
		const char *got = read_pieces(answers[i], n, all, (int)n, true);
		CHECK(!strcmp(got, want), "answer %zu byte by byte: %s, whole: %s", i, got, want);
		for (cut[0] = 0; cut[0] <= n; cut[0]++)
			for (cut[1] = cut[0]; cut[1] <= n; cut[1]++) {
				got = read_pieces(answers[i], n, cut, 2, true);
				CHECK(!strcmp(got, want), "answer %zu cut at %zu and %zu: %s, whole: %s", i, cut[0], cut[1], got, want);
			}
		free(want);
	}
}

TEST(what_is_read)
{
	static const char *const want[] = {
		"|200 1 0 1|hello|", "|200 0 0 1|until the end|", "|204 0 0 1||", "|429 1 0 1|{}|", "|200 1 0 1|abcde|",
		"<7:{\"a\":1}><1:x><7:one\ntwo><6:[DONE]>|200 1 1 1||", "<3:\xe2\x82\xac><0:>|200 0 1 1||",
		"|200 0 0 0|cut short|the connection was closed within the answer",
	};
	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		const char *got = read_pieces(answers[i], strlen(answers[i]), NULL, 0, true);
		if (i < sizeof want / sizeof *want)
			CHECK(!strcmp(got, want[i]), "answer %zu: %s, wanted %s", i, got, want[i]);
		else
			CHECK(got[strlen(got) - 1] != '|', "answer %zu passes: %s", i, got);
	}
}

TEST(damaged_answers_in_any_pieces)
{
	char text[512];
	for (int round = 0; round < 100000; round++) {
		const char *from = answers[rnd_int(sizeof answers / sizeof *answers)];
		size_t n = strlen(from), cut[8];
		memcpy(text, from, n);
		for (int k = 1 + rnd_int(3); k > 0; k--)
			text[rnd_int((int)n)] = "\r\n :;0f1xd\x80"[rnd_int(11)];
		int n_cut = rnd_int(8);
		for (int k = 0; k < n_cut; k++)
			cut[k] = (size_t)rnd_int((int)n + 1);
		for (int a = 0; a < n_cut; a++)
			for (int b = a + 1; b < n_cut; b++)
				if (cut[b] < cut[a]) {
					size_t keep = cut[a];
					cut[a] = cut[b], cut[b] = keep;
				}
		char *want = strdup(read_pieces(text, n, NULL, 0, true));
		const char *got = read_pieces(text, n, cut, n_cut, true);
		CHECK(!strcmp(got, want), "round %d: \"%.*s\": %s, whole: %s", round, (int)n, text, got, want);
		free(want);
	}
}

TEST(too_long)
{
	struct http_in r = { .on_event = hear };
	http_in_reset(&r);
	bool ok = http_in_feed(&r, "HTTP/1.1 200 OK\r\n", 17);
	for (int i = 0; i < 100 && ok; i++)
		ok = http_in_feed(&r, "a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
		                  "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
		                  "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
		                  "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
		                  "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
		                  "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
		                  "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\r\n", 709);
	CHECK(!ok && r.at == HTTP_BAD, "a head of 70 kB passes");
	http_in_free(&r);
}

/* ---- the client ---------------------------------------------------------------------------------------------------------- */

/* A server that answers the n-th request with the n-th script, "" closes at once, NULL ends; '!' at its end: closes after it. */
static const char *const *script;
static int listener = -1;
static atomic_int n_accepted, n_requests;

static void *serve(void *arg)
{
	(void)arg;
	int fd = -1, i = 0;
	char in[4096];
	while (script[i]) {
		if (fd < 0) {
			fd = accept(listener, NULL, NULL);
			if (fd < 0)
				return NULL;
			n_accepted++;
		}
		size_t n = 0;
		ssize_t got = 1;
		while (n < sizeof in - 1 && (in[n] = 0, !strstr(in, "\r\n\r\n")) && (got = read(fd, in + n, sizeof in - 1 - n)) > 0)
			n += (size_t)got;
		if (got <= 0) {
			close(fd);
			fd = -1;
			continue;
		}
		n_requests++;
		size_t len = strlen(script[i]);
		bool end = !len || script[i][len - 1] == '!';
		if (len && write(fd, script[i], end ? len - 1 : len) < 0)
			break;
		if (end)
			close(fd), fd = -1;
		i++;
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

static char url[64];
static pthread_t thread;
static void serve_script(const char *const *s)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof a;
	script = s;
	n_accepted = n_requests = 0;
	listener = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(bind(listener, (struct sockaddr *)&a, sizeof a) == 0 && listen(listener, 16) == 0 &&
	      getsockname(listener, (struct sockaddr *)&a, &size) == 0, "no socket");
	snprintf(url, sizeof url, "http://127.0.0.1:%d/base/", ntohs(a.sin_port));
	CHECK(pthread_create(&thread, NULL, serve, NULL) == 0, "no thread");
}

static void serve_end(void)
{
	shutdown(listener, SHUT_RDWR); /* wakes accept */
	pthread_join(thread, NULL);
	close(listener);
}

static char body[256];
static void keep_body(struct call *c) { snprintf(body, sizeof body, "%s", c->answer); }

static struct client *open_client(void)
{
	struct client *c;
	struct moxie_err err = { 0 };
	OK(client_open(&c, url, "key", &err), err);
	return c;
}

static struct call ask(struct client *c)
{
	struct call call = { .path = "/x", .body = "{}", .n_body = 2, .on_done = keep_body, .idle_seconds = 1 };
	body[0] = 0;
	client_wait(c, &call);
	return call;
}

#define OK_AB "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"

TEST(connections_are_kept)
{
	serve_script((const char *const[]){ OK_AB, OK_AB, OK_AB "!", OK_AB, NULL });
	struct client *c = open_client();
	for (int i = 0; i < 4; i++) {
		struct call call = ask(c);
		CHECK(!call.error[0] && call.status == 200 && !strcmp(body, "ab"), "%d: %s", i, call.error);
	}
	client_close(c);
	serve_end();
	CHECK(n_accepted == 2 && n_requests == 4, "%d connections, %d requests", n_accepted, n_requests);
}

TEST(a_kept_connection_that_ended_is_replaced_once)
{
	serve_script((const char *const[]){ OK_AB, "", OK_AB, "", "", NULL });
	struct client *c = open_client();
	CHECK(!ask(c).error[0], "first");
	CHECK(!ask(c).error[0], "sent again after the close");
	struct call call = ask(c); /* the kept one ends, and so does the next: told, not tried for ever */
	CHECK(!strcmp(call.error, "the connection was closed before an answer") && call.status == 0, "%s", call.error);
	client_close(c);
	serve_end();
	CHECK(n_requests == 5, "%d requests", n_requests);
}

TEST(broken_answers_are_told)
{
	static const struct {
		const char *answer, *why;
	} bad[] = {
		{ "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab!", "the connection was closed within the answer" },
		{ "nonsense\r\n", "this is no HTTP/1.1 answer" },
		{ "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", "no byte came for too long" },
	};
	for (size_t i = 0; i < 3; i++) {
		const char *const s[] = { bad[i].answer, i == 2 ? "" : NULL, NULL }; /* the third connection stays open */
		serve_script(s);
		struct client *c = open_client();
		struct call call = ask(c);
		CHECK(!strcmp(call.error, bad[i].why), "%s, wanted %s", call.error, bad[i].why);
		client_close(c);
		serve_end();
	}
}

TEST(nobody_there)
{
	serve_script((const char *const[]){ NULL });
	serve_end();
	struct client *c = open_client();
	struct call call = ask(c);
	CHECK(call.status == 0 && strstr(call.error, "refused"), "%s", call.error);
	client_close(c);
}

TEST(addresses)
{
	static const char *const bad[] = { "", "127.0.0.1:1", "https://a", "http://", "http://:80", "http://a:", "http://a:99x", "http://[::1", "http://a b/",
	                                   "http://a:123456", "unix:", "http://x\r\nEvil: 1", "http://[::1]x" };
	struct client *c;
	struct moxie_err err;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		err = (struct moxie_err){ 0 };
		CHECK(client_open(&c, bad[i], NULL, &err) < 0 && !c && err.text[0], "\"%s\" passes", bad[i]);
	}
	static const char *const good[] = { "http://127.0.0.1", "http://127.0.0.1:80/v1", "http://[::1]:8080", "unix:/tmp/a", "http://localhost:1/" };
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		OK(client_open(&c, good[i], "k", &err), err);
		client_close(c);
	}
	CHECK(client_open(&c, good[0], "a\r\nb", &err) == MOXIE_E_ARG, "a key with a newline passes");
}

TEST_MAIN
