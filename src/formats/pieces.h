/* pieces.h - a long run of bytes worked on piece by piece by several threads, with progress and a way to stop. */
#ifndef MOXIE_FORMATS_PIECES_H
#define MOXIE_FORMATS_PIECES_H

#include "base/err.h"

/* Calls work(ctx, at, n, &e) once for each piece [at, at + n) of [0, n_all), n <= step, from up to n_thread threads.
 * progress (may be NULL) is called by one thread at a time; non-zero stops the work with MOXIE_E_CANCELLED.
 * The first failure ends all and is returned.  Fewer threads than asked for do the same work. */
int pieces_run(uint64_t n_all, size_t step, int n_thread, int (*work)(void *ctx, uint64_t at, size_t n, struct moxie_err *err), void *ctx,
               int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud, struct moxie_err *err);

#endif
