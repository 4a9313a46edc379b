/* bench_ops.h - `moxie bench op [NAME...] [--threads N] [--isa NAME] [--json FILE] [--seconds S]`: every CPU op with the dimensions of
 * gpt-oss-20b, against the read bandwidth and the multiply rate that the same run measures with the same threads. */
#ifndef BENCH_OPS_H
#define BENCH_OPS_H

int bench_ops_main(int argc, char **argv);

#endif
