/* bench_ops.h - what the command sees of the kernel bench. */
#ifndef BENCH_OPS_H
#define BENCH_OPS_H

/* `moxie bench op [NAME]`: argv[0] is "op".  Returns an exit code. */
int bench_ops_main(int argc, char **argv);

/* Bytes a second that n_thread (0: all) threads read from memory, measured now. */
double bench_read_bandwidth(int n_thread);

#endif
