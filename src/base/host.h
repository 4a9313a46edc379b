/* host.h - what the machine gives us: processors we may use, memory, a clock. */
#ifndef MOXIE_BASE_HOST_H
#define MOXIE_BASE_HOST_H

#include <stdint.h>

/* Processors this process may really use: the affinity mask, capped by the cgroup's CPU quota (v1 and v2),
 * rounded up; at least 1.  A container given 2 of 64 cores gets 2 threads, not 64. */
int host_n_cpu(void);

/* Bytes this process may take: physical memory, capped by the cgroup's limit. */
uint64_t host_memory_bytes(void);

/* Largest resident set so far, bytes. */
uint64_t host_peak_rss_bytes(void);

/* Monotonic seconds. */
double host_now(void);

#endif
