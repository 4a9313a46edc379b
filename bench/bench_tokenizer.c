#include "bench_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/tokenizer.h"

/* Seconds of processor time: one thread's work does not depend on what else the machine does. */
static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

enum { LINE = 4096 }; /* bytes of one text when the file is cut into prompts */

static char *read_text(const char *path, size_t *n)
{
	char *p = NULL;
	long end;
	FILE *f = fopen(path, "rb");
	if (f && fseek(f, 0, SEEK_END) == 0 && (end = ftell(f)) > 0 && (p = malloc((size_t)end))) {
		rewind(f);
		*n = fread(p, 1, (size_t)end, f);
	}
	if (f)
		fclose(f);
	return p;
}

/* Best MB/s within seconds over texts of at most chunk bytes, cut at line ends.  < 0: failed, err says why. */
static double encode_rate(const struct tokenizer *t, const char *p, size_t n, size_t chunk, double seconds, struct ids *ids,
                          struct moxie_err *err)
{
	double best = 0, stop = now() + seconds;
	do {
		double start = now();
		ids->n = 0;
		for (size_t i = 0; i < n;) {
			size_t len = n - i < chunk ? n - i : chunk;
			while (i + len < n && p[i + len - 1] != '\n')
				len++;
			if (tokenizer_encode(t, p + i, len, false, ids, err))
				return -1;
			i += len;
		}
		double rate = (double)n / (now() - start) / 1e6;
		best = rate > best ? rate : best;
	} while (now() < stop);
	return best;
}

int bench_tokenizer_main(int argc, char **argv)
{
	struct moxie_err err;
	struct tokenizer *t = NULL;
	struct ids ids = { 0 };
	struct buf back = { 0 };
	struct detok d = { 0 };
	size_t n = 0;
	int rc = 1;
	double seconds = argc == 5 && !strcmp(argv[3], "--seconds") ? atof(argv[4]) : 2;
	if (argc != 3 && !(argc == 5 && seconds > 0)) {
		fprintf(stderr, "usage: moxie bench tokenizer TOKENIZER.JSON TEXT [--seconds S]\n");
		return 2;
	}
	char *text = read_text(argv[2], &n);
	double start = now();
	if (!text || tokenizer_open(&t, argv[1], &err)) {
		fprintf(stderr, "%s\n", text ? err.text : "the text cannot be read");
		goto out;
	}
	printf("load    %.3f s, %d ids\n", now() - start, tokenizer_n_vocab(t));
	double whole = encode_rate(t, text, n, n, seconds, &ids, &err);
	double prompts = whole < 0 ? -1 : encode_rate(t, text, n, LINE, seconds, &ids, &err);
	if (prompts < 0) {
		fprintf(stderr, "%s\n", err.text);
		goto out;
	}
	printf("encode  %.1f MB/s whole, %.1f MB/s in texts of 4 KB; %zu bytes, %.2f bytes per id\n", whole, prompts, n,
	       (double)n / (double)ids.n);
	start = now();
	for (size_t i = 0; i < ids.n; i++)
		if (detok_push(&d, t, ids.v[i], true, &back))
			goto out;
	printf("decode  %.1f MB/s\n", (double)back.n / (now() - start) / 1e6);
	rc = back.n == n && !memcmp(back.p, text, n) ? 0 : 1;
	if (rc)
		fprintf(stderr, "the ids do not decode to the text\n");
out:
	free(text);
	ids_free(&ids);
	buf_free(&back);
	tokenizer_free(t);
	return rc;
}
