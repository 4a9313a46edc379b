/* synth_int.h - what synth.c and synth_write.c share. */
#ifndef MOXIE_FORMATS_SYNTH_INT_H
#define MOXIE_FORMATS_SYNTH_INT_H

#include "base/vec.h"
#include "formats/config.h"

#define SYNTH_STEP (2u << 20) /* bytes made at once by one thread */

/* Tensors first .. first + n - 1 of the config's table (as far as it goes), laid out one after another. */
struct synth_span {
	const struct model_config *config;
	uint64_t seed;
	size_t first, n;
};

uint64_t synth_tensor_bytes(const struct tensor_want *t);

/* Bytes [at, at + n) of tensor t: a function of (seed, name, position). */
void synth_fill_part(const struct tensor_want *t, uint64_t seed, uint64_t at, uint8_t *p, size_t n);

/* Appends the length and the JSON of a safetensors file of these tensors; *n_data bytes follow it. */
int synth_header(const struct synth_span *s, struct buf *out, uint64_t *n_data, struct moxie_err *err);

/* Bytes [at, at + n) of its data. */
void synth_fill_data(const struct synth_span *s, uint64_t at, uint8_t *p, size_t n);

/* The special tokens of harmony that a random checkpoint of n_vocab ids has: published ids where they fit, else right after
 * the 256 byte tokens. */
#define SYNTH_VOCAB_MIN 512
int synth_special_id(int n_vocab, int published);

/* Appends a tokenizer.json with the 256 byte tokens and the special ones, no merges. */
bool synth_tokenizer(struct buf *out, int n_vocab);

#endif
