#include "base/host.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* The first line of path scanned with fmt into two doubles; returns how many were read. */
static int scan2(const char *path, const char *fmt, double *a, double *b)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return 0;
	char line[256];
	int n = fgets(line, sizeof line, f) ? sscanf(line, fmt, a, b) : 0;
	fclose(f);
	return n;
}

/* Smallest value that `read` finds in this process's cgroup v2 folder or any above it, up to the mount. */
static double cgroup2_min(const char *file, double (*read)(const char *path), double none)
{
	char rel[512] = "/", line[512];
	FILE *f = fopen("/proc/self/cgroup", "re");
	if (f) {
		while (fgets(line, sizeof line, f))
			if (!strncmp(line, "0::", 3)) {
				line[strcspn(line, "\n")] = 0;
				memcpy(rel, line + 3, strlen(line + 3) + 1);
			}
		fclose(f);
	}
	double best = none;
	for (;;) {
		char path[1100];
		snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", rel, file);
		double v = read(path);
		if (v > 0 && v < best)
			best = v;
		char *slash = strrchr(rel, '/');
		if (!slash || !rel[1])
			return best;
		slash[slash == rel ? 1 : 0] = 0;
	}
}

static double read_cpu_max(const char *path)
{
	double quota, period;
	return scan2(path, "%lf %lf", &quota, &period) == 2 && period > 0 ? quota / period : 0; /* "max 100000" scans 0 */
}

static double read_bytes(const char *path)
{
	double v, unused;
	return scan2(path, "%lf%lf", &v, &unused) >= 1 ? v : 0;
}

int host_n_cpu(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
	double cap = cgroup2_min("cpu.max", read_cpu_max, 1e9), quota, period, unused;
	if (scan2("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "%lf%lf", &quota, &unused) >= 1 && quota > 0 &&
	    scan2("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "%lf%lf", &period, &unused) >= 1 && period > 0 && quota / period < cap)
		cap = quota / period;
	if (cap < n)
		n = (int)ceil(cap);
	return n < 1 ? 1 : n;
}

uint64_t host_memory_bytes(void)
{
	double all = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
	double v = cgroup2_min("memory.max", read_bytes, all), v1 = read_bytes("/sys/fs/cgroup/memory/memory.limit_in_bytes");
	return (uint64_t)(v1 > 0 && v1 < v ? v1 : v);
}

uint64_t host_peak_rss_bytes(void)
{
	struct rusage u;
	return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * 1024 : 0;
}

double host_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
