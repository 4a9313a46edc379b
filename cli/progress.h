/* progress.h - how far a long piece of work has come, on stderr: a bar on a terminal, else a plain line every 10 %. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	char what[48];
	bool tty, bytes;      /* bytes: done and all are shown as such, with a rate */
	bool shown;
	double start, last;
	int tenth;            /* of the last plain line */
};

void progress_begin(struct progress *p, const char *what, bool bytes);
/* note (may be NULL) stands at the end of the line.  Work under 0.3 s never shows. */
void progress_show(struct progress *p, uint64_t done, uint64_t all, const char *note);
void progress_end(struct progress *p); /* clears the bar */

#endif
