/* load.h - what the load tests share: requests whose answers are known, a server's numbers. */
#ifndef TESTS_LOAD_H
#define TESTS_LOAD_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/host.h"
#include "client/client.h"

struct load {
	const char *url;
	struct client *client;
	int n, width, slow;      /* requests or closes; how many at once; slow clients of each kind */
	double seconds;          /* 0: by n */
	int load;                /* per cent of what the server can do; 0: all */
	int pid;                 /* of the server; 0: unknown */
	uint64_t rng;
};

uint64_t draw(struct load *l, uint64_t below);
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *fmt, ...);

/* One kind of request: always the same body, so always the same answer. */
struct kind {
	const char *path;
	char *body;
	bool stream;
	char *want;              /* the answer when it was asked alone: text|finish|tokens */
};
/* n kinds: chats, completions, native requests; short, long and with shared beginnings; greedy and seeded; streamed and whole. */
struct kind *kinds_make(struct load *l, int n);
/* Asks each alone and keeps the answers. */
void kinds_ask_alone(struct load *l, struct kind *k, int n);
void kinds_free(struct kind *k, int n);

/* One request of a kind under way, and its verdict. */
struct asked {
	struct call call;
	const struct kind *kind;
	struct buf text;
	char finish[32];
	int n_tok;
	bool done_mark;
	void (*on_end)(struct asked *a);
	void *ud;
};
enum verdict { RIGHT, WRONG, LOST, REFUSED, SERVER_ERROR, CLIENT_ERROR, N_VERDICT }; /* REFUSED: 429 or 503 */
extern const char *const verdict_name[N_VERDICT];
/* In on_end: what came of it, told on stderr unless RIGHT or REFUSED. */
enum verdict ask_verdict(struct asked *a);
void ask_start(struct load *l, struct asked *a, const struct kind *k);

/* A value of /metrics; dies if there is none. */
double metric(struct load *l, const char *name);
/* Waits for nothing to run or wait; returns the seconds that took. */
double wait_idle(struct load *l, double at_most);

/* Pages of the KV cache that neither are free nor belong to the prefix cache: 0 when nothing runs. */
double pages_lost(struct load *l);

long rss_kb(int pid);
int n_fd(int pid);

int equal_main(struct load *l);
int leave_main(struct load *l);
int slow_main(struct load *l);
int soak_main(struct load *l);

#endif
