#include "bench/bench_read.h"

#include <stdint.h>
#include <sys/mman.h>

#include "bench/bench_rate.h"

double bench_read_bandwidth(int n_thread)
{
	size_t n = (size_t)1 << 30;
	uint8_t *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 0;
	madvise(p, n, MADV_HUGEPAGE); /* as the kernel may do for weights; a refusal is no matter */
#pragma omp parallel for num_threads(n_thread)
	for (size_t i = 0; i < n; i += 64)
		p[i] = (uint8_t)(i >> 6);
	double rate = bench_read_rate(p, n, n_thread);
	munmap(p, n);
	return rate;
}
