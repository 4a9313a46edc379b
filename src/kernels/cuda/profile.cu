/* profile.cu - where a step's time goes: start and end of every launch, as CUPTI saw them.
 *
 * Kernels overlap (programmatic dependent launch), so durations add up to more than the time that passed.  What is counted here
 * is how far each launch moved the end of all work so far, and the time in which nothing ran: that adds up.
 * CUPTI is opened by name when someone asks; it costs some microseconds a launch while it watches.   Shown by: moxie bench latency --profile
 */
#if __has_include(<cupti.h>)
#include <cupti.h>
#endif
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#ifndef CUPTI_API_VERSION /* this toolkit came without it */

int cuda_profile_begin(struct kern *, struct moxie_err *err) { return err_set(err, MOXIE_E_UNSUPPORTED, "no profile: built without CUPTI"); }
int cuda_profile_end(struct kern *, struct kern_time *, int, struct moxie_err *) { return 0; }

#else

#define FUNCTIONS(F) \
	F(cuptiActivityRegisterCallbacks) F(cuptiActivityEnable) F(cuptiActivityDisable) F(cuptiActivityFlushAll) F(cuptiActivityGetNextRecord) F(cuptiGetVersion)

constexpr size_t BUFFER_BYTES = 4 << 20;

struct launch {
	uint64_t start, end;
	const char *name;
};

static struct {
	void *so;
#define F(name) decltype(&::name) name;
	FUNCTIONS(F)
#undef F
	struct launch *launch;
	size_t n, cap;
	bool lost; /* memory was short */
} watch; /* CUPTI's callbacks know no owner, and watch the whole process */

static void CUPTIAPI want_buffer(uint8_t **buffer, size_t *n_bytes, size_t *n_record)
{
	*buffer = (uint8_t *)aligned_alloc(8, BUFFER_BYTES);
	*n_bytes = *buffer ? BUFFER_BYTES : 0;
	*n_record = 0;
}

static void keep(uint64_t start, uint64_t end, const char *name)
{
	if (watch.n == watch.cap) {
		size_t cap = watch.cap ? 2 * watch.cap : 4096;
		struct launch *p = (struct launch *)realloc(watch.launch, cap * sizeof *p);
		if (!p) {
			watch.lost = true;
			return;
		}
		watch.launch = p;
		watch.cap = cap;
	}
	watch.launch[watch.n++] = { start, end, name };
}

static void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t *buffer, size_t, size_t n_valid)
{
	CUpti_Activity *r = NULL;
	while (buffer && watch.cuptiActivityGetNextRecord(buffer, n_valid, &r) == CUPTI_SUCCESS) {
		if (r->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
			const CUpti_ActivityKernel10 *k = (const CUpti_ActivityKernel10 *)r;
			keep(k->start, k->end, k->name);
		} else if (r->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
			const CUpti_ActivityMemcpy6 *c = (const CUpti_ActivityMemcpy6 *)r;
			keep(c->start, c->end, c->copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ? "copy to the device" : "copy to the host");
		}
	}
	free(buffer);
}

static bool load(void)
{
	if (watch.so)
		return true;
	bool ok = (watch.so = dlopen("libcupti.so.13", RTLD_NOW | RTLD_LOCAL)) || (watch.so = dlopen("libcupti.so", RTLD_NOW | RTLD_LOCAL));
#define F(name) ok = ok && (watch.name = reinterpret_cast<decltype(&::name)>(dlsym(watch.so, #name))) != NULL;
	FUNCTIONS(F)
#undef F
	uint32_t version = 0;
	ok = ok && watch.cuptiGetVersion(&version) == CUPTI_SUCCESS && version / 10000 == CUPTI_API_VERSION / 10000 &&
	     watch.cuptiActivityRegisterCallbacks(want_buffer, take_buffer) == CUPTI_SUCCESS;
	if (!ok && watch.so) {
		dlclose(watch.so);
		watch.so = NULL;
	}
	return ok;
}

int cuda_profile_begin(struct kern *k, struct moxie_err *err)
{
	if (!load())
		return err_set(err, MOXIE_E_UNSUPPORTED, "no profile: libcupti.so.13 was not found, or is of another version");
	int rc = k->sync(k, err);
	watch.n = 0;
	watch.lost = false;
	if (rc == 0 && (watch.cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) || watch.cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY)))
		return err_set(err, MOXIE_E_UNSUPPORTED, "no profile: CUPTI cannot watch this device");
	return rc;
}

static int by_start(const void *a, const void *b)
{
	const uint64_t x = ((const struct launch *)a)->start, y = ((const struct launch *)b)->start;
	return (x > y) - (x < y);
}

static int by_time(const void *a, const void *b)
{
	const double x = ((const struct kern_time *)a)->us, y = ((const struct kern_time *)b)->us;
	return (x < y) - (x > y);
}

static void add(struct kern_time *row, int *n, int most, const char *name, double us, int n_launch)
{
	int i = 0;
	while (i < *n && strcmp(row[i].name, name))
		i++;
	if (i == most)
		i = most - 1; /* the last row takes what has no other */
	if (i == *n)
		row[(*n)++] = { name, 0, 0 };
	row[i].us += us;
	row[i].n += n_launch;
}

int cuda_profile_end(struct kern *k, struct kern_time *row, int most, struct moxie_err *err)
{
	int n = 0, rc = k->sync(k, err);
	watch.cuptiActivityFlushAll(0);
	watch.cuptiActivityDisable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
	watch.cuptiActivityDisable(CUPTI_ACTIVITY_KIND_MEMCPY);
	if (rc < 0)
		return rc;
	if (watch.lost)
		return err_set(err, MOXIE_E_NOMEM, "the profile of %zu launches did not fit in memory", watch.n);
	qsort(watch.launch, watch.n, sizeof *watch.launch, by_start);
	uint64_t last = watch.n ? watch.launch[0].start : 0;
	for (size_t i = 0; i < watch.n; i++) {
		const struct launch *l = &watch.launch[i];
		if (l->start > last) {
			add(row, &n, most, "(nothing runs)", (double)(l->start - last) * 1e-3, 1);
			last = l->start;
		}
		add(row, &n, most, l->name, l->end > last ? (double)(l->end - last) * 1e-3 : 0, 1);
		last = l->end > last ? l->end : last;
	}
	qsort(row, (size_t)n, sizeof *row, by_time);
	return n;
}

#endif
