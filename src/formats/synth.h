/* synth.h - random checkpoints: to disk in Hugging Face layout, or in memory, so that speed can be measured without
 * downloading weights and tests have something to load. */
#ifndef MOXIE_FORMATS_SYNTH_H
#define MOXIE_FORMATS_SYNTH_H

#include "base/dummy.h"
#include "formats/config.h"
#include "formats/safetensors.h"

/* Fills n_bytes of one tensor: a function of (seed, name, position) alone.  bf16: normal-like, scaled so that activations
 * stay finite; norms around 1; MXFP4 codes uniform, scales such that rows have variance about 1/K; sinks and biases small. */
void synth_fill(const struct tensor_want *t, uint64_t seed, uint8_t *p, uint64_t n_bytes);

/* Writes config.json, generation_config.json, model*.safetensors (+ index, 5 GB shards) and, for configs whose vocab is at
 * least 512, a byte-level tokenizer.json.  Refuses a directory that already holds a checkpoint.  Streams: peak memory is
 * one block.  A failure removes the files it began. */
int synth_write(const char *config_json, const char *dir, uint64_t seed, int n_thread,
                int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud, struct moxie_err *err);

/* How another processor makes the same bytes; at is the caller's.
 *   MOXIE_E_UNSUPPORTED  a tensor of 2^32 or more elements: its key changes on the way */
int synth_rule(const struct tensor_want *t, uint64_t seed, struct dummy_rule *rule, struct moxie_err *err);

/* An open checkpoint whose tensors have names, shapes and addresses, but read as zeros and take no memory. */
int synth_shape(struct safetensors **out, const struct model_config *c, struct moxie_err *err);

/* The same tensors in anonymous memory, as an open checkpoint. */
int synth_open(struct safetensors **out, const struct model_config *c, uint64_t seed, int n_thread,
               int (*progress)(void *ud, uint64_t done, uint64_t all), void *ud, struct moxie_err *err);

#endif
