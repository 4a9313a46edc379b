/* synth.c - `moxie synth`: a random checkpoint on disk. */
#include "cli.h"
#include "progress.h"

static int on_progress(void *ud, const char *stage, uint64_t done, uint64_t all)
{
	(void)stage;
	progress_show(ud, done, all, NULL);
	return interrupted;
}

int synth_main(struct opts *o)
{
	if (o->list) {
		for (int i = 0; moxie_config_name(i); i++)
			puts(moxie_config_name(i));
		return 0;
	}
	if (o->n_arg != 2)
		return bad_input("%s; usage: moxie synth CONFIG OUTDIR (moxie synth --list names configs)",
		                 o->n_arg < 2 ? "CONFIG and OUTDIR are missing" : "too many arguments");
	struct moxie_err err = { 0 };
	struct progress bar;
	catch_interrupt(false);
	progress_begin(&bar, "writing", true);
	int rc = moxie_synth(o->arg[0], o->arg[1], o->seed, o->n_thread, on_progress, &bar, &err);
	progress_end(&bar);
	if (rc)
		return lib_error(&err);
	printf("%s: a random checkpoint of %s, seed %llu\n", o->arg[1], o->arg[0], (unsigned long long)o->seed);
	return 0;
}
