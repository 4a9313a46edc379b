/* tiny.h - the model that engine tests run: the built-in tiny config with random weights, nothing read from disk. */
#ifndef TEST_TINY_H
#define TEST_TINY_H

#include "moxie.h"
#include "test.h"

static struct moxie_err err;

static int tiny_threads = 2; /* 1 where speed matters: beside other programs two threads wait for each other in every op */

/* kv_tokens 0: as many as memory holds. */
static moxie_model *tiny_kv(const char *device, int n_chunk, int n_seq, uint64_t kv_tokens)
{
	moxie_model *m;
	struct moxie_model_params p = { .struct_size = sizeof p, .path = "gpt-oss-tiny", .device = device, .dummy = 1, .dummy_seed = 7,
		.n_chunk = n_chunk, .n_seq = n_seq, .n_thread = tiny_threads, .kv_tokens = kv_tokens };
	int rc = moxie_model_open(&m, &p, &err);
	if (rc == MOXIE_E_UNSUPPORTED)
		SKIP("%s", err.text); /* this processor lacks what the device's name asks for */
	OK(rc, err);
	return m;
}

static inline moxie_model *tiny(const char *device, int n_chunk, int n_seq)
{
	return tiny_kv(device, n_chunk, n_seq, 0);
}

#endif
