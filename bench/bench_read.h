/* bench_read.h - the floor of decoding: how fast this machine's memory can be read. */
#ifndef BENCH_READ_H
#define BENCH_READ_H

/* Bytes a second that n_thread threads read from 1 GiB of memory, measured now; 0: there is no memory for it. */
double bench_read_bandwidth(int n_thread);

#endif
