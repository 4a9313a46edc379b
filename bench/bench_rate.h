/* bench_rate.h - what the machine can do: the two numbers that every op is held against. */
#ifndef BENCH_RATE_H
#define BENCH_RATE_H

#include <stddef.h>

#include "kernels/kernels.h"

/* Bytes per second that n_thread threads read from buf (much larger than the last cache) with the widest loads there are. */
double bench_read_rate(const void *buf, size_t bytes, int n_thread);

/* Flops per second of the instruction that isa's panels are made of, from registers: FMA fp32, VDPBF16PS or TDPBF16PS.
 * 0 for the reference.  *what names it. */
double bench_flop_rate(enum cpu_isa isa, int n_thread, const char **what);

#endif
