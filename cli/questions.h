/* questions.h - the files that `moxie eval` reads, and what counts as a right answer. */
#ifndef CLI_QUESTIONS_H
#define CLI_QUESTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct question {
	char *prompt; /* what the model is asked */
	char *gold;   /* the right answer: a number, or a letter */
	char *says;   /* wordmath: the right answer's sentence, or NULL */
};

/* One kind of file.  right() also writes what it took for the answer. */
struct task {
	const char *name;
	bool (*right)(const struct question *q, const char *final, char *taken, size_t cap);
};
const struct task *task_by_name(const char *name); /* NULL: unknown */

/* Reads at most limit (0: all) questions.  seed shuffles the choices of gpqa.  Returns 0 or an exit code, having said why. */
int questions_read(const struct task *t, const char *path, int limit, uint64_t seed, struct question **out, int *n);
void questions_free(struct question *q, int n);

#endif
