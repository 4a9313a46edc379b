#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli.h"

void progress_begin(struct progress *p, const char *what, bool bytes)
{
	*p = (struct progress){ .tty = isatty(STDERR_FILENO), .bytes = bytes, .start = now() };
	snprintf(p->what, sizeof p->what, "%s", what);
}

static int term_width(void)
{
	struct winsize w;
	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 ? w.ws_col : 80;
}

static void describe(const struct progress *p, uint64_t done, uint64_t all, const char *note, char *out, size_t cap)
{
	double t = now() - p->start, left = done ? t * (double)(all - done) / (double)done : 0;
	char a[32], b[32], rate[32];
	int n;
	if (p->bytes)
		n = snprintf(out, cap, "%s of %s  %s/s", human_bytes(done, a), human_bytes(all, b),
		             human_bytes((uint64_t)((double)done / (t + 1e-9)), rate));
	else
		n = snprintf(out, cap, "%llu of %llu", (unsigned long long)done, (unsigned long long)all);
	if (done < all && n < (int)cap)
		n += snprintf(out + n, cap - (size_t)n, "  %.0f s left", left);
	if (note && n < (int)cap)
		snprintf(out + n, cap - (size_t)n, "  %s", note);
}

void progress_show(struct progress *p, uint64_t done, uint64_t all, const char *note)
{
	double t = now();
	if (!all || t - p->start < (p->tty ? 0.3 : 1.0))
		return;
	if (done > all)
		done = all;
	char text[160];
	if (!p->tty) {
		int tenth = (int)(done * 10 / all);
		if (tenth == p->tenth)
			return;
		p->tenth = tenth;
		describe(p, done, all, note, text, sizeof text);
		fprintf(stderr, "%s: %d %%  %s\n", p->what, tenth * 10, text);
		return;
	}
	if (done < all && t - p->last < 0.1)
		return;
	p->last = t;
	p->shown = true;
	describe(p, done, all, note, text, sizeof text);
	int width = term_width(), bar = width - (int)strlen(p->what) - (int)strlen(text) - 12;
	if (bar > 30)
		bar = 30;
	char fill[32] = "";
	for (int i = 0; i < bar; i++)
		fill[i] = (uint64_t)i * all < done * (uint64_t)bar ? '#' : '.', fill[i + 1] = 0;
	char line[512];
	snprintf(line, sizeof line, "%s [%s] %3d %%  %s", p->what, fill, (int)(done * 100 / all), text);
	fprintf(stderr, "\r\033[K%.*s", width - 1, line);
	fflush(stderr);
}

void progress_end(struct progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr), fflush(stderr);
	p->shown = false;
}
