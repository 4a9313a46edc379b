/* tiny.h - the model that engine tests run: the built-in tiny config with random weights, nothing read from disk. */
#ifndef TEST_TINY_H
#define TEST_TINY_H

#include "moxie.h"
#include "test.h"

static struct moxie_err err;

/* kv_tokens 0: as many as memory holds. */
static moxie_model *tiny_kv(const char *device, int n_chunk, int n_seq, uint64_t kv_tokens)
{
	moxie_model *m;
	struct moxie_model_params p = { .struct_size = sizeof p, .path = "gpt-oss-tiny", .device = device, .dummy = 1, .dummy_seed = 7,
		.n_chunk = n_chunk, .n_seq = n_seq, .n_thread = 2, .kv_tokens = kv_tokens };
	OK(moxie_model_open(&m, &p, &err), err);
	return m;
}

static inline moxie_model *tiny(const char *device, int n_chunk, int n_seq)
{
	return tiny_kv(device, n_chunk, n_seq, 0);
}

#endif
