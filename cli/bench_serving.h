/* bench_serving.h - `moxie bench serving`: what is measured of each request, and what is told of all. */
#ifndef CLI_BENCH_SERVING_H
#define CLI_BENCH_SERVING_H

#include "cli.h"

/* One request's result; times in seconds. */
struct served {
	bool ok;
	double start;            /* of the monotonic clock */
	double ttft, latency;
	int n_in, n_out;         /* tokens, as the server counts them; what was asked for if it does not say */
	int n_cached;
	float *itl;              /* [n_itl]: gaps between tokens */
	int n_itl, cap_itl;
	struct text text;        /* kept only for --output-details */
	char error[200];
};

struct serving {
	const struct opts *o;
	struct served *r;        /* [n] */
	int n;
	double duration;
	char *server_info;       /* JSON, or NULL */
	double accept_length;    /* < 0: the server does not say */
};

/* Prints the report; appends the row to o->output if given.  Returns 0 or an exit code. */
int serving_report(const struct serving *s);

#endif
