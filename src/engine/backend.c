/* backend.c - which processor runs the ops.  The one place that opens a backend library. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

#define CUDA_LIBRARY "libmoxie-cuda.so.0"
#define CUDA_SYMBOL "moxie_kern_cuda_create" /* same arguments as kern_cuda_create_fn */
#define CUDA_LAYOUT "moxie_kern_cuda_layout"

typedef int kern_cuda_create_fn(struct kern **out, const struct kern_limits *lim, struct moxie_err *err);

/* The CUDA backend is a library of its own, so that this one needs no CUDA to build, link or start.  It stays loaded. */
static int cuda_open(struct kern **out, const struct kern_limits *lim, struct moxie_err *err)
{
	void *lib = dlopen(CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		return err_set(err, MOXIE_E_UNSUPPORTED, "device cuda: %s", dlerror());
	void *symbol = dlsym(lib, CUDA_SYMBOL);
	if (!symbol) {
		dlclose(lib);
		return err_set(err, MOXIE_E_UNSUPPORTED, "device cuda: %s has kernels but no whole-model backend (%s)", CUDA_LIBRARY, CUDA_SYMBOL);
	}
	const uint32_t *layout = dlsym(lib, CUDA_LAYOUT);
	if (!layout || *layout != KERN_LAYOUT) {
		dlclose(lib);
		return err_set(err, MOXIE_E_UNSUPPORTED, "device cuda: %s belongs to another version: its op table is %#x, wanted %#x", CUDA_LIBRARY,
		               layout ? *layout : 0, KERN_LAYOUT);
	}
	kern_cuda_create_fn *create;
	memcpy(&create, &symbol, sizeof create); /* ISO C has no cast from data to function pointers */
	return create(out, lim, err);
}

/* "cuda", or for tests "cuda:" and a list of portable, shared=<KiB>, memory=<GiB>: see struct kern_cap.  false: neither. */
static bool cuda_name(const char *s, struct kern_cap *cap)
{
	*cap = (struct kern_cap){ 0 };
	if (strncmp(s, "cuda", 4))
		return false;
	for (s += 4; *s;) {
		int n = 0;
		unsigned v = 0;
		if (*s != ':' && *s != ',')
			return false;
		s++;
		if (!strncmp(s, "portable", 8))
			cap->portable = true, n = 8;
		else if (sscanf(s, "shared=%5u%n", &v, &n) == 1 && n)
			cap->shared = v * 1024;
		else if (sscanf(s, "memory=%5u%n", &v, &n) == 1 && n)
			cap->memory = (uint64_t)v << 30;
		else
			return false;
		s += n;
	}
	return true;
}

bool backend_is_device(const char *device)
{
	struct kern_cap cap;
	if (device && *device && strcmp(device, "auto"))
		return cuda_name(device, &cap);
	return access("/dev/nvidiactl", F_OK) == 0 && dlopen(CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

int backend_open(struct kern **out, const char *device, const struct kern_limits *lim, int n_thread, struct moxie_err *err)
{
	static const struct {
		const char *name;
		enum cpu_isa isa;
	} cpu[] = { { "cpu", CPU_AUTO }, { "cpu:ref", CPU_REF }, { "cpu:avx2", CPU_AVX2 }, { "cpu:avx512", CPU_AVX512 }, { "cpu:amx", CPU_AMX } };

	*out = NULL;
	bool any = !device || !*device || !strcmp(device, "auto");
	if (any && access("/dev/nvidiactl", F_OK) == 0 && cuda_open(out, lim, NULL) == 0)
		return 0;
	struct kern_limits less = *lim;
	if (!any && cuda_name(device, &less.cap))
		return cuda_open(out, &less, err);
	for (size_t i = 0; i < sizeof cpu / sizeof *cpu; i++)
		if (!strcmp(any ? "cpu" : device, cpu[i].name))
			return kern_cpu_create(out, lim, cpu[i].isa, n_thread, err);
	return err_set(err, MOXIE_E_UNSUPPORTED, "device %s is unknown; there are auto, cpu, cpu:ref, cpu:avx2, cpu:avx512, cpu:amx and cuda", device);
}
